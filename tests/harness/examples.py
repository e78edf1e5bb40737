"""Runs the examples of a page of documentation as a program of its own: ``python examples.py PAGE``."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path

import __main__

FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def run(page: Path) -> doctest.TestResults:
    """The results of a page's examples; what is wrong is printed."""
    text = re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, __main__.__dict__, page.name, str(page), 0)
    return doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(examples)


if __name__ == "__main__":
    failed, attempted = run(Path(sys.argv[1]))
    print(f"{attempted} examples, {failed} failed")
    sys.exit(failed > 0)
