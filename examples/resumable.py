"""A map that is cut short and goes on: ``pxcluster run resumable.py results.jsonl [items]``.

Each result is a line of the file as soon as it is there, and a start computes what the file does not have. SIGUSR2 ends
the program with code 75: call me again. ``slurm/templates/requeue.sbatch`` does.
"""

import json
import signal
import sys
from pathlib import Path

import pxcluster as ipp

AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def work(item: int) -> tuple[int, int]:
    """Yours: the item, by which the file knows it, and its result."""
    return item, item * item


def read_finished(path: Path) -> dict[int, int]:
    """Results of earlier starts. A line that is not whole, because the power went, does not count."""
    finished = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            item, result = json.loads(line)
        except ValueError:
            continue
        finished[item] = result
    return finished


def main() -> None:
    """Computes what is missing, and prints how much that was."""
    path, items = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(AGAIN))
    finished = read_finished(path)
    missing = [item for item in range(items) if item not in finished]
    print(f"{len(finished)} items are finished, {len(missing)} are missing", flush=True)
    results = ipp.Client().load_balanced_view().map_async(work, missing, ordered=False)
    with path.open("a") as file:
        for item, result in results:
            file.write(f"\n{json.dumps([item, result])}")  # the newline first: it ends a line that is not whole
            file.flush()
            finished[item] = result
    print(f"all {items} items are finished, their sum is {sum(finished.values())}")


if __name__ == "__main__":
    main()
