"""Pods as they are described -> facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.enrich.kubernetes import pods as module
from masdeepflow.enrich.kubernetes.limits import TEXT, Limits
from masdeepflow.enrich.kubernetes.objects import Pod
from masdeepflow.enrich.kubernetes.owners import Owners
from masdeepflow.enrich.kubernetes.pods import Pods
from masdeepflow.enrich.kubernetes.state import Counters
from tests.support.kubernetes_objects import check, epoch_ns, job, moment, owned_by, pod

if TYPE_CHECKING:
    from masdeepflow.enrich.facts import PodFact
    from tests.support.kubernetes_objects import Json

_NOW = 1_000
"""Seconds after the objects' moment, by the agent's clock."""


class _Kept:
    """Pods, with the facts they offered."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # of `Pods`
        self.facts: list[PodFact] = []
        self.now = _NOW
        self.counters = Counters()
        limits = Limits(self.counters)
        self.owners = Owners(limits, lambda _: None)
        self.pods = Pods(self.facts.append, self.owners, limits, clock=lambda: epoch_ns(self.now), **options)

    def seen(self, item: Json) -> PodFact:
        """Return the last fact after a pod was seen."""
        self.pods.seen(_read(item))
        return self.facts[-1]


def _read(item: Json) -> Pod:
    check(item)
    return msgspec.convert(item, Pod)


def _with(item: Json, **status: Any) -> Json:  # noqa: ANN401  # JSON
    return item | {"status": item["status"] | status}


def _ran(item: Json, start: int, end: int | None = None) -> Json:
    """Return a pod whose container ran from `start` to `end`, or runs."""
    state: Json = {"running": {"startedAt": moment(start)}}
    if end is not None:
        times = {"startedAt": moment(start), "finishedAt": moment(end)}
        state = {"terminated": times | {"exitCode": 0}}
    status = item["status"]["containerStatuses"][0] | {"state": state}
    return _with(item, containerStatuses=[status])


def test_a_running_pod_gives_all_its_names() -> None:
    """Labels and containers as far as they were asked for."""
    kept = _Kept(labels=["app"], containers=True)
    labels = {"app": "web", "secret": "x"}
    fact = kept.seen(
        pod("web", "10.0.0.1", "FD00::1", labels=labels, containers={"nginx": "c1", "log": "c2"})
    )
    assert (fact.name, fact.namespace, fact.node) == ("web", "default", "n1")
    assert fact.addresses == ("10.0.0.1", "fd00::1")
    assert fact.labels == {"app": "web"}
    assert fact.containers == {"c1": "nginx", "c2": "log"}
    assert (fact.from_ns, fact.gone_ns, fact.host_network) == (epoch_ns(0), 0, False)


def test_by_default_neither_labels_nor_containers_are_kept() -> None:
    """Of pods elsewhere only the identity is of use."""
    fact = _Kept().seen(pod("web", "10.0.0.1", labels={"app": "web"}))
    assert (fact.labels, fact.containers) == ({}, {})


def test_only_what_is_new_is_offered() -> None:
    """Most changes of a pod change no name: probes, conditions, versions."""
    kept = _Kept(containers=True)
    item = pod("web", "10.0.0.1")
    kept.seen(item)
    kept.seen(_with(item, conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": moment(5)}]))
    assert len(kept.facts) == 1


def test_a_pod_that_is_not_scheduled_is_nobody_yet() -> None:
    """It has neither address nor containers."""
    kept = _Kept()
    kept.pods.seen(_read(pod("web", node="")))
    assert (kept.facts, len(kept.pods)) == ([], 0)


def test_an_older_server_gives_one_address() -> None:
    """`podIP` without `podIPs`."""
    item = pod("web", "10.0.0.1")
    del item["status"]["podIPs"]
    assert _Kept().seen(item).addresses == ("10.0.0.1",)


def test_an_address_begins_with_the_sandbox() -> None:
    """Where the kubelet tells of it, to the second."""
    condition = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": moment(7)}
    item = _with(_ran(pod("web", "10.0.0.1"), 9), startTime=moment(1), conditions=[condition])
    assert _Kept().seen(item).from_ns == epoch_ns(7)
    condition["status"] = "False"
    assert _Kept().seen(item).from_ns == epoch_ns(9)


def test_without_that_it_begins_with_the_first_container() -> None:
    """Before, while images are pulled, the address may be another's still."""
    kept = _Kept()
    item = pod("web", "10.0.0.1", start=1)
    waiting = _with(item, containerStatuses=[])
    assert kept.seen(waiting).from_ns == epoch_ns(1)
    assert kept.seen(_ran(item, 60)).from_ns == epoch_ns(60)


def test_a_restarted_container_does_not_begin_the_pod_anew() -> None:
    """However often: its statuses tell only of the last two."""
    kept = _Kept()
    item = pod("web", "10.0.0.1", start=1)
    kept.seen(_with(item, containerStatuses=[]))
    for start in (60, 120, 180):
        assert kept.seen(_ran(item, start)).from_ns == epoch_ns(60)


def test_a_new_address_begins_when_it_is_seen_if_nothing_tells() -> None:
    """A sandbox that was made anew gives the pod another one."""
    kept = _Kept()
    item = pod("web", "10.0.0.1", start=1)
    kept.seen(item)
    moved = kept.seen(_with(item, podIP="10.0.0.2", podIPs=[{"ip": "10.0.0.2"}]))
    assert (moved.addresses, moved.from_ns) == (("10.0.0.2",), epoch_ns(_NOW))


def test_a_deleted_pod_ended_with_its_last_container() -> None:
    """A second later: times are cut to whole ones."""
    kept = _Kept()
    item = pod("web", "10.0.0.1")
    kept.seen(item)
    kept.pods.deleted(_read(_ran(item, 0, 500)))
    assert kept.facts[-1].gone_ns == epoch_ns(501)
    assert len(kept.pods) == 0


def test_a_deleted_pod_whose_end_is_not_told_ended_now() -> None:
    """By the agent's clock, but never before it began by another's."""
    kept = _Kept()
    item, ahead = pod("web", "10.0.0.1"), pod("ahead", "10.0.0.2", start=_NOW + 100)
    for each in (item, ahead):
        kept.seen(each)
        kept.pods.deleted(_read(each))
    ends = {fact.name: fact.gone_ns for fact in kept.facts if fact.gone_ns}
    assert ends == {"web": epoch_ns(_NOW), "ahead": epoch_ns(_NOW + 100)}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ran_to_its_end_is_gone_before_it_is_deleted(phase: str) -> None:
    """Its address may be another's from then on, and its end stays what it was."""
    kept = _Kept()
    item = pod("job", "10.0.0.1")
    kept.seen(item)
    ended = _with(item, phase=phase)
    assert kept.seen(ended).gone_ns == epoch_ns(_NOW)
    kept.now += 50
    kept.seen(ended)
    kept.pods.deleted(_read(ended))
    assert len(kept.facts) == 2


def test_what_a_list_does_not_have_is_gone() -> None:
    """It was deleted while nobody watched."""
    kept = _Kept()
    first, second = pod("a", "10.0.0.1"), pod("b", "10.0.0.2")
    kept.seen(first)
    kept.seen(second)
    kept.pods.synced({first["metadata"]["uid"]})
    assert [(fact.name, fact.gone_ns) for fact in kept.facts[2:]] == [("b", epoch_ns(_NOW))]
    kept.pods.deleted(_read(second))
    assert (len(kept.facts), len(kept.pods)) == (3, 1)


def test_an_owner_that_is_learnt_later_is_offered_and_stays() -> None:
    """Though what proves it may be forgotten again."""
    kept = _Kept()
    nightly = job("nightly-29", cron_job="nightly")
    item = pod("x", "10.0.0.1", owner=nightly)
    assert kept.seen(item).owners == (("Job", "nightly-29"),)
    kept.owners.learn(msgspec.convert(nightly, Pod).metadata)
    assert kept.facts[-1].owners == (("Job", "nightly-29"), ("CronJob", "nightly"))
    kept.owners._owners.clear()
    kept.seen(_ran(item, 5))
    assert kept.facts[-1].owners == (("Job", "nightly-29"), ("CronJob", "nightly"))


def test_a_pod_that_is_gone_waits_for_no_owner() -> None:
    """However it went."""
    kept = _Kept()
    items = [pod(name, "10.0.0.1", owner=job("j")) for name in "ab"]
    for item in items:
        kept.seen(item)
    kept.pods.deleted(_read(items[0]))
    kept.pods.synced(set())
    assert not kept.owners._awaited
    assert not kept.owners._waiting


def test_an_adopted_pod_has_its_new_owner_only() -> None:
    """Whatever was known of the one before."""
    kept = _Kept()
    nightly = job("nightly-29", cron_job="nightly")
    kept.owners.learn(msgspec.convert(nightly, Pod).metadata)
    item = pod("x", "10.0.0.1", owner=nightly)
    kept.seen(item)
    item["metadata"]["ownerReferences"] = [owned_by(job("other"))]
    assert kept.seen(item).owners == (("Job", "other"),)


def test_what_strangers_write_is_bounded() -> None:
    """Names, labels, addresses and containers; all that is cut is counted."""
    kept = _Kept(labels=["app"], containers=True)
    containers = {f"c{number}": f"{number:064x}" for number in range(500)}
    ips = [f"10.0.{number}.1" for number in range(100)]
    fact = kept.seen(pod("x" * 10_000, *ips, labels={"app": "\x1b" * 10_000}, containers=containers))
    assert fact.name == "x" * TEXT
    assert fact.labels == {"app": "\x1b" * TEXT}
    assert (len(fact.addresses), len(fact.containers)) == (8, 64)
    assert kept.counters.cut == 4


def test_more_pods_than_can_be_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known go on, and one that goes makes room."""
    monkeypatch.setattr(module, "_MOST", 2)
    kept = _Kept()
    first, second, third = (pod(name, "10.0.0.1") for name in "abc")
    for item in (first, second, third, _ran(first, 5)):
        kept.pods.seen(_read(item))
    assert ([fact.name for fact in kept.facts], kept.counters.dropped) == (["a", "b", "a"], 1)
    kept.pods.deleted(_read(second))
    assert kept.seen(third).name == "c"


def test_init_and_debug_containers_are_the_pods_too() -> None:
    """They send and receive like others."""
    item = pod("x", "10.0.0.1", containers={"main": "c1"})
    main = item["status"]["containerStatuses"][0]
    item = _with(
        item,
        initContainerStatuses=[main | {"name": "init", "containerID": "cri-o://c2"}],
        ephemeralContainerStatuses=[main | {"name": "debug", "containerID": ""}],
    )
    assert _Kept(containers=True).seen(item).containers == {"c1": "main", "c2": "init"}


def test_ports_of_the_host_lead_to_a_pod() -> None:
    """At the node's address, or at the one that the port is bound to; on loopback to none that others see."""
    item = pod("x", "10.0.0.1")
    item["spec"]["containers"][0]["ports"] = [
        {"containerPort": 80, "hostPort": 8080, "hostIP": "0.0.0.0"},  # noqa: S104  # as it is declared
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.168.0.9"},
        {"containerPort": 54, "hostPort": 54, "hostIP": "127.0.0.1"},
        {"containerPort": 443},
        {"containerPort": 9, "hostPort": 9, "protocol": "SCTP"},
    ]
    assert _Kept().seen(item).host_ports == (("192.168.0.1", 8080, "tcp"), ("192.168.0.9", 53, "udp"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _paths(item: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children: list[tuple[Any, object]] = []
    if isinstance(item, dict):
        children = list(item.items())
    elif isinstance(item, list):
        children = list(enumerate(item))
    return [path, *(deeper for key, value in children for deeper in _paths(value, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_stands_in_a_pod_is_dropped_or_a_fact(data: st.DataObject) -> None:
    """Any value in any place: it is refused while decoding, or goes through all that is done with pods."""
    item = pod("a", "10.0.0.1", labels={"app": "x"}, owner=job("j"))
    item["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 8080}]
    path = data.draw(st.sampled_from([path for path in _paths(item) if path]))
    place: Any = item
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(_JSON)
    kept = _Kept(labels=["app"], containers=True)
    try:
        read = msgspec.json.decode(msgspec.json.encode(item), type=Pod)
    except msgspec.ValidationError:
        return
    kept.pods.seen(read)
    kept.pods.seen(read)
    kept.pods.deleted(read)
    kept.pods.synced(set())
    assert len(kept.pods) == 0
    assert not kept.facts or kept.facts[-1].gone_ns
