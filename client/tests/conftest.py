from __future__ import annotations

import signal

import pxcluster
import pytest
from fake_controller import FakeController
from support import info_of

# A script that runs the tests in the background makes them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def controller(tmp_path):
    fake = FakeController(tmp_path / "socket")
    yield fake
    fake.close()
    assert fake.errors == []


@pytest.fixture
def rc(controller, tmp_path):
    with pxcluster.Client(info_of(tmp_path / "socket")) as client:
        yield client


@pytest.fixture
def dv(rc):
    return rc[:]


@pytest.fixture
def lbv(rc):
    return rc.load_balanced_view()
