"""A second client that pushes a large array to some engines while the first one measures.

Says `ready`, waits for the end of its input, and then prints for each push a list: when it began and when it had ended,
by the clock that all processes share.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from data import sums_of
from payload import check_sums, make_array
from session import CLUSTERS, connect

SIZE = 1_000_000_000
PUSHES = 3
#: No push begins after so many seconds of pushing.
BUDGET = 4.0


def main() -> None:
    """Pushes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=CLUSTERS, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--first", type=int, required=True, help="the first of the engines that receive")
    options = parser.parse_args()
    cluster = CLUSTERS[options.system]
    client = connect(
        importlib.import_module(cluster.module), cluster.connection_file(options.directory), options.engines
    )
    view = client[options.first :]
    sums = sums_of(view, "big")
    array = make_array(SIZE)
    view.execute("import numpy", block=True)
    print("ready", flush=True)
    sys.stdin.read()
    spent = 0.0
    for number in range(PUSHES):
        if spent > BUDGET:
            break
        array[0] = number
        begin = time.perf_counter()
        view.push({"big": array}, block=True)
        end = time.perf_counter()
        print(json.dumps([begin, end]), flush=True)
        spent += end - begin
        check_sums(sums(None), number, options.engines - options.first, SIZE)
    view.execute("del big", block=True)
    client.close()


if __name__ == "__main__":
    main()
