"""A cluster in which pods come and go, and addresses are given away again at once.

    python -m tests.support.kubernetes_churn PODS CHANGES_A_SECOND

serves one until it is ended, and prints the path of a kubeconfig for it.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.kubernetes import ApiServer
from tests.support.kubernetes_objects import Json, epoch_ns, pod, replica_set, service

if TYPE_CHECKING:
    from masdeepflow.enrich.kubernetes.index import Index

__all__ = ["Churn"]

_NODES = 100
_PODS_A_DEPLOYMENT = 25
_SERVICES = 200


class Churn:
    """So many pods on a hundred nodes, in Deployments of 25, and some Services. The same each time.

    Each change is one of the server's: a pod goes, or another takes its address. full: whether pods have all
    that real ones have, about 8 KB.
    """

    def __init__(self, api: ApiServer, pods: int, *, full: bool = False) -> None:
        self._api = api
        self._full = full
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
        made = pod(
            f"{owner['metadata']['name']}-{number:05x}",
            address,
            node=f"n{number % _NODES}",
            namespace=f"team-{number % 50}",
            labels={"pod-template-hash": "5d9c7b6f4", "app": "web"},
            owner=owner,
            start=number,
        )
        return _filled(made) if self._full else made

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


def _filled(item: Json) -> Json:
    """Return a pod with the variables, mounts, conditions and managed fields that real ones come with."""
    names = [f"SOME_SETTING_{number}" for number in range(30)]
    containers = [
        each
        | {
            "env": [{"name": name, "value": f"value-of-{name.lower()}"} for name in names],
            "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m"}},
            "volumeMounts": [{"name": f"v{number}", "mountPath": f"/mnt/{number}"} for number in range(5)],
        }
        for each in item["spec"]["containers"]
    ]
    volumes = [{"name": f"v{number}", "configMap": {"name": f"settings-{number}"}} for number in range(5)]
    kinds = ("PodScheduled", "Initialized", "PodReadyToStartContainers", "ContainersReady", "Ready")
    since = item["status"]["startTime"]
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": since} for kind in kinds]
    fields = {
        "f:spec": {"f:containers": {f'k:{{"name":"{name}"}}': {".": {}, "f:value": {}} for name in names}},
        "f:status": {f"f:{kind}": {".": {}, "f:lastTransitionTime": {}, "f:status": {}} for kind in kinds},
    }
    managers = [
        {"manager": name, "operation": "Update", "apiVersion": "v1", "time": since, "fieldsType": "FieldsV1"}
        | {"fieldsV1": fields}
        for name in ("kube-controller-manager", "kubelet")
    ]
    return item | {
        "metadata": item["metadata"] | {"managedFields": managers},
        "spec": item["spec"]
        | {"containers": containers, "volumes": volumes, "serviceAccountName": "default"},
        "status": item["status"] | {"conditions": conditions, "qosClass": "Burstable"},
    }


def _serve(pods: int, changes_a_second: int) -> None:
    with ApiServer() as api, tempfile.TemporaryDirectory() as directory:
        churn = Churn(api, pods, full=True)
        print(api.kubeconfig(Path(directory)), flush=True)  # noqa: T201  # for who started this
        while True:
            time.sleep(1 / changes_a_second)
            churn.change()
            api.store.trim(10_000)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    _serve(int(sys.argv[1]), int(sys.argv[2]))
