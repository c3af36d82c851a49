"""All lookups as one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from masdeepflow.enrich import lookups as module
from masdeepflow.enrich.directory import Wanted
from masdeepflow.enrich.facts import ContainerFact, Fact, PodFact, ProcessFact, UsersFact
from masdeepflow.enrich.kubernetes.state import ClusterState
from masdeepflow.enrich.lookups import Lookups
from masdeepflow.kernel import privileges

if TYPE_CHECKING:
    import pytest


F = TypeVar("F", bound=Fact)


class _Other(Generic[F]):
    """Stands where runtimes and the cluster stand: says what it is told to say, once."""

    def __init__(self, *facts: F) -> None:
        self.facts = list(facts)
        self.asked: list[tuple[str, str]] = []
        self.running = False

    def start(self) -> None:
        self.running = True

    def ask(self, container_id: str, runtime: str) -> None:
        self.asked.append((container_id, runtime))

    def take(self) -> list[F]:
        facts, self.facts = self.facts, []
        return facts

    def problems(self) -> dict[str, str]:
        return {"docker": "it does not answer"}

    @property
    def counters(self) -> dict[str, int]:
        return {"asked": len(self.asked)}

    def state(self) -> ClusterState:
        return ClusterState(connected=self.running, since=0.0, sentence="nobody is there", dropped=3)

    def close(self) -> None:
        self.running = False


def test_first_comes_what_there_is() -> None:
    """Users and running processes are known before the first record is read."""
    lookups = Lookups()
    lookups.start()
    users, *processes = lookups.take()
    lookups.close()
    assert isinstance(users, UsersFact)
    assert os.getppid() in [fact.pid for fact in processes if isinstance(fact, ProcessFact)]


def test_processes_of_another_pid_namespace_name_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PIDs of records are the host's: what an agent in a container of its own sees has others."""
    monkeypatch.setattr(privileges, "has_host_pids", lambda: False)
    lookups = Lookups()
    lookups.start()
    wanted = Wanted()
    wanted.pids = [os.getppid()]
    lookups.ask(wanted)
    lookups.close()
    assert lookups.take() == []
    assert lookups.counters()["processes"]["asked"] == 0


def test_what_is_wanted_goes_to_who_can_find_it_out() -> None:
    """Processes to /proc, containers to the runtimes; what they say comes out as one."""
    runtimes, cluster = _Other(ContainerFact("a")), _Other(PodFact("u", "web", "shop"))
    lookups = Lookups(runtimes, cluster)
    lookups.start()
    assert [runtimes.running, cluster.running] == [True, True]
    first = lookups.take()
    assert first[-2:] == [ContainerFact("a"), PodFact("u", "web", "shop")]
    wanted = Wanted()
    wanted.pids, wanted.containers = [os.getppid()], [("a", "docker")]
    lookups.ask(wanted)
    found = lookups.take()
    while not found:
        time.sleep(0.001)
        found = lookups.take()
    assert [fact.pid for fact in found if isinstance(fact, ProcessFact)] == [os.getppid()]
    assert runtimes.asked == [("a", "docker")]
    assert lookups.problems() == {"docker": "it does not answer", "kubernetes": ""}
    assert lookups.counters() == {
        "processes": {"asked": 1, "answered": 1, "unknown": 0, "dropped": 0},
        "containers": {"asked": 1},
        "kubernetes": {"events": 0, "reconnects": 0, "relists": 0, "dropped": 3, "cut": 0},
    }
    lookups.close()
    assert [runtimes.running, cluster.running] == [False, False]
    assert lookups.problems()["kubernetes"] == "nobody is there"


def test_a_container_that_nobody_knew_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runtime may have been away; what is told, or has been unknown for long, is asked for no more."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    runtimes = _Other[ContainerFact]()
    lookups = Lookups(runtimes)
    wanted = Wanted()
    wanted.containers = [("a", "docker"), ("b", "")]
    lookups.ask(wanted)
    lookups.take()
    assert runtimes.asked == [("a", "docker"), ("b", "")] * 2
    runtimes.facts = [ContainerFact("a")]
    lookups.take()
    assert runtimes.asked[4:] == [("b", "")]
    monkeypatch.setattr(module, "_PATIENCE_S", -1.0)
    lookups.ask(wanted)
    del runtimes.asked[:]
    lookups.take()
    assert runtimes.asked == []
