"""The Docker API, spoken rightly and wrongly; tests/e2e/test_container_runtimes.py asks a real daemon."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow.enrich.containers.client import Refused, Unavailable
from masdeepflow.enrich.containers.docker import DockerClient
from tests.support.unix_server import serving
from tests.support.wire import read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Answer = Callable[[str], bytes]

ID = "9036e2af1551a4b968b7bf63c0aa7c5e5131e714ca335e27986a6efd9d9e042b"
ANSWER_S = 20.0
SHORT_S = 0.3


def _http(body: Any, status: bytes = b"200 OK") -> bytes:  # noqa: ANN401  # any JSON
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data)


VERSION = _http({"Components": [{"Name": "Engine"}]})


@contextlib.contextmanager
def _client(path: Path, answer: bytes | Answer, version: bytes = VERSION) -> Iterator[DockerClient]:
    """Give a client of a daemon that answers what follows the version with `answer`."""

    def handle(connection: socket.socket) -> None:
        _, asked, *_ = read_until(connection, b"\r\n\r\n").decode().split() or ("", "")
        found = answer if isinstance(answer, bytes) else answer(asked)
        connection.sendall(version if asked == "/version" else found)

    with serving(path / "docker.sock", handle) as where, DockerClient(where, ANSWER_S) as client:
        yield client


INSPECTED = {"Id": ID, "Name": "/web", "Config": {"Image": "nginx:1", "Labels": {"a": "b"}}, "State": {}}


def test_a_container_is_inspected_by_its_full_id(tmp_path: Path) -> None:
    """What the daemon tells beside is skipped."""
    with _client(tmp_path, _http(INSPECTED)) as client:
        found = client.find(ID)
        assert found is not None
        assert (found.id, found.name, found.runtime, found.image) == (ID, "web", "docker", "nginx:1")
        assert found.labels == {"a": "b"}


@pytest.mark.parametrize("number", ["web", ID[:12], "", "../version", f"{ID}/", "a\r\nb"])
def test_what_is_no_full_id_is_not_asked_for(tmp_path: Path, number: str) -> None:
    """The daemon would take it for a name, and the path of a request for a path."""
    with _client(tmp_path, _http(INSPECTED)) as client:
        assert client.find(number) is None


def test_an_answer_about_another_container_is_none(tmp_path: Path) -> None:
    """A name can look like an id."""
    with _client(tmp_path, _http({**INSPECTED, "Id": "0" * 64})) as client:
        assert client.find(ID) is None


def test_an_unknown_container_is_none(tmp_path: Path) -> None:
    """The daemon says 404."""
    with _client(tmp_path, _http({"message": "No such container"}, b"404 Not Found")) as client:
        assert client.find(ID) is None


def test_links_to_a_container_are_not_its_name(tmp_path: Path) -> None:
    """Docker lists them among the names, with the linking container before a slash."""
    listed = [
        {"Id": ID, "Names": ["/other/db", "/web"], "Image": "i"},
        {"Id": ID, "Names": None, "Labels": None},
    ]
    with _client(tmp_path, _http(listed)) as client:
        assert [fact.name for fact in client.running()] == ["web", ""]


def test_podman_is_told_by_its_version(tmp_path: Path) -> None:
    """It serves the same API. Its changes are not followed: its service would run for that alone."""
    version = _http({"Components": [{"Name": "Podman Engine"}, {"Name": "Conmon"}]})
    with _client(tmp_path, _http(INSPECTED), version) as client:
        assert client.runtime == "podman"
        assert client.changes() is None


EVENTS = b"".join(
    json.dumps({"Action": "start", "Actor": {"ID": number}}).encode() + b"\n" for number in "ab"
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
    len(EVENTS),
    EVENTS,
)


def test_changes_are_the_ids_of_events(tmp_path: Path) -> None:
    """Up to the end of the stream."""
    with _client(tmp_path, CHUNKED) as client:
        assert list(client.changes() or ()) == ["a", "b"]


def test_following_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """Though nothing comes."""
    asked = threading.Event()
    never = threading.Event()

    def hang(path: str) -> bytes:
        if path.startswith("/events"):
            asked.set()
            never.wait(20)
        return b""

    with _client(tmp_path, hang) as client:
        changes = client.changes()
        assert changes is not None
        ended = threading.Event()

        def follow() -> None:
            with contextlib.suppress(Unavailable):
                list(changes)
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert asked.wait(10)
        client.cancel()
        assert ended.wait(10)
        never.set()
        with pytest.raises(Unavailable, match="no longer"):
            client.find(ID)


def _say(data: bytes, *, hold: bool = False) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(data)
        if hold:
            read_until(connection, b"\0never\0")

    return handle


def _drip(connection: socket.socket) -> None:
    for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\nA: b\r\n"):
        connection.sendall(bytes([byte]))
        time.sleep(SHORT_S / 20)


@pytest.mark.parametrize(
    ("handle", "why"),
    [
        (_say(b"", hold=True), "does not answer within 0.3 s"),
        (_say(VERSION[:-5], hold=True), "does not answer within 0.3 s"),
        (_drip, "does not answer within 0.3 s"),
        (_say(b""), "cannot be asked: Remote end closed connection"),
        (_say(VERSION[:-5]), "does not answer as Docker does"),
        (_say(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak the Docker API"),
        (_say(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "does not speak the Docker API"),
        (_say(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000), "does not speak the Docker API"),
        (_say(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n{"), "does not answer as Docker does"),
        (
            _say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "does not speak the Docker API",
        ),
        (_say(_http(b"no json")), "does not answer as Docker does"),
        (_say(_http([1, 2])), "does not answer as Docker does"),
        (_say(_http({"Components": 7})), "does not answer as Docker does"),
        (_say(_http(b"[" * 100_000)), "does not answer as Docker does"),
        (_say(_http({}, b"500 Internal Server Error")), "with status 500"),
    ],
)
def test_who_is_not_docker_is_told_so(
    tmp_path: Path, handle: Callable[[socket.socket], None], why: str
) -> None:
    """Whatever it is that listens there, and however slowly it answers."""
    with serving(tmp_path / "docker.sock", handle) as path, pytest.raises(Unavailable, match=why):
        DockerClient(path, SHORT_S if "within" in why else ANSWER_S).__enter__()


def test_a_socket_that_nobody_listens_on_is_told_with_the_reason(tmp_path: Path) -> None:
    """A file, a socket that was left behind, nothing."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    (tmp_path / "file").touch()
    for name, why in (
        ("left", "refused"),
        ("file", "refused"),
        ("none", "No such file"),
        ("x" * 200, "too long"),
    ):
        with pytest.raises(Unavailable, match=why):
            DockerClient(tmp_path / name, ANSWER_S).__enter__()


def test_an_answer_without_end_is_refused(tmp_path: Path) -> None:
    """No more of it is kept than 16 MiB."""
    huge = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (1 << 40, b" " * (17 << 20))
    with (
        serving(tmp_path / "docker.sock", _answers(huge)) as path,
        DockerClient(path, 10) as client,
        pytest.raises(Refused, match="more than 16 MiB"),
    ):
        client.find(ID)


def _answers(data: bytes) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        version = b"/version" in read_until(connection, b"\r\n\r\n")
        connection.sendall(VERSION if version else data)

    return handle


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(_http)))
def test_any_answer_is_told_or_refused(tmp_path: Path, answer: bytes) -> None:
    """Never anything else than what a client may raise."""
    with _client(tmp_path, answer) as client:
        for ask in (client.find, lambda _: list(client.running()), lambda _: list(client.changes() or ())):
            with contextlib.suppress(Refused, Unavailable):
                ask(ID)
