"""Who a pod belongs to in the end."""

from __future__ import annotations

import pytest

from masdeepflow.enrich.kubernetes import owners as module
from masdeepflow.enrich.kubernetes.limits import TEXT, Limits
from masdeepflow.enrich.kubernetes.objects import ObjectMeta, OwnerReference
from masdeepflow.enrich.kubernetes.owners import Owners
from masdeepflow.enrich.kubernetes.state import Counters

_VERSIONS = {"ReplicaSet": "apps/v1", "Job": "batch/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1"}


class _Told:
    """What owners tell of: kinds they want, and what was learnt of pods."""

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.learnt: list[tuple[str, tuple[str, str]]] = []
        self.owners = Owners(Limits(Counters()), self.wanted.append)

    def chain(self, kind: str, name: str, labels: dict[str, str] | None = None, uid: str = "p") -> object:
        pod = ObjectMeta(uid=uid, labels=labels, owner_references=[_reference(kind, name)])
        return self.owners.chain(pod, lambda uid, owner: self.learnt.append((uid, owner)))


def _reference(kind: str, name: str, version: str = "", *, controller: bool | None = True) -> OwnerReference:
    return OwnerReference(kind, name, f"uid-{name}", version or _VERSIONS.get(kind, "x/v1"), controller)


def _owned(name: str, kind: str, owner: str) -> ObjectMeta:
    return ObjectMeta(name=name, uid=f"uid-{name}", owner_references=[_reference(kind, owner)])


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "ReplicationController", "CloneSet"])
def test_most_owners_own_pods_directly(kind: str) -> None:
    """Kinds that nobody has heard of too."""
    told = _Told()
    assert told.chain(kind, "db") == ((kind, "db"),)
    assert told.wanted == []


def test_a_deployment_is_proven_by_the_hash_of_its_pods() -> None:
    """It is the end of the ReplicaSet's name and a label of the pod."""
    told = _Told()
    hashed = {"pod-template-hash": "5d9"}
    assert told.chain("ReplicaSet", "web-5d9", hashed) == (("ReplicaSet", "web-5d9"), ("Deployment", "web"))
    assert told.chain("ReplicaSet", "a-b-5d9", hashed) == (("ReplicaSet", "a-b-5d9"), ("Deployment", "a-b"))
    assert told.wanted == []


@pytest.mark.parametrize("labels", [None, {}, {"pod-template-hash": "7c1"}, {"pod-template-hash": ""}])
def test_without_proof_a_replica_set_is_looked_up(labels: dict[str, str] | None) -> None:
    """A name alone proves nothing: whoever made it may have taken any."""
    told = _Told()
    assert told.chain("ReplicaSet", "web-5d9", labels) == (("ReplicaSet", "web-5d9"),)
    assert told.chain("ReplicaSet", "web-5d9", labels) == (("ReplicaSet", "web-5d9"),)
    assert told.wanted == ["ReplicaSet"]


def test_a_look_up_reaches_those_who_wait() -> None:
    """Once, and all who ask later at once."""
    told = _Told()
    told.chain("Job", "nightly-29", uid="p1")
    told.chain("Job", "nightly-29", uid="p2")
    told.owners.learn(_owned("nightly-29", "CronJob", "nightly"))
    assert told.learnt == [("p1", ("CronJob", "nightly")), ("p2", ("CronJob", "nightly"))]
    told.owners.learn(_owned("nightly-29", "CronJob", "nightly"))
    assert len(told.learnt) == 2
    assert told.chain("Job", "nightly-29") == (("Job", "nightly-29"), ("CronJob", "nightly"))


def test_pods_that_are_gone_do_not_wait() -> None:
    """Nothing is kept for them."""
    told = _Told()
    told.chain("Job", "a", uid="p1")
    told.chain("Job", "b", uid="p1")
    told.chain("Job", "b", uid="p2")
    for uid in ("p1", "p2", "p2", "unknown"):
        told.owners.forget(uid)
    told.owners.learn(_owned("b", "CronJob", "c"))
    assert told.learnt == []
    assert not told.owners._waiting
    assert not told.owners._awaited


def test_owners_that_do_not_manage_do_not_count() -> None:
    """Nor does the Node of a static pod, nor a kind of the same name in another group."""
    told = _Told()
    other = ObjectMeta(uid="p", owner_references=[_reference("Job", "a", controller=None)])
    assert told.owners.chain(other, lambda *_: None) == ()
    assert told.owners.chain(ObjectMeta(), lambda *_: None) == ()
    assert told.chain("Node", "n1") == ()
    foreign = ObjectMeta(owner_references=[_reference("Job", "a", "volcano.sh/v1")])
    assert told.owners.chain(foreign, lambda *_: None) == (("Job", "a"),)
    assert told.wanted == []


def test_names_are_cut() -> None:
    """Like all that strangers write."""
    assert _Told().chain("DaemonSet", "x" * 10_000) == (("DaemonSet", "x" * TEXT),)


def test_what_is_learnt_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(module, "_KEPT", 10)
    told = _Told()
    for number in range(100):
        told.owners.learn(_owned(f"j{number}", "CronJob", "c"))
    assert len(told.owners._owners) == 10
    assert told.chain("Job", "j99") == (("Job", "j99"), ("CronJob", "c"))
