from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from time import monotonic

import pytest
from fake_controller import FakeController
from pxcluster import dialing
from test_connection import certificate


@pytest.fixture
def nowhere():
    """Addresses that say nothing, as behind a firewall: the queue of who waits there is full."""
    with ExitStack() as open_sockets:
        addresses = []
        for _ in range(2):
            listener = open_sockets.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(3):
                one = open_sockets.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            addresses.append("{}:{}".format(*listener.getsockname()))
        yield addresses


@pytest.fixture
def controller(tmp_path):
    """Its address and its certificate."""
    key, pem = certificate(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    fake = FakeController(None, tls=context)
    yield f"127.0.0.1:{fake.listener.getsockname()[1]}", pem.read_text()
    fake.close()


def test_addresses_that_lead_nowhere_do_not_use_up_the_time(nowhere, controller):
    address, pem = controller
    begun = monotonic()
    channel = dialing.dial([*nowhere, address], pem, 60)
    assert monotonic() - begun < 30  # one after the other they would take 20 each
    assert channel.fileno() > 0
    channel.close()


def test_somebody_else_who_listens_is_passed_over(tmp_path, controller):
    address, pem = controller
    key, other = certificate(tmp_path, "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other, key)
    stranger = FakeController(None, tls=context)
    theirs = f"127.0.0.1:{stranger.listener.getsockname()[1]}"
    dialing.dial([theirs, "127.0.0.1:1", address], pem, 60).close()
    with pytest.raises(dialing.NoAnswer) as raised:
        dialing.dial([theirs], pem, 60)
    assert list(raised.value.problems) == [theirs]
    assert not raised.value.refused
    stranger.close()


def test_what_each_address_said_is_told(nowhere):
    wrong = ["127.0.0.1:1", "no port", "127.0.0.1:x", nowhere[0]]
    with pytest.raises(dialing.NoAnswer) as raised:
        dialing.dial(wrong, "", 0.5)
    assert list(raised.value.problems) == wrong
    assert raised.value.problems["127.0.0.1:1"] == "Connection refused"
    assert raised.value.problems[nowhere[0]] == "no answer within 0.5 seconds"
    assert not raised.value.refused
    for addresses, refused in ((["127.0.0.1:1"], True), ([], False)):
        with pytest.raises(dialing.NoAnswer) as raised:
            dialing.dial(addresses, "", 60)
        assert raised.value.refused == refused


def test_who_hears_nothing_doubts_once(nowhere, monkeypatch):
    monkeypatch.setattr(dialing, "_DOUBT", 0.05)
    asked = []
    with pytest.raises(dialing.NoAnswer):
        dialing.dial(nowhere, "", 0.5, lambda: asked.append(1))
    assert asked == [1]

    def over():
        raise ConnectionRefusedError("its job is over")

    with pytest.raises(ConnectionRefusedError, match="its job is over"):
        dialing.dial(nowhere, "", 600, over)
