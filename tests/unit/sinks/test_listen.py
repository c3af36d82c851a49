"""Rules of the HTTP server, over real connections."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from masdeepflow.sinks.exposition import Exposition, registry
from masdeepflow.sinks.listen import HttpServer, health_app, metrics_app, parse_address
from masdeepflow.sinks.metrics import Metrics
from tests.support.tables import make_output, make_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SECRET = secrets.token_urlsafe() + "\u00e9"


def _says(word: str) -> WSGIApplication:
    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [word.encode()]

    return app


def _routes(idle_s: float = 0.0) -> dict[str, WSGIApplication]:
    metrics = Metrics()
    metrics.write(make_output(make_table({"http.request.method": "GET"})))
    return {
        "/metrics": metrics_app(registry(Exposition(metrics))),
        "/healthz": health_app(lambda: idle_s),
        "/api/*": _says("api"),
        "/api/v1/*": _says("v1"),
    }


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """Return a server on a free port of the loopback interface."""
    with closing(HttpServer("127.0.0.1", 0, _routes())) as started:
        yield started


def _get(
    server: HttpServer, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, str]:
    with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, response.read().decode()


def test_metrics_as_prometheus_text(server: HttpServer) -> None:
    """Plain scrapers get the Prometheus text format."""
    response, body = _get(server, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert "http_client_request_duration_seconds" in {family.name for family in parse_text(body)}


def test_metrics_as_openmetrics_when_asked(server: HttpServer) -> None:
    """A scraper that accepts OpenMetrics gets it, uncompressed though it accepts gzip."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    response, body = _get(server, "/metrics", accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")
    families = parse_openmetrics(body)  # type: ignore[no-untyped-call]
    assert "http_client_request_duration_seconds" in {family.name for family in families}


def test_health_while_the_reader_polls(server: HttpServer) -> None:
    """200 and a JSON body."""
    response, body = _get(server, "/healthz")
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"status": "ok", "seconds_since_poll": 0.0}


def test_health_when_the_reader_hangs() -> None:
    """503 from 5 seconds without a poll on."""
    with closing(HttpServer("127.0.0.1", 0, _routes(idle_s=5.0))) as server:
        response, body = _get(server, "/healthz")
    assert (response.status, json.loads(body)["status"]) == (503, "stalled")


def test_unknown_paths_are_not_found(server: HttpServer) -> None:
    """404 for whatever has no route, without a body for HEAD."""
    assert [_get(server, path)[0].status for path in ("/", "/metrics/x", "/ap")] == [404, 404, 404]
    response, body = _get(server, "/", method="HEAD")
    assert (response.status, body) == (404, "")


def test_the_longest_route_wins(server: HttpServer) -> None:
    """Routes that end in `*` take all below them."""
    assert [_get(server, path)[1] for path in ("/api/", "/api/v1", "/api/v1/sql?q=1")] == ["api", "api", "v1"]


def test_token_is_needed_where_one_is_set() -> None:
    """Without the very token nothing but the health is told."""
    with closing(HttpServer("127.0.0.1", 0, _routes(), token=SECRET)) as server:
        good = {"Authorization": f"Bearer {SECRET}".encode().decode("latin-1")}
        assert _get(server, "/metrics", good)[0].status == 200
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}):
            response, body = _get(server, "/metrics", wrong)
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer" in body
        assert _get(server, "/nothing")[0].status == 401
        assert _get(server, "/healthz")[0].status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])  # noqa: S104  # refused
def test_addresses_that_others_reach_need_a_token_or_a_word(host: str) -> None:
    """Without either the server refuses, and says what to do."""
    with pytest.raises(
        ValueError, match=r"refusing to listen on .*set a token, or allow it with --insecure-listen"
    ):
        HttpServer(host, 0, {})


@pytest.mark.parametrize("how", [{"token": "x"}, {"insecure": True}])
def test_addresses_that_others_reach_are_allowed_with_either(how: dict[str, str | bool]) -> None:
    """A token or the explicit word suffices."""
    server = HttpServer("0.0.0.0", 0, _routes(), **how)  # type: ignore[arg-type]  # noqa: S104  # what is tested
    with closing(server), socket.create_connection(("127.0.0.1", server.port)):
        pass


def test_busy_port_is_one_clear_sentence(server: HttpServer) -> None:
    """A port in use fails at the start, with the address and what to do."""
    with pytest.raises(OSError, match="Address already in use") as caught:
        HttpServer("127.0.0.1", server.port, {})
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{server.port}: Address already in use; "
        "choose another address with --listen HOST:PORT, or --listen off"
    )


def test_closing_frees_the_port_and_the_threads() -> None:
    """After `close`, even with a connection open, nothing listens; threads end, or this test hangs."""
    before = set(threading.enumerate())
    server = HttpServer("127.0.0.1", 0, _routes())
    with socket.create_connection((server.host, server.port)) as idle:
        _get(server, "/healthz")
        server.close()
        assert idle.recv(1) == b""
    for thread in set(threading.enumerate()) - before:
        thread.join()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))
    HttpServer(server.host, server.port, {}).close()


def test_ipv6_loopback() -> None:
    """The IPv6 loopback address is one, too."""
    try:
        server = HttpServer("::1", 0, _routes())
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with closing(server):
        assert _get(server, "/healthz")[0].status == 200


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:9419", ("127.0.0.1", 9419)),
        ("[::1]:80", ("::1", 80)),
        (":9419", ("", 9419)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_address_is_host_and_port(address: str, parsed: tuple[str, int]) -> None:
    """HOST:PORT, brackets around IPv6, an empty host for all addresses."""
    assert parse_address(address) == parsed


@pytest.mark.parametrize(
    "address", ["", "9419", "localhost", "localhost:", "localhost:http", "::1:80", "h:65536"]
)
def test_other_addresses_are_refused(address: str) -> None:
    """The message shows what to write."""
    with pytest.raises(ValueError, match=r"give HOST:PORT, such as 127\.0\.0\.1:9419"):
        parse_address(address)
