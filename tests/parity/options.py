"""Which packages the suite runs against: an option of pytest, and a line in its header that says what was chosen."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

PEERS = ("pxcluster", "ipyparallel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--peer", choices=PEERS, help="run tests/parity against this package only (default: both)")


def pytest_report_header(config: pytest.Config) -> str:
    peers, reason = chosen_peers(config)
    return f"parity: {' and '.join(peers)}{f' ({reason})' if reason else ''}"


def chosen_peers(config: pytest.Config) -> tuple[list[str], str]:
    """The packages to test, and why one is left out."""
    peer = config.getoption("--peer")
    if peer is not None:
        return [peer], "as --peer says"
    try:
        version("ipyparallel")
    except PackageNotFoundError:
        return ["pxcluster"], "ipyparallel is not installed: pip install -r scripts/lib/requirements-dev.txt"
    return list(PEERS), ""
