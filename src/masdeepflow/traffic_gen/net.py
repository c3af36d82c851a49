"""Sockets for every command: connect, listen, stop on a signal, and say in one sentence what failed."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import socketserver
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Handle", "Server", "TrafficError", "connect", "endpoint", "serve", "stop_on_signals"]

CONNECT_TIMEOUT_S = 10.0
"""Seconds a connection attempt may take."""

Handle: TypeAlias = "Callable[[socket.socket, Any, Server], object]"
"""Serves one accepted connection: ``(socket, peer address, server)``; the caller closes the socket."""


class TrafficError(Exception):
    """What failed, why, and what to try next: one sentence for the user."""


def endpoint(host: str, port: int) -> str:
    """Write ``host:port``, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(host: str, port: int) -> socket.socket:
    """Open a TCP connection without Nagle's delay.

    The socket keeps ``CONNECT_TIMEOUT_S`` as its timeout; the caller changes it to taste.

    Raises:
        TrafficError: nothing listens there, no route, no such name, or no answer in time.

    """
    try:
        sock = socket.create_connection((host, port), CONNECT_TIMEOUT_S)
    except UnicodeError as error:
        raise TrafficError(_no_such_host(host, error)) from error
    except OSError as error:
        raise TrafficError(_why_not_connected(host, port, error)) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _why_not_connected(host: str, port: int, error: OSError) -> str:
    where = endpoint(host, port)
    if isinstance(error, ConnectionRefusedError):
        return f"Connection to {where} refused: start a server there or correct --host and --port."
    if isinstance(error, TimeoutError):
        return f"No answer from {where} in {CONNECT_TIMEOUT_S:.0f} s: check the route or change --host."
    if isinstance(error, socket.gaierror):
        return _no_such_host(host, error)
    return f"Cannot connect to {where} ({error.strerror or error}): check the route or change --host."


def _no_such_host(host: str, error: OSError | UnicodeError) -> str:
    why = error.strerror if isinstance(error, OSError) else "not a host name"
    return f"Host {host!r} does not resolve ({why}): correct --host or use an IP address."


class Server(socketserver.ThreadingTCPServer):
    """A TCP server that runs ``handle`` in a daemon thread for each connection.

    Raises:
        TrafficError: the address cannot be bound.

    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handle: Handle) -> None:
        """Bind and listen; port 0 takes a free one, see ``endpoint``."""
        self._handle = handle
        try:
            found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family, *_, address = found
            super().__init__(address, socketserver.BaseRequestHandler)
        except UnicodeError as error:
            raise TrafficError(_no_such_host(host, error)) from error
        except OSError as error:
            raise TrafficError(_why_not_listening(host, port, error)) from error

    @property
    def endpoint(self) -> str:
        """``host:port`` as bound."""
        host, port = self.socket.getsockname()[:2]
        return endpoint(host, port)

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's types
        """Serve one connection."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handle(request, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - socketserver's types
        """Tell of a broken conversation in one line; a peer that went away is no news."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            click.echo(f"Closed the connection from {endpoint(*client_address[:2])}: {error}", err=True)


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    where = endpoint(host, port)
    if isinstance(error, socket.gaierror):
        return _no_such_host(host, error)
    if error.errno == errno.EADDRINUSE:
        return f"{where} is already in use: stop the server that holds it or choose another --port."
    if error.errno == errno.EACCES:
        return (
            f"No permission to listen on {where}: grant CAP_NET_BIND_SERVICE or choose a --port above 1023."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another --host."
    return f"Cannot listen on {where} ({error.strerror or error}): choose another --host or --port."


def serve(name: str, host: str, port: int, handle: Handle) -> None:
    """Say where ``name`` listens and serve until SIGINT or SIGTERM.

    Raises:
        TrafficError: the address cannot be bound.

    """
    with contextlib.suppress(KeyboardInterrupt):
        stop_on_signals()
        with Server(host, port, handle) as server:
            click.echo(f"{name} listening on {server.endpoint}")
            server.serve_forever()


def stop_on_signals() -> None:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt and ignore later ones.

    SIGINT is set too because a shell starts background jobs with it ignored.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
