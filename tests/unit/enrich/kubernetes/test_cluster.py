"""A cluster, watched at a double of its API server over real sockets."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow import __version__
from masdeepflow.enrich.kubernetes.cluster import Cluster
from masdeepflow.enrich.kubernetes.connection import ConfigurationError
from masdeepflow.enrich.kubernetes.reflector import Pace
from tests.support.kubernetes import ApiServer, make_tls
from tests.support.kubernetes_churn import Churn
from tests.support.kubernetes_objects import epoch_ns, job, pod, replica_set, service
from tests.support.kubernetes_watcher import Watcher
from tests.unit.enrich.kubernetes.conftest import PACE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.enrich.kubernetes.conftest import WatchCluster


def test_deployment_and_service_names_appear(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """A Deployment by the hash in its pods' labels, a Service by its address, a node port by its number."""
    web = replica_set("web-5d9", deployment="web")
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    api.put(
        pod("web-5d9-x", "10.0.0.1", owner=web, labels={"pod-template-hash": "5d9"}, containers={"c": "c1"}),
        service("shop", "10.96.0.1", ports=ports),
    )
    watcher = watch_cluster(api)
    watcher.until_connected()
    found = watcher.index.pod_of_container("c1")
    assert found is not None
    assert found.owners == (("ReplicaSet", "web-5d9"), ("Deployment", "web"))
    assert found.containers == {"c1": "c"}
    for named in (
        watcher.index.service_at("10.96.0.1", 80, "tcp", epoch_ns(10)),
        watcher.index.node_port(30080, "tcp"),
    ):
        assert named is not None
        assert named.name == "shop"
    assert not any("replicasets" in path for path in api.requests)


def test_owners_that_names_do_not_prove_are_looked_up(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """ReplicaSets without a hash and Jobs: their metadata only, and only when a pod needs them."""
    rollout, nightly = replica_set("web-canary", deployment="web"), job("nightly-29", cron_job="nightly")
    api.put(rollout, nightly)
    watcher = watch_cluster(api)
    watcher.until_connected()
    assert not any("/apis/" in path for path in api.requests)
    api.put(pod("a", "10.0.0.1", owner=rollout), pod("b", "10.0.0.2", owner=nightly, node="n2"))

    def owners(address: str) -> tuple[tuple[str, str], ...]:
        found = watcher.pod_at(address)
        return found.owners if found else ()

    watcher.until(lambda: owners("10.0.0.1") == (("ReplicaSet", "web-canary"), ("Deployment", "web")))
    watcher.until(lambda: owners("10.0.0.2") == (("Job", "nightly-29"), ("CronJob", "nightly")))


def test_other_nodes_pods_are_only_identities(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """Their containers are not kept; pods that are not scheduled, or ended, are not even sent."""
    pending = pod("pending", node="")
    ended = pod("ended", "10.0.0.8", node="n2")
    ended["status"]["phase"] = "Succeeded"
    api.put(pod("here", "10.0.0.1"), pod("there", "10.0.0.2", node="n2"), pending, ended)
    watcher = watch_cluster(api)
    watcher.until_connected()
    here, there = watcher.pod_at("10.0.0.1"), watcher.pod_at("10.0.0.2")
    assert here is not None
    assert there is not None
    assert list(here.containers.values()) == ["main"]
    assert there.containers == {}
    assert (watcher.taken, watcher.state().pods) == (2, 2)


def test_an_address_moves_to_another_pod(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """Records before and after carry the right one each."""
    first = pod("first", "10.0.0.1", node="n2", start=0)
    api.put(first)
    watcher = watch_cluster(api)
    watcher.until_connected()
    api.remove(first)
    api.put(pod("second", "10.0.0.1", start=60))
    watcher.until(lambda: watcher.name_at("10.0.0.1", 61) == "second")
    assert watcher.name_at("10.0.0.1", 59) == "first"


def test_a_server_that_is_away_at_the_start_is_waited_for(watch_cluster: WatchCluster) -> None:
    """It is said why, and all is learnt once it comes."""
    api = ApiServer()
    api.put(pod("a", "10.0.0.1"))
    watcher = watch_cluster(api)
    watcher.until(lambda: watcher.state().reconnects > 2)
    assert not watcher.state().connected
    assert f"{api.url} is not reached" in watcher.state().sentence
    with api:
        watcher.until_connected()
        assert watcher.name_at("10.0.0.1") == "a"


def test_a_server_that_goes_away_leaves_what_is_known(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """And is caught up with when it is back: what is new, what changed, and what went meanwhile."""
    old = pod("old", "10.0.0.2")
    api.put(pod("a", "10.0.0.1"), old)
    watcher = watch_cluster(api)
    watcher.until_connected()
    since = watcher.state().since
    api.stop()
    watcher.until(lambda: not watcher.state().connected)
    assert watcher.state().since > since
    assert watcher.name_at("10.0.0.1") == "a"
    api.remove(old)
    api.put(pod("new", "10.0.0.2", start=60))
    api.start()
    watcher.until(lambda: watcher.name_at("10.0.0.2", 61) == "new")
    watcher.until_connected()
    assert watcher.state().relists == 0


def test_a_service_account_is_used_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its CA and its token, which is read again when it was renewed."""
    with ApiServer(token="first", tls=make_tls(tmp_path)) as api:  # noqa: S106  # the double's
        api.put(pod("a", "10.0.0.1"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        account = api.service_account(tmp_path)
        with Watcher(Cluster("n1", service_account=str(account), pace=PACE)) as watcher:
            watcher.until_connected()
            api.token = "second"  # noqa: S105
            api.cut()
            watcher.until(lambda: "401" in watcher.state().sentence)
            api.service_account(tmp_path)
            watcher.until_connected()
            assert watcher.name_at("10.0.0.1") == "a"


def test_a_token_is_renewed_before_the_old_one_ends(tmp_path: Path) -> None:
    """Servers take expired tokens for a while, and note who brings them."""
    with ApiServer() as api:
        account = api.service_account(tmp_path)
        path = api.kubeconfig(tmp_path)
        config = json.loads(path.read_text())
        config["users"][0]["user"] = {"tokenFile": str(account / "token")}
        path.write_text(json.dumps(config))
        (account / "token").write_text("first")
        with Watcher(Cluster("n1", kubeconfig=str(path), pace=Pace(watch_s=1))) as watcher:
            watcher.until_connected()
            (account / "token").write_text("second")
            watcher.until(lambda: "Bearer second" in api.authorizations)
        assert watcher.state().reconnects == 0


@pytest.mark.parametrize("name", ["n1,spec.nodeName=n2", "N 1", "n\n", "x" * 300])
def test_what_is_no_node_name_is_refused_at_once(api: ApiServer, tmp_path: Path, name: str) -> None:
    """It would become part of a request."""
    with pytest.raises(ConfigurationError, match="is not the name of a Node"):
        Cluster(name, kubeconfig=str(api.kubeconfig(tmp_path)))


def test_the_server_is_told_who_asks(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """With the version: the server's audit log has it."""
    watch_cluster(api).until_connected()
    assert api.agents == {f"masdeepflow/{__version__}"}


def test_without_a_node_name_all_pods_are_known_in_full(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """Containers of this host are among theirs."""
    api.put(pod("a", "10.0.0.1", containers={"c": "c1"}))
    api.put(pod("b", "10.0.0.2", containers={"c": "c2"}, node="n2"))
    watcher = watch_cluster(api, node="")
    watcher.until_connected()
    assert watcher.index.pod_of_container("c1")
    assert watcher.index.pod_of_container("c2")


def test_other_nodes_can_be_left_out(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """Nothing of them is asked for."""
    api.put(pod("a", "10.0.0.1"), pod("b", "10.0.0.2", node="n2"))
    watcher = watch_cluster(api, others=False)
    watcher.until_connected()
    assert watcher.name_at("10.0.0.1") == "a"
    assert watcher.name_at("10.0.0.2") == ""
    assert not any("%21%3D" in path for path in api.requests)


def test_a_kind_that_may_not_be_listed_leaves_the_others(api: ApiServer, watch_cluster: WatchCluster) -> None:
    """And is told with its remedy."""
    api.faults.forbidden = {"Service"}
    api.put(pod("a", "10.0.0.1"), service("s", "10.96.0.1"))
    watcher = watch_cluster(api)
    watcher.until(lambda: "403 to the list of Services" in watcher.state().sentence)
    watcher.until(lambda: watcher.name_at("10.0.0.1") == "a")
    assert not watcher.state().connected


def test_churn_of_5000_pods_with_dropped_watches_ends_in_step(
    api: ApiServer, watch_cluster: WatchCluster
) -> None:
    """50 changes a second, addresses that are given away again, cuts, an outage, versions that are gone."""
    churn = Churn(api, 5000)
    watcher = watch_cluster(api, node="n0")
    watcher.until_connected()
    for second in range(6):
        for _ in range(50):
            churn.change()
            watcher.take()
            time.sleep(0.01)
        [api.cut, api.compact, api.stop, api.start, api.cut, api.cut][second]()
    api.put(pod("last", "10.255.0.1"))
    watcher.until(lambda: watcher.name_at("10.255.0.1") == "last")
    watcher.until_connected()
    watcher.until(lambda: churn.differences(watcher.index) == [])
    state = watcher.state()
    assert state.pods == 5001
    assert state.reconnects > 0
    assert state.dropped == state.cut == 0
