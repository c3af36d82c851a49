"""A worker, over a client made up by the test."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from masdeepflow.enrich.containers.client import Refused, Unavailable
from masdeepflow.enrich.containers.sockets import Socket
from masdeepflow.enrich.containers.worker import Counts, Pace, Worker
from masdeepflow.enrich.facts import ContainerFact
from tests.support.programs import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PACE = Pace(first=0.01, most=0.02, check=60)


class _Client:
    """Knows `known`, raises what `trouble` has for a question, and yields what is put into `changed`."""

    def __init__(self, runtime: str = "docker") -> None:
        self.runtime = runtime
        self.known: dict[str, ContainerFact] = {}
        self.trouble: dict[str, Exception] = {}
        self.changed: queue.Queue[str | Exception | None] | None = None
        self.asked: list[str] = []
        self.sessions = 0
        self.checks = 0
        self._follows = False

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.trouble:
            raise self.trouble[what]

    def running(self) -> Iterator[ContainerFact]:
        self._ask("running")
        yield from self.known.values()

    def find(self, container_id: str) -> ContainerFact | None:
        self._ask(container_id)
        return self.known.get(container_id)

    def changes(self) -> Iterator[str] | None:
        self._follows = self.changed is not None
        return None if self.changed is None else self._changes(self.changed)

    def _changes(self, changed: queue.Queue[str | Exception | None]) -> Iterator[str]:
        try:
            while (found := changed.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            self._follows = False

    def check(self) -> None:
        self.checks += 1
        self._ask("check")

    def cancel(self) -> None:
        # Changes that have ended already are not ended again: that would end those of the next session.
        if self.changed is not None and self._follows:
            self.changed.put(None)

    def __enter__(self) -> Self:
        self.sessions += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Taker:
    """Takes facts while there is room."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.facts: list[ContainerFact] = []

    def __call__(self, fact: ContainerFact) -> bool:
        if len(self.facts) >= self.room:
            return False
        self.facts.append(fact)
        return True

    @property
    def ids(self) -> list[str]:
        return [fact.id for fact in self.facts]


@contextlib.contextmanager
def _worker(client: _Client, taker: _Taker, path: Path = Path("/"), pace: Pace = PACE) -> Iterator[Worker]:
    worker = Worker(Socket("docker", "docker", path), lambda: client, taker, pace)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
        worker.join(10)
        assert not worker._thread.is_alive()


def test_what_runs_is_handed_over_unasked() -> None:
    """So that the first records are named."""
    client, taker = _Client(), _Taker()
    client.known = {number: ContainerFact(number) for number in "ab"}
    with _worker(client, taker) as worker:
        until(lambda: taker.ids == ["a", "b"])
        assert worker.counts == Counts()


def test_what_is_asked_for_is_answered_unknown_or_failed() -> None:
    """Each id counts once, in one of them."""
    client, taker = _Client(), _Taker()
    client.trouble = {"running": Refused("no"), "bad": Refused("no")}
    with _worker(client, taker) as worker:
        until(lambda: worker.counts.failed == 1)
        client.known["a"] = ContainerFact("a")
        for number in ("a", "none", "bad"):
            worker.ask(number)
        until(lambda: worker.counts == Counts(asked=3, answered=1, unknown=1, failed=2))
        assert taker.ids == ["a"]
        assert not worker.problem
        assert client.sessions == 1


def test_an_id_that_waits_is_looked_up_once() -> None:
    """However often it is asked for."""
    client, taker = _Client(), _Taker()
    worker = Worker(Socket("docker", "docker", Path("/")), lambda: client, taker, PACE)
    for _ in range(5):
        worker.ask("a")
    worker.start()
    until(lambda: worker.counts.unknown)
    worker.stop()
    worker.join(10)
    assert client.asked == ["running", "a"]


def test_ids_beyond_the_room_are_failed() -> None:
    """A runtime that hangs holds up a bounded number of them."""
    worker = Worker(Socket("docker", "docker", Path("/")), _Client, _Taker(), PACE)
    for number in range(5000):
        worker.ask(str(number))
    assert (worker.counts.asked, worker.counts.failed) == (5000, 5000 - 4096)


@pytest.mark.parametrize("error", [Unavailable("hangs"), ValueError("a fault"), RecursionError()])
def test_trouble_with_one_id_starts_anew_without_it(error: Exception) -> None:
    """It may be what the runtime hangs on, or what the client falls over."""
    client, taker = _Client(), _Taker()
    client.trouble["bad"] = error
    with _worker(client, taker) as worker:
        worker.ask("bad")
        until(lambda: client.sessions == 2)
        client.known["a"] = ContainerFact("a")
        worker.ask("a")
        until(lambda: worker.counts.answered)
        until(lambda: not worker.problem)
        assert client.asked.count("bad") == 1


def test_a_socket_that_is_gone_is_a_problem_until_it_is_back(tmp_path: Path) -> None:
    """What is asked for meanwhile is answered then."""
    client, taker = _Client(), _Taker()
    client.known["a"] = ContainerFact("a")
    path = tmp_path / "docker.sock"
    with _worker(client, taker, path) as worker:
        until(lambda: worker.problem)
        assert worker.problem == f"docker: {path} is gone"
        worker.ask("a")
        path.touch()
        until(lambda: worker.counts.answered)
        assert not worker.problem


def test_a_socket_of_another_user_is_a_problem_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting needs the right to write, which root always has."""
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    with _worker(_Client(), _Taker(), tmp_path) as worker:
        until(lambda: worker.problem)
        assert worker.problem.startswith(f"docker: {tmp_path} is not for this user: run the agent as root")


def test_what_changes_is_looked_up_again() -> None:
    """It does not count as asked for."""
    client, taker = _Client(), _Taker()
    client.changed = queue.Queue()
    with _worker(client, taker) as worker:
        until(lambda: client.asked == ["running"])
        client.known["a"] = ContainerFact("a", "before")
        client.changed.put("a")
        until(lambda: taker.ids == ["a"])
        client.known["a"] = ContainerFact("a", "after")
        client.changed.put("a")
        until(lambda: taker.facts[-1].name == "after")
        client.changed.put("none")
        until(lambda: "none" in client.asked)
        assert worker.counts == Counts()


@pytest.mark.parametrize("end", [None, Unavailable("has gone mad"), ValueError("a fault")])
def test_the_end_of_the_changes_starts_anew(end: Exception | None) -> None:
    """With a new list: there is no knowing what was missed."""
    client, taker = _Client(), _Taker()
    client.changed = queue.Queue()
    with _worker(client, taker):
        until(lambda: client.asked == ["running"])
        client.changed.put(end)
        until(lambda: client.asked == ["running"] * 2)


def test_a_quiet_runtime_is_asked_whether_it_is_there() -> None:
    """Else /healthz would know of its end only when a container is asked for."""
    client = _Client("containerd")
    with _worker(client, _Taker(), pace=Pace(first=60, check=0.01)) as worker:
        until(lambda: client.checks > 1)
        client.trouble["check"] = Unavailable("is silent")
        until(lambda: worker.problem == "containerd: / is silent")


def test_a_full_house_makes_the_worker_wait() -> None:
    """Nothing is lost, and no more is kept."""
    client, taker = _Client(), _Taker(room=1)
    client.known = {number: ContainerFact(number) for number in "abc"}
    with _worker(client, taker):
        until(lambda: taker.ids == ["a"])
        taker.room = 3
        until(lambda: taker.ids == ["a", "b", "c"])


def test_a_worker_that_waits_for_room_can_be_stopped() -> None:
    """The reader may have ended already."""
    client, taker = _Client(), _Taker(room=0)
    client.known["a"] = ContainerFact("a")
    with _worker(client, taker):
        until(lambda: client.asked)


def test_long_texts_are_cut_and_counted() -> None:
    """Before they are handed over."""
    client, taker = _Client(), _Taker()
    client.known["a"] = ContainerFact("a", "x" * 10_240)
    with _worker(client, taker) as worker:
        until(lambda: taker.facts)
        assert len(taker.facts[0].name) == 256
        assert worker.counts.cut == 1


@pytest.mark.parametrize(
    ("kind", "runtime", "served"),
    [
        ("docker", "", {"", "docker", "podman"}),
        ("docker", "podman", {"", "podman"}),
        ("cri", "", {"", "containerd", "cri-o"}),
        ("cri", "cri-o", {"", "cri-o"}),
    ],
)
def test_a_runtime_is_asked_for_its_own_and_for_those_of_nobody(
    kind: str, runtime: str, served: set[str]
) -> None:
    """Until it has told what it is, for those that speak the same."""
    worker = Worker(Socket(kind, "", Path("/")), _Client, _Taker(), PACE)  # type: ignore[arg-type]
    worker.runtime = runtime
    assert {name for name in ("", "docker", "podman", "containerd", "cri-o") if worker.serves(name)} == served


def test_stopping_ends_a_session_that_is_just_being_made() -> None:
    """It is not waited for, and it does not stay."""
    gate, client = threading.Event(), _Client()

    def connect() -> _Client:
        gate.wait(10)
        return client

    worker = Worker(Socket("docker", "docker", Path("/")), connect, _Taker(), PACE)
    worker.start()
    worker.stop()
    gate.set()
    worker.join(10)
    assert not worker._thread.is_alive()
    assert client.asked == []
