"""Connecting, listening and the sentences for what goes wrong."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.traffic_gen import net

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from masdeepflow.traffic_gen.net import Handle


@pytest.fixture
def free_port() -> Iterator[int]:
    """Hold a port bound without listening, so that connecting to it is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Put the signal handlers back that a test changes."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, action in zip(numbers, before, strict=True):
        signal.signal(number, action)


def test_endpoint_brackets_ipv6() -> None:
    """The colon before the port can be told from those of an IPv6 address."""
    assert net.endpoint("127.0.0.1", 80) == "127.0.0.1:80"
    assert net.endpoint("::1", 80) == "[::1]:80"


def test_connect_refused(free_port: int) -> None:
    """A refused connection names the address and the options that change it."""
    with pytest.raises(net.TrafficError, match=rf"127\.0\.0\.1:{free_port} refused: .*--host and --port"):
        net.connect("127.0.0.1", free_port)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "empty..label", "x" * 64 + ".invalid"])
def test_connect_unknown_host(host: str) -> None:
    """A name that does not resolve, or cannot be one, is a sentence and not a codec error."""
    with pytest.raises(net.TrafficError, match="does not resolve"):
        net.connect(host, 80)


def test_listen_on_busy_port(serve: Callable[[Handle], int]) -> None:
    """A busy port is named, with the option that changes it."""
    port = serve(lambda *_: None)
    with pytest.raises(net.TrafficError, match=rf"127\.0\.0\.1:{port} is already in use: .*--port"):
        net.Server("127.0.0.1", port, lambda *_: None)


@pytest.mark.parametrize("host", ["192.0.2.1", "empty..label", "no-such-host.invalid"])
def test_listen_on_foreign_address(host: str) -> None:
    """Only an address of this machine can be listened on, and --host is named as the remedy."""
    with pytest.raises(net.TrafficError, match="--host"):
        net.Server(host, 0, lambda *_: None)


def test_one_broken_conversation_leaves_the_server_up(
    serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception in a handler closes that connection, prints one line, and the next one is served."""

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        if sock.recv(1) == b"x":
            raise net.TrafficError(_WHY)
        sock.sendall(b"fine")

    port = serve(handle)
    assert _ask(port, b"x") == b""
    assert _ask(port, b"y") == b"fine"
    error = capsys.readouterr().err
    assert error.startswith("Closed the connection from 127.0.0.1:")
    assert error.endswith(f": {_WHY}\n")
    assert error.count("\n") == 1


def test_a_peer_that_goes_away_is_no_news(
    serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection reset by the client prints nothing."""

    def handle(_sock: object, _address: object, _server: object) -> None:
        raise ConnectionResetError

    assert _ask(serve(handle), b"x") == b""
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("signal_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_the_first_signal_interrupts(number: signal.Signals) -> None:
    """Later signals cannot break into what the first one started."""
    net.stop_on_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)


_WHY = "it said x."


def _ask(port: int, question: bytes) -> bytes:
    with net.connect("127.0.0.1", port) as sock:
        sock.sendall(question)
        return sock.recv(16)
