"""The agent's HTTP server: small WSGI applications by path, on a thread of their own."""

from __future__ import annotations

import hmac
import http
import ipaddress
import json
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from prometheus_client import make_wsgi_app
from waitress.server import create_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

__all__ = ["HttpServer", "health_app", "metrics_app", "parse_address"]

STALLED_S = 5.0
_PORT_MOST = 65535
_THREADS = 2
_POLL_S = 10.0
_PUBLIC = "/healthz"
"""Open without a token: probes have none, and it tells nothing but whether the agent lives."""
_JSON = "application/json"


def parse_address(address: str) -> tuple[str, int]:
    """Split `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (all addresses).

    Raises:
        ValueError: it is something else.

    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > _PORT_MOST or (":" in bare and bare == host):
        raise ValueError(
            f"cannot listen on {address!r}: give HOST:PORT, such as 127.0.0.1:9419 or [::1]:9419"
        )
    return bare, int(port)


class HttpServer:
    """Serves `routes` from construction until `close`.

    routes: path -> WSGI application; `/api/*` takes all that starts with `/api/`, the longest match wins.
    token: when given, requests need the header `Authorization: Bearer TOKEN`; `/healthz` does not.
    insecure: allow an address that others can reach without a token. port: 0 picks a free one.

    Raises:
        ValueError: the address can be reached by others, and there is neither a token nor `insecure`.
        OSError: the address cannot be bound; its text says which and why.

    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, WSGIApplication],
        *,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        if not (token or insecure or _is_loopback(host)):
            raise ValueError(
                f"refusing to listen on {_shown(host, port)}, which others can reach: "
                "set a token, or allow it with --insecure-listen"
            )
        bound = _bind(host, port)
        self.host, self.port = bound.getsockname()[:2]
        app = _Router(routes)
        self._stopping = False
        self._sockets: dict[int, Any] = {}
        self._server: Any = create_server(
            _Guard(app, token) if token else app,
            map=self._sockets,
            sockets=[bound],
            threads=_THREADS,
            ident=None,
            connection_limit=64,
            channel_timeout=30,
            max_request_header_size=16 * 1024,
            max_request_body_size=64 * 1024,
        )
        # It warns whenever a request waits for a thread, which is no news to who reads standard error.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._thread = threading.Thread(target=self._run, name="http-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what is being answered, stop listening, drop connections, and wait for the threads."""
        # In this order, as whoever is left writes to descriptors that may be somebody else's once closed.
        self._server.task_dispatcher.shutdown()
        self._stopping = True
        self._server.pull_trigger()
        self._thread.join()
        for channel in list(self._sockets.values()):
            channel.close()

    def _run(self) -> None:
        while not self._stopping:
            self._server.asyncore.loop(timeout=_POLL_S, map=self._sockets, use_poll=True, count=1)


def metrics_app(registry: CollectorRegistry) -> WSGIApplication:
    """Return what serves `/metrics`: Prometheus text, or OpenMetrics when the scraper accepts it."""
    # Compressing costs more than the loopback interface does.
    app: WSGIApplication = make_wsgi_app(registry, disable_compression=True)
    return app


def _no_problems() -> dict[str, str]:
    return {}


def health_app(
    idle_s: Callable[[], float], problems: Callable[[], Mapping[str, str]] = _no_problems
) -> WSGIApplication:
    """Return what serves `/healthz`: 200 while the reader polls, 503 when it has not for 5 s.

    idle_s: seconds since the reader last polled. problems: who does not answer -> why; names go missing then,
    but no record, so the agent is well all the same.
    """

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        idle = idle_s()
        alive = idle < STALLED_S
        body: dict[str, object] = {
            "status": "ok" if alive else "stalled",
            "seconds_since_poll": round(idle, 3),
        }
        amiss = {name: sentence for name, sentence in problems().items() if sentence}
        if amiss:
            body["problems"] = amiss
        status = http.HTTPStatus.OK if alive else http.HTTPStatus.SERVICE_UNAVAILABLE
        return _respond(environ, start_response, status, json.dumps(body) + "\n", content_type=_JSON)

    return app


class _Router:
    """Gives a request to the route of its path."""

    def __init__(self, routes: Mapping[str, WSGIApplication]) -> None:
        self._exact = {path: app for path, app in routes.items() if not path.endswith("*")}
        prefixes = {path[:-1]: app for path, app in routes.items() if path.endswith("*")}
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._find(environ["PATH_INFO"])(environ, start_response)

    def _find(self, path: str) -> WSGIApplication:
        matches = (app for prefix, app in self._prefixes if path.startswith(prefix))
        return self._exact.get(path) or next(matches, _not_found)


class _Guard:
    """Lets in who knows the token."""

    def __init__(self, app: WSGIApplication, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # WSGI hands over bytes as Latin-1, PEP 3333.
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if environ["PATH_INFO"] == _PUBLIC or hmac.compare_digest(given, self._wanted):
            return self._app(environ, start_response)
        return _respond(
            environ,
            start_response,
            http.HTTPStatus.UNAUTHORIZED,
            "this needs the header Authorization: Bearer TOKEN\n",
            www_authenticate="Bearer",
        )


def _not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _respond(environ, start_response, http.HTTPStatus.NOT_FOUND, "not found\n")


def _respond(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: http.HTTPStatus,
    body: str,
    **headers: str,
) -> Iterable[bytes]:
    """Send `body` as plain text unless `headers` (in snake case) say otherwise."""
    data = body.encode()
    fields = {"content_type": "text/plain; charset=utf-8", "content_length": str(len(data)), **headers}
    start_response(
        f"{status.value} {status.phrase}", [(name.replace("_", "-"), value) for name, value in fields.items()]
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    try:
        flags = socket.AI_PASSIVE
        family, kind, *_, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=flags
        )[0]
        return _listening(socket.socket(family, kind), address)
    except OSError as error:
        raise OSError(
            f"cannot listen on {_shown(host, port)}: {error.strerror}; "
            "choose another address with --listen HOST:PORT, or --listen off"
        ) from error


def _listening(sock: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock
