"""A small HTTP/1.1 server and client.

The parsing is the standard library's; here are the delay, the counting and the words for the user.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from masdeepflow.traffic_gen import net
from masdeepflow.traffic_gen.measure import EverySecond, Latencies

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Client", "Result", "handler", "run_client", "run_server"]

ANSWER_TIMEOUT_S = 60.0
"""Seconds the client waits for each part of an answer."""

LISTED_REQUESTS = 10
"""Runs up to this long print each status line; longer ones print progress."""

_DRAIN_BYTES = 65536
_LINE_BYTES = 65536
_PATH_SAFE = "!#$%&'()*+,/:;=?@[]~"
"""What RFC 3986 section 2.2 reserves and ``%`` stay as typed; anything else is percent-encoded."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered, so that headers and body leave in one segment.
    wbufsize = -1

    def __init__(self, *args: Any, delay_s: float) -> None:  # noqa: ANN401 - socketserver's triple, handed on
        self._delay_s = delay_s
        super().__init__(*args)

    def version_string(self) -> str:
        return "traffic_gen"

    def _answer(self) -> None:
        try:
            self._drain_body()
        except ValueError:
            self.close_connection = True
            self.send_error(http.HTTPStatus.BAD_REQUEST, "Body length is no number")
            return
        if self._delay_s:
            time.sleep(self._delay_s)
        self._send(f"{self.command} {self.path}\n".encode("latin-1"))

    # The parent looks the method up by these names.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815  # http.server calls them so

    def _send(self, body: bytes) -> None:
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drain_body(self) -> None:
        """Read the request body away, else its bytes would be taken for the next request.

        Raises:
            ValueError: its length or that of a chunk is no number.

        """
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            self._drain(int(self.headers.get("Content-Length", "0")))
            return
        while size := int(self.rfile.readline(_LINE_BYTES).partition(b";")[0], 16):
            self._drain(size + len(b"\r\n"))
        # Trailer fields, RFC 9112 section 7.1.2.
        while self.rfile.readline(_LINE_BYTES).strip():
            pass

    def _drain(self, left: int) -> None:
        while left > 0 and (data := self.rfile.read(min(left, _DRAIN_BYTES))):
            left -= len(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the parent's signature
        """Stay quiet: the agent is the one to report requests."""


def handler(delay_s: float = 0.0) -> net.Handle:
    """Answer each request with 200 and its method and path as text, ``delay_s`` seconds after it was read."""
    return functools.partial(_Handler, delay_s=delay_s)


def run_server(host: str, port: int, delay_s: float) -> None:
    """Serve HTTP until a signal.

    Raises:
        TrafficError: the address cannot be bound.

    """
    net.serve("HTTP server", host, port, handler(delay_s))


class Result:
    """What a run of requests gave: count by status, and latencies."""

    def __init__(self) -> None:
        """Start empty."""
        self.statuses: Counter[str] = Counter()
        self.latencies = Latencies()

    def add(self, status: str, latency_ns: int) -> None:
        """Count one answered request."""
        self.statuses[status] += 1
        self.latencies.add(latency_ns)

    def summary(self, elapsed_s: float) -> str:
        """Sum the run up in one line; ``elapsed_s`` is its length in seconds."""
        count = len(self.latencies)
        statuses = ", ".join(f"{number} x {status}" for status, number in self.statuses.most_common())
        p50, p99 = (self.latencies.percentile_us(percent) / 1000 for percent in (50, 99))
        rate = count / max(elapsed_s, 1e-9)
        return (
            f"{count} requests in {elapsed_s:.2f} s ({rate:.1f}/s): {statuses or 'none'}; "
            f"latency p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        )


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = net.connect(self.host, self.port)
        self.sock.settimeout(ANSWER_TIMEOUT_S)


class Client:
    """Sends GET requests for one URL, over one connection with ``keepalive`` or else over one each."""

    def __init__(self, host: str, port: int, path: str, *, keepalive: bool = False) -> None:
        """Prepare; the first ``get`` connects."""
        self._path = quote(path, safe=_PATH_SAFE, errors="surrogateescape")
        self._headers = {"User-Agent": "traffic_gen", "Connection": "keep-alive" if keepalive else "close"}
        self._where = net.endpoint(host, port)
        self._connection = _Connection(host, port)

    def get(self) -> tuple[str, int, int]:
        """Send one request and read the whole answer.

        Returns the status line, the bytes of the body, and the latency in ns, a new connection included.

        Raises:
            TrafficError: no connection, or no HTTP answer on it.

        """
        start = time.perf_counter_ns()
        try:
            status, size = self._exchange()
        except TimeoutError as error:
            self.close()
            raise net.TrafficError(_no_answer(self._where)) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise net.TrafficError(_bad_answer(self._where, error)) from error
        return status, size, time.perf_counter_ns() - start

    def close(self) -> None:
        """Close the connection, if one is open."""
        self._connection.close()

    def _exchange(self) -> tuple[str, int]:
        self._connection.request("GET", self._path, headers=self._headers)
        with self._connection.getresponse() as response:
            size = 0
            while data := response.read(_DRAIN_BYTES):
                size += len(data)
            # read() of a known length does not tell when the server closed before it.
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        version = "HTTP/1.0" if response.version == 10 else "HTTP/1.1"  # noqa: PLR2004 - http.client's code for 1.0
        return f"{version} {response.status} {response.reason}".rstrip(), size


def _no_answer(where: str) -> str:
    return f"{where} gave no HTTP answer in {ANSWER_TIMEOUT_S:.0f} s: check the server or change --port."


def _bad_answer(where: str, error: Exception) -> str:
    why = str(error) or type(error).__name__
    return f"{where} gave no complete HTTP answer ({why}): check what listens there or change --port."


def run_client(client: Client, count: int) -> None:
    """Send ``count`` requests and print what came back; SIGINT ends the run early.

    Raises:
        TrafficError: a request got no answer.

    """
    result = Result()
    start = time.monotonic()
    with contextlib.closing(client), contextlib.suppress(KeyboardInterrupt):
        for status, size, latency_ns in _with_progress(client, count):
            result.add(status, latency_ns)
            if count <= LISTED_REQUESTS:
                click.echo(f"{status}, {size} bytes, {latency_ns / 1e6:.2f} ms")
    if count > 1:
        click.echo(result.summary(time.monotonic() - start))


def _with_progress(client: Client, count: int) -> Iterator[tuple[str, int, int]]:
    clock = EverySecond(time.monotonic())
    for done in range(count):
        if second := clock.due(time.monotonic()):
            click.echo(f"{second} s: {done} of {count} requests", err=True)
        yield client.get()
