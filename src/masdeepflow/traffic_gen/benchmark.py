"""Raw TCP throughput and round-trip time: a sink that can echo, and the client that loads it.

A connection is a one-way stream to be discarded, unless it opens with this hello::

    0         4         8
    | F5 TGR  | size BE |

The server answers the hello with itself, then echoes each message of ``size`` bytes once it is whole. Without
that rule a message larger than both socket buffers would block both sides in send.
"""

from __future__ import annotations

import socket
import struct
import time

import click

from masdeepflow.traffic_gen import net
from masdeepflow.traffic_gen.measure import Latencies, repeat_for

__all__ = ["MAX_SIZE", "Flood", "PingPong", "handle", "run_flood", "run_ping_pong", "run_server"]

MAX_SIZE = 16 * 1024 * 1024
"""Largest write or message in bytes: the server sets the buffer aside on the client's word."""

_MAGIC = b"\xf5TGR"
_HELLO = struct.Struct(">4sI")
_SINK_BUFFER = 256 * 1024
_SEND_TIMEOUT_S = 0.2
_ECHO_TIMEOUT_S = 10.0
_STEP_NS = 10_000_000


def run_server(host: str, port: int) -> None:
    """Discard or echo until a signal.

    Raises:
        TrafficError: the address cannot be bound.

    """
    net.serve("Benchmark server", host, port, handle)


def handle(sock: socket.socket, _address: object, _server: object) -> None:
    """Serve one connection as echo or as sink, as its first bytes ask.

    Raises:
        TrafficError: the hello asks for an impossible message size.

    """
    hello = _read_hello(sock)
    if len(hello) == _HELLO.size and hello.startswith(_MAGIC):
        _echo(sock, hello)
    else:
        _discard(sock)


def _read_hello(sock: socket.socket) -> bytes:
    hello = b""
    while len(hello) < _HELLO.size and hello[: len(_MAGIC)] == _MAGIC[: len(hello)]:
        data = sock.recv(_HELLO.size - len(hello))
        if not data:
            break
        hello += data
    return hello


def _echo(sock: socket.socket, hello: bytes) -> None:
    size = _HELLO.unpack(hello)[1]
    if not 1 <= size <= MAX_SIZE:
        raise net.TrafficError(_bad_size(size))
    message = memoryview(bytearray(size))
    sock.sendall(hello)
    # Each operation here is part of every latency that the client measures.
    receive, send = sock.recv_into, sock.send
    while (got := receive(message)) == size or _read_rest(sock, message, got):
        if (sent := send(message)) != size:
            sock.sendall(message[sent:])


def _discard(sock: socket.socket) -> None:
    buffer = bytearray(_SINK_BUFFER)
    while sock.recv_into(buffer):
        pass


def _read_rest(sock: socket.socket, view: memoryview, got: int) -> bool:
    """Fill ``view``, which has ``got`` bytes of it; false at the end of the stream.

    A loop and not MSG_WAITALL: a socket in a BPF sockmap does not honour that flag.
    """
    while 0 < got < len(view):
        count = sock.recv_into(view[got:])
        if not count:
            return False
        got += count
    return got > 0


class Flood:
    """Sends writes of one size over a connection and counts what the socket took."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        """Take ``sock`` over; ``size`` is the bytes of a write."""
        _set_timeout(sock, _SEND_TIMEOUT_S)
        self._sock = sock
        self._where = net.endpoint(*sock.getpeername()[:2])
        self._payload = bytes(size)
        self._reported = 0
        self.sent = 0

    def step(self) -> None:
        """Make one write; a sink that does not read makes it count nothing after 0.2 s.

        Raises:
            TrafficError: the connection broke.

        """
        try:
            self.sent += self._sock.send(self._payload)
        except BlockingIOError:
            return
        except OSError as error:
            raise net.TrafficError(_broken(self._where)) from error

    def progress(self, second: int) -> None:
        """Print the speed since the last call."""
        click.echo(f"{second} s: {(self.sent - self._reported) / 1e6:.2f} MB/s", err=True)
        self._reported = self.sent

    def result(self, elapsed_s: float) -> str:
        """Sum up; 1 MB is 10^6 bytes."""
        return f"Sent {self.sent} bytes. Speed: {self.sent / 1e6 / max(elapsed_s, 1e-9):.2f} MB/s"


class PingPong:
    """Sends messages of one size over a connection, each after the echo of the one before."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        """Take ``sock`` over and agree on messages of ``size`` bytes.

        Raises:
            TrafficError: the other side is no benchmark server.

        """
        _set_timeout(sock, _ECHO_TIMEOUT_S)
        self._sock = sock
        self._where = net.endpoint(*sock.getpeername()[:2])
        self._message = bytes(size)
        self._echo = memoryview(bytearray(size))
        self.latencies = Latencies()
        self._agree(size)

    def _agree(self, size: int) -> None:
        hello = _HELLO.pack(_MAGIC, size)
        answer = memoryview(bytearray(len(hello)))
        try:
            self._sock.sendall(hello)
            agreed = _read_rest(self._sock, answer, self._sock.recv_into(answer)) and answer == hello
        except OSError:
            agreed = False
        if not agreed:
            raise net.TrafficError(_NO_ECHO)

    def step(self) -> None:
        """Make round trips for 10 ms, at least one.

        Raises:
            TrafficError: the connection broke, or no echo came in 10 s.

        """
        took: list[int] = []
        try:
            whole = self._round_trips(took)
        except OSError as error:
            raise net.TrafficError(_broken(self._where)) from error
        finally:
            self.latencies.add_all(took)
        if not whole:
            raise net.TrafficError(_broken(self._where))

    def _round_trips(self, took: list[int]) -> bool:
        """Add what each took in ns; return false when the stream ended.

        Between the readings of the clock there is nothing but the two calls and their tests.
        """
        clock, send, receive, sock = time.perf_counter_ns, self._sock.send, self._sock.recv_into, self._sock
        message, echo, size = self._message, self._echo, len(self._message)
        start = clock()
        end = start + _STEP_NS
        while start < end:
            if (sent := send(message)) != size:
                sock.sendall(message[sent:])
            if (got := receive(echo)) != size and not _read_rest(sock, echo, got):
                return False
            now = clock()
            took.append(now - start)
            start = clock()
        return True

    def progress(self, second: int) -> None:
        """Print the round trips so far."""
        click.echo(f"{second} s: {len(self.latencies)} round trips", err=True)

    def result(self) -> str:
        """Sum up in us."""
        p50, p90, p99 = (self.latencies.percentile_us(percent) for percent in (50, 90, 99))
        return (
            f"{len(self.latencies)} round trips of {len(self._message)} bytes. "
            f"p50 {p50:.1f} us, p90 {p90:.1f} us, p99 {p99:.1f} us, max {self.latencies.max_us():.1f} us"
        )


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    """Let the kernel bound send and receive: Python's own timeout would add a poll() to each call."""
    sock.settimeout(None)
    timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, timeval)


def run_flood(host: str, port: int, size: int, duration_s: float) -> None:
    """Send writes of ``size`` bytes for ``duration_s`` seconds and print bytes and speed.

    Raises:
        TrafficError: no connection, or it broke.

    """
    with net.connect(host, port) as sock:
        flood = Flood(sock, size)
        elapsed = repeat_for(duration_s, flood.step, flood.progress)
    click.echo(flood.result(elapsed))


def run_ping_pong(host: str, port: int, size: int, duration_s: float) -> None:
    """Exchange messages of ``size`` bytes for ``duration_s`` seconds and print percentiles.

    Raises:
        TrafficError: no connection, no benchmark server behind it, or it broke.

    """
    with net.connect(host, port) as sock:
        ping_pong = PingPong(sock, size)
        repeat_for(duration_s, ping_pong.step, ping_pong.progress)
    click.echo(ping_pong.result())


_NO_ECHO = (
    "The server did not agree to echo: --rtt needs `traffic_gen benchmark-server` on the other side; "
    "start it or correct --host and --port."
)


def _bad_size(size: int) -> str:
    return f"it asked to echo messages of {size} bytes, allowed are 1 to {MAX_SIZE}."


def _broken(where: str) -> str:
    return (
        f"{where} broke the connection or stopped answering: check that the server still runs and try again."
    )
