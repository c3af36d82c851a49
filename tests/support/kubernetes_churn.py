"""A cluster in which pods come and go, and addresses are given away again at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.support.kubernetes_objects import Json, epoch_ns, pod, replica_set, service

if TYPE_CHECKING:
    from masdeepflow.enrich.kubernetes.index import Index
    from tests.support.kubernetes import ApiServer

__all__ = ["Churn"]

_NODES = 100
_PODS_A_DEPLOYMENT = 25
_SERVICES = 200


class Churn:
    """So many pods on a hundred nodes, in Deployments of 25, and some Services. The same each time.

    Each change is one of the server's: a pod goes, or another takes its address.
    """

    def __init__(self, api: ApiServer, pods: int) -> None:
        self._api = api
        self._random = random.Random(pods)  # noqa: S311  # not for secrets
        self._made = 0
        self._free: list[str] = []
        deployments = max(1, pods // _PODS_A_DEPLOYMENT)
        self._owners = [
            replica_set(f"web-{number}-5d9c7b6f4", deployment=f"web-{number}")
            for number in range(deployments)
        ]
        self.there = [
            self._make(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(pods)
        ]
        """Pods that are there now."""
        self.gone: list[Json] = []
        """Pods that are not any more."""
        api.put(*self.there, *(service(f"s{number}", f"10.96.0.{number}") for number in range(_SERVICES)))

    def _make(self, address: str) -> Json:
        number = self._made
        self._made += 1
        owner = self._owners[number % len(self._owners)]
        return pod(
            f"{owner['metadata']['name']}-{number:05x}",
            address,
            node=f"n{number % _NODES}",
            namespace=f"team-{number % 50}",
            labels={"pod-template-hash": "5d9c7b6f4", "app": "web"},
            owner=owner,
            start=number,
        )

    def change(self) -> None:
        """Do one change."""
        if self._free:
            self.there.append(self._make(self._free.pop()))
            self._api.put(self.there[-1])
        else:
            gone = self.there.pop(self._random.randrange(len(self.there)))
            self._free.append(gone["status"]["podIP"])
            self._api.remove(gone)
            self.gone.append(gone)

    def differences(self, index: Index) -> list[str]:
        """Return the names of pods that an index does not name rightly by their address, now or then."""
        now = epoch_ns(self._made + 1)
        wrong = [
            item["metadata"]["name"]
            for item in self.there
            if (found := index.pod_at(item["status"]["podIP"], now)) is None
            or found.uid != item["metadata"]["uid"]
            or found.owners[-1][0] != "Deployment"
        ]
        kept = [index.pod_by_uid(item["metadata"]["uid"]) for item in self.gone]
        return wrong + [fact.name for fact in kept if fact and not fact.gone_ns]
