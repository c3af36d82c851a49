"""All runtimes of a host, over sockets that tests serve."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from masdeepflow.enrich.containers.runtimes import Runtimes
from masdeepflow.enrich.containers.sockets import parse_socket
from masdeepflow.enrich.containers.worker import Pace
from masdeepflow.enrich.facts import ContainerFact
from tests.support.programs import run, until
from tests.support.unix_server import serving
from tests.support.wire import read_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    import pytest

PACE = Pace(first=0.01, most=0.05, look=0.01, again=3600)
A, B = "a" * 64, "b" * 64


class _Docker:
    """A daemon that knows some containers and counts what it is asked."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.asked: list[str] = []

    def __call__(self, connection: socket.socket) -> None:
        _, path, *_ = read_until(connection, b"\r\n\r\n").decode().split() or ("", "")
        self.asked.append(path)
        if path.startswith("/events"):
            read_until(connection, b"\0never\0")
        number = path.removeprefix("/containers/").removesuffix("/json")
        found: object = [] if path == "/containers/json" else {"Id": number, "Name": f"/{number[:2]}"}
        status = "200 OK" if number in self.known or len(number) != 64 else "404 Not Found"
        body = json.dumps(found).encode()
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@contextlib.contextmanager
def _runtimes(*sockets: str, pace: Pace = PACE, root: Path | None = None) -> Iterator[Runtimes]:
    runtimes = Runtimes(map(parse_socket, sockets), usual=root is not None, root=root or Path("/"), pace=pace)
    runtimes.start()
    try:
        yield runtimes
    finally:
        runtimes.close()


def _taken(runtimes: Runtimes) -> list[ContainerFact]:
    return until(runtimes.take, lambda: f"{runtimes.counters} {runtimes.problems()}")


def test_a_container_is_looked_up_when_it_is_asked_for(tmp_path: Path) -> None:
    """The fact comes with a later `take`."""
    with serving(tmp_path / "docker.sock", _Docker(A)) as path, _runtimes(f"docker={path}") as runtimes:
        runtimes.ask(A, "docker")
        assert _taken(runtimes) == [ContainerFact(A, "aa", "docker")]
        assert runtimes.take() == []
        assert runtimes.counters == {"asked": 1, "answered": 1, "unknown": 0, "failed": 0, "cut": 0}


def test_what_nobody_knows_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    """Only after a while: `ask` is called for it with every batch."""
    docker = _Docker()
    with serving(tmp_path / "docker.sock", docker) as path, _runtimes(f"docker={path}") as runtimes:
        for _ in range(100):
            runtimes.ask(B, "")
        until(lambda: runtimes.counters["unknown"] == 1)
        runtimes.ask(B, "")
        assert runtimes.counters["asked"] == 1
        assert docker.asked.count(f"/containers/{B}/json") == 1


def test_what_nobody_knows_is_asked_for_again_after_a_while(tmp_path: Path) -> None:
    """A runtime may have learnt of it since."""
    docker = _Docker()
    pace = Pace(first=0.01, again=0.05)
    with (
        serving(tmp_path / "docker.sock", docker) as path,
        _runtimes(f"docker={path}", pace=pace) as runtimes,
    ):
        runtimes.ask(B, "")
        until(lambda: runtimes.counters["unknown"] == 1)
        docker.known = (B,)

        def ask() -> int:
            runtimes.ask(B, "")
            return runtimes.counters["answered"]

        until(ask)


def test_what_was_told_may_be_asked_for_again(tmp_path: Path) -> None:
    """Whoever asks has forgotten it."""
    with serving(tmp_path / "docker.sock", _Docker(A)) as path, _runtimes(f"docker={path}") as runtimes:
        for _ in range(3):
            runtimes.ask(A, "docker")
            assert len(_taken(runtimes)) == 1


def test_a_runtime_is_not_asked_for_containers_of_others(tmp_path: Path) -> None:
    """Those of containerd are none of Docker's."""
    with serving(tmp_path / "docker.sock", _Docker(A)) as path, _runtimes(f"docker={path}") as runtimes:
        runtimes.ask(A, "containerd")
        assert runtimes.counters["asked"] == 0


def test_ids_without_end_take_bounded_room() -> None:
    """Whoever makes cgroups can make up ids."""
    runtimes = Runtimes(usual=False, pace=PACE)
    for number in range(30_000):
        runtimes.ask(f"{number:064x}", "")
    assert len(runtimes._again) <= 8192
    assert f"{29_999:064x}" in runtimes._again


def test_sockets_that_come_later_are_found(tmp_path: Path) -> None:
    """One that was asked for is a problem until it is there."""
    path = tmp_path / "docker.sock"
    with _runtimes(f"docker={path}") as runtimes:
        assert runtimes.problems() == {str(path): f"docker: {path} is not there"}
        with serving(path, _Docker(A)):
            until(lambda: not runtimes.problems())
            runtimes.ask(A, "")
            _taken(runtimes)
        until(runtimes.problems)
        with serving(path, _Docker(A)):
            until(lambda: not runtimes.problems())


def test_usual_sockets_that_are_not_there_are_no_problem(tmp_path: Path) -> None:
    """Most hosts have one runtime."""
    with _runtimes(root=tmp_path) as runtimes:
        runtimes.ask(A, "docker")
        assert runtimes.problems() == {}


def test_a_usual_socket_that_does_not_answer_is_a_problem_once_it_is_asked(tmp_path: Path) -> None:
    """Until then nobody misses anything."""
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "docker.sock"
    path.touch()
    with _runtimes(root=tmp_path) as runtimes:
        until(lambda: runtimes._workers[path].problem)
        assert runtimes.problems() == {}
        runtimes.ask(A, "docker")
        assert list(runtimes.problems()) == [str(path)]


def test_closing_does_not_wait_for_a_runtime_that_hangs(tmp_path: Path) -> None:
    """Its threads end, because their calls are cancelled."""
    hanging = threading.Event()

    def hang(connection: socket.socket) -> None:
        data = read_until(connection, b"\r\n\r\n")
        if b"/containers/json" in data:
            hanging.set()
            read_until(connection, b"\0never\0")
        body = b"[]"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    before = set(threading.enumerate())
    with serving(tmp_path / "docker.sock", hang) as path:
        with _runtimes(f"docker={path}", pace=Pace(answer=3600)) as runtimes:
            until(lambda: hanging.is_set() or runtimes.problems())
        mine = [thread for thread in set(threading.enumerate()) - before if "runtime" in thread.name]
        assert mine == []


def test_closing_before_the_start_is_fine() -> None:
    """As when something else fails at the start."""
    Runtimes(usual=False).close()


def test_without_the_extra_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent does not always have gRPC."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "masdeepflow.enrich.containers.cri", raising=False)
    path = tmp_path / "containerd.sock"
    path.touch()
    with _runtimes(f"containerd={path}") as runtimes:
        problem = until(runtimes.problems)[str(path)]
    assert problem == (
        f"containerd: {path} cannot be asked without the package grpc: pip install masdeepflow[cri]"
    )


def test_nothing_heavy_is_imported_where_no_runtime_is(tmp_path: Path) -> None:
    """Hosts without containers pay nothing."""
    script = (
        "import sys, pathlib; from masdeepflow.enrich.containers.runtimes import Runtimes;"
        f"r = Runtimes(root=pathlib.Path({str(tmp_path)!r})); r.start(); r.close();"
        "print([m for m in ('grpc', 'google.protobuf', 'http.client') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", script).stdout == "[]\n"


def test_asking_is_cheap_while_a_runtime_hangs(tmp_path: Path) -> None:
    """`ask` takes no lock that is held over a call: it returns though every call hangs."""
    with (
        serving(tmp_path / "docker.sock", lambda connection: read_until(connection, b"\0never\0")) as path,
        _runtimes(f"docker={path}") as runtimes,
    ):
        until(lambda: path in runtimes._workers)
        for number in range(1000):
            runtimes.ask(f"{number:064x}", "docker")
        assert runtimes.take() == []
        assert runtimes.counters["asked"] == 1000
