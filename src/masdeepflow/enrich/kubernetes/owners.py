"""Who a pod belongs to in the end: ReplicaSet -> Deployment, Job -> CronJob; others own pods directly.

A Deployment's ReplicaSet is its name, `-`, and the hash that its pods carry as a label: then the Deployment's
name is proven without a request. All else is looked up in the metadata of ReplicaSets and Jobs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.enrich.kubernetes.limits import Limits
    from masdeepflow.enrich.kubernetes.objects import ObjectMeta, OwnerReference

    Owner = tuple[str, str]
    """kind, name"""

__all__ = ["INTERMEDIATE", "Owners", "controller"]

INTERMEDIATE = {"ReplicaSet": "apps", "Job": "batch"}
"""Kinds that have owners of their own, and their API groups."""

_HASH = "pod-template-hash"
_KEPT = 20_000


class Owners:
    """The owners of pods, and the owners' owners as they become known.

    want: called once for each kind of `INTERMEDIATE` whose objects must be known from now on.
    """

    def __init__(self, limits: Limits, want: Callable[[str], None]) -> None:
        self._limits = limits
        self._want = want
        self._wanted: set[str] = set()
        self._owners: dict[str, Owner] = {}  # uid of a ReplicaSet or Job -> its owner
        self._waiting: dict[str, dict[str, Callable[[str, Owner], None]]] = {}  # uid -> of pods by uid
        self._awaited: dict[str, str] = {}  # uid of a pod -> uid of the owner whose owner it waits for

    def chain(self, pod: ObjectMeta, learnt: Callable[[str, Owner], None]) -> tuple[Owner, ...]:
        """Return the owners of a pod, from the pod outwards.

        learnt: called with the pod's uid and the last owner when that becomes known only later.
        """
        reference = controller(pod)
        if reference is None or reference.kind == "Node":  # of a static pod: nobody's
            return ()
        first = (sys.intern(reference.kind), sys.intern(self._limits.text(reference.name)))
        second = self._second(reference, pod, learnt)
        return (first, second) if second else (first,)

    def learn(self, owned: ObjectMeta) -> None:
        """Take note of who owns a ReplicaSet or Job."""
        reference = controller(owned)
        if reference is None:
            return
        owner = (sys.intern(self._limits.text(reference.kind)), sys.intern(self._limits.text(reference.name)))
        if len(self._owners) >= _KEPT:
            del self._owners[next(iter(self._owners))]
        self._owners[owned.uid] = owner
        for uid, learnt in self._waiting.pop(owned.uid, {}).items():
            del self._awaited[uid]
            learnt(uid, owner)

    def forget(self, pod: str) -> None:
        """Wait no longer on behalf of a pod (uid) that is gone."""
        owner = self._awaited.pop(pod, None)
        if owner:
            waiting = self._waiting[owner]
            del waiting[pod]
            if not waiting:
                del self._waiting[owner]

    def _second(
        self, reference: OwnerReference, pod: ObjectMeta, learnt: Callable[[str, Owner], None]
    ) -> Owner | None:
        group = reference.api_version.partition("/")[0]
        if INTERMEDIATE.get(reference.kind) != group:
            return None
        if reference.kind == "ReplicaSet" and (name := _deployment(reference.name, pod)):
            return "Deployment", sys.intern(self._limits.text(name))
        known = self._owners.get(reference.uid)
        if known is None:
            self.forget(pod.uid)
            self._waiting.setdefault(reference.uid, {})[pod.uid] = learnt
            self._awaited[pod.uid] = reference.uid
            self._watch(reference.kind)
        return known

    def _watch(self, kind: str) -> None:
        if kind not in self._wanted:
            self._wanted.add(kind)
            self._want(kind)


def controller(owned: ObjectMeta) -> OwnerReference | None:
    """Return the owner that manages an object."""
    return next((each for each in owned.owner_references or () if each.controller), None)


def _deployment(replica_set: str, pod: ObjectMeta) -> str:
    """Return the name of the Deployment if the pod's hash proves it, else nothing."""
    template = (pod.labels or {}).get(_HASH)
    name, _, suffix = replica_set.rpartition("-")
    return name if template and suffix == template else ""
