"""The benchmark server as sink and echo, and both clients."""

from __future__ import annotations

import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from masdeepflow.traffic_gen import benchmark, net

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.traffic_gen.net import Handle

_HELLO_3 = b"\xf5TGR\0\0\0\x03"


def test_sink_reads_everything_and_stays_silent(serve: Callable[[Handle], int]) -> None:
    """Any stream without the hello is taken to its end, and nothing comes back."""
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock:
        sock.sendall(bytes(32 * 1024 * 1024))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    "start", [b"", b"\xf5", b"\xf5TG", b"\xf5TGX\0\0\0\x03", _HELLO_3[:7], b"GET / HTTP/1.1"]
)
def test_part_of_the_hello_is_no_hello(serve: Callable[[Handle], int], start: bytes) -> None:
    """Only the whole hello turns a connection into an echo."""
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock:
        sock.sendall(start)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_echo_however_it_is_split(serve: Callable[[Handle], int]) -> None:
    """Hello and messages may come byte by byte or joined; each message comes back whole."""
    stream = _HELLO_3 + b"abcdef"
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock, sock.makefile("rb") as answers:
        for byte in stream:
            sock.sendall(bytes([byte]))
        assert answers.read(len(stream)) == stream
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock, sock.makefile("rb") as answers:
        sock.sendall(stream)
        assert answers.read(len(stream)) == stream


@pytest.mark.parametrize("size", [0, benchmark.MAX_SIZE + 1])
def test_impossible_message_sizes_are_refused(serve: Callable[[Handle], int], size: int) -> None:
    """A hello cannot make the server set aside more than MAX_SIZE, nor nothing."""
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock:
        sock.sendall(b"\xf5TGR" + size.to_bytes(4, "big"))
        assert sock.recv(1) == b""


def test_flood_counts_what_the_server_got(capsys: pytest.CaptureFixture[str]) -> None:
    """The bytes on the last line are those that arrived, and its form is fixed."""
    received = []

    def sink(listener: socket.socket) -> None:
        sock = listener.accept()[0]
        with sock:
            while data := sock.recv(1 << 20):
                received.append(len(data))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=sink, args=(listener,))
        thread.start()
        benchmark.run_flood("127.0.0.1", listener.getsockname()[1], 1000, 0.1)
        thread.join()
    line = capsys.readouterr().out
    match = re.fullmatch(r"Sent (\d+) bytes\. Speed: \d+\.\d\d MB/s\n", line)
    assert match
    assert int(match[1]) == sum(received) > 0


def test_flood_speed_is_in_millions_of_bytes(serve: Callable[[Handle], int]) -> None:
    """1 MB is 10^6 bytes."""
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock:
        flood = benchmark.Flood(sock, 4000)
        flood.step()
        assert flood.result(2.0) == "Sent 4000 bytes. Speed: 0.00 MB/s"
        flood.sent = 5_000_000
        assert flood.result(2.0) == "Sent 5000000 bytes. Speed: 2.50 MB/s"


def test_flood_ends_although_the_sink_stalls(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that accepts and never reads cannot hold the client past its duration."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        benchmark.run_flood("127.0.0.1", listener.getsockname()[1], 1 << 20, 0.3)
    assert capsys.readouterr().out.startswith("Sent ")


def test_flood_reports_progress_since_the_last(
    serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of progress is the speed of that second alone."""
    with net.connect("127.0.0.1", serve(benchmark.handle)) as sock:
        flood = benchmark.Flood(sock, 1)
        flood.sent = 3_000_000
        flood.progress(1)
        flood.sent = 4_000_000
        flood.progress(2)
    assert capsys.readouterr().err == "1 s: 3.00 MB/s\n2 s: 1.00 MB/s\n"


def test_flood_says_when_the_server_goes_away(serve: Callable[[Handle], int]) -> None:
    """A connection that breaks is a sentence, not a traceback."""
    port = serve(lambda *_: None)
    with pytest.raises(net.TrafficError, match=rf"127\.0\.0\.1:{port} broke the connection"):
        benchmark.run_flood("127.0.0.1", port, 65536, 30)


@pytest.mark.parametrize("size", [1, 64, benchmark.MAX_SIZE])
def test_ping_pong(serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str], size: int) -> None:
    """Messages larger than the socket buffers come back too, and percentiles are in ascending order."""
    benchmark.run_ping_pong("127.0.0.1", serve(benchmark.handle), size, 0.05)
    line = capsys.readouterr().out
    number = r"(\d+\.\d) us"
    match = re.fullmatch(
        rf"\d+ round trips of {size} bytes\. p50 {number}, p90 {number}, p99 {number}, max {number}\n", line
    )
    assert match
    values = [float(value) for value in match.groups()]
    assert values == sorted(values)
    assert values[0] > 0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", _HELLO_3])
def test_ping_pong_needs_the_benchmark_server(serve: Callable[[Handle], int], answer: bytes) -> None:
    """A server that does not return the hello is told from one that does before anything is measured."""

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        sock.recv(8)
        sock.sendall(answer)

    with pytest.raises(net.TrafficError, match="did not agree to echo: --rtt needs"):
        benchmark.run_ping_pong("127.0.0.1", serve(handle), 64, 30)


def test_ping_pong_says_when_the_server_goes_away(serve: Callable[[Handle], int]) -> None:
    """A connection that ends during the measurement is a sentence."""

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        sock.sendall(sock.recv(8))
        sock.recv(64)

    with pytest.raises(net.TrafficError, match="broke the connection"):
        benchmark.run_ping_pong("127.0.0.1", serve(handle), 64, 30)
