"""Pods and Services by container, address and port."""

from __future__ import annotations

import random

from msgspec.structs import replace

from masdeepflow.enrich.facts import ContainerFact, PodFact, ServiceFact, ServicePort
from masdeepflow.enrich.kubernetes.index import NOTHING, RETENTION_NS, Index

_S = 1_000_000_000
_NOW = 1_800_000_000 * _S

_WEB = PodFact(
    uid="u1",
    name="web-5d9-x",
    namespace="shop",
    node="n1",
    addresses=("10.0.0.1", "fd00::1"),
    owners=(("ReplicaSet", "web-5d9"), ("Deployment", "web")),
    containers={"c1": "nginx", "c2": "sidecar"},
    from_ns=_NOW,
)
_PROXY = PodFact(
    "u2", "proxy", "kube-system", node="n1", addresses=("192.168.0.1",), host_network=True, from_ns=_NOW
)
_SHOP = ServiceFact(
    "s1",
    "shop",
    "shop",
    addresses=("10.96.0.1", "203.0.113.1"),
    ports=(ServicePort(80, node_port=30080), ServicePort(53, "udp", 30053)),
    from_ns=_NOW,
)


def _index(*facts: PodFact | ServiceFact) -> Index:
    index = Index()
    for fact in facts:
        index.apply(fact)
    return index


def _name(found: PodFact | ServiceFact | None) -> str | None:
    return found.name if found else None


def test_a_pod_is_found_by_container_uid_and_address() -> None:
    """All ways lead to the same fact."""
    index = _index(_WEB)
    assert index.pod_of_container("c2") is index.pod_by_uid("u1") is index.pod_at("fd00::1", _NOW) is _WEB


def test_what_is_not_known_is_none() -> None:
    """Never the nearest of something else."""
    index = _index(_WEB, _SHOP)
    assert index.pod_of_container("") is index.pod_of_container("c9") is index.pod_by_uid("") is None
    assert index.pod_at("10.0.0.9", _NOW) is None
    assert index.service_at("10.0.0.1", 80, "tcp", _NOW) is None
    assert index.node_port(80, "tcp") is None
    assert index.node_at("10.0.0.1") is None


def test_a_fact_tells_what_it_changes() -> None:
    """Containers, uid and addresses, those that the pod had before included."""
    index = Index()
    assert index.apply(_WEB) == (("c1", "c2"), ("u1",), ("10.0.0.1", "fd00::1"))
    assert index.apply(replace(_WEB)) is NOTHING
    moved = replace(_WEB, addresses=("10.0.0.2",), from_ns=_NOW + _S)
    assert index.apply(moved).addresses == ("10.0.0.1", "fd00::1", "10.0.0.2")
    assert index.apply(_SHOP) == ((), (), ("10.96.0.1", "203.0.113.1"))
    assert index.apply(ContainerFact("c1")) is NOTHING


def test_an_address_that_moves_to_another_pod_names_each_for_its_time() -> None:
    """Records before and after carry the right one each."""
    index = _index(
        _WEB,
        replace(_WEB, gone_ns=_NOW + 60 * _S),
        PodFact("u3", "new", "shop", addresses=("10.0.0.1",), from_ns=_NOW + 62 * _S),
    )
    assert _name(index.pod_at("10.0.0.1", _NOW + 59 * _S)) == "web-5d9-x"
    assert _name(index.pod_at("10.0.0.1", _NOW + 63 * _S)) == "new"


def test_a_pod_in_the_hosts_network_is_not_named_by_address() -> None:
    """Its address is the node's, and names the node as long as one such pod is there."""
    index = _index(_PROXY, other := replace(_PROXY, uid="u4"))
    assert index.pod_at("192.168.0.1", _NOW) is None
    assert index.node_at("192.168.0.1") == "n1"
    index.apply(replace(_PROXY, gone_ns=_NOW + _S))
    assert index.node_at("192.168.0.1") == "n1"
    index.apply(replace(other, gone_ns=_NOW + _S))
    assert index.node_at("192.168.0.1") is None


def test_the_ids_of_restarted_containers_still_name_the_pod() -> None:
    """The newest of them, however often a container restarts."""
    index = _index(*(replace(_WEB, containers={f"c{number}": "nginx"}) for number in range(1000)))
    assert index.pod_of_container("c999") is index.pod_of_container("c990")
    assert _name(index.pod_of_container("c999")) == "web-5d9-x"
    assert index.pod_of_container("c0") is None
    assert len(index._containers) <= 64


def test_a_service_is_told_from_others_at_its_address_by_port() -> None:
    """An external address is shared; a cluster address is the Service's own, whatever the port."""
    mail = ServiceFact("s2", "mail", "shop", ("10.96.0.2", "203.0.113.1"), (ServicePort(25),), _NOW)
    index = _index(_SHOP, mail)
    assert _name(index.service_at("203.0.113.1", 25, "tcp", _NOW)) == "mail"
    assert _name(index.service_at("203.0.113.1", 80, "tcp", _NOW)) == "shop"
    assert index.service_at("203.0.113.1", 80, "udp", _NOW) is None
    assert _name(index.service_at("10.96.0.2", 9999, "tcp", _NOW)) == "mail"


def test_a_cluster_address_that_another_service_gets_names_each_for_its_time() -> None:
    """Like a pod's."""
    index = _index(replace(_SHOP, gone_ns=_NOW + 60 * _S))
    index.apply(ServiceFact("s2", "mail", "shop", ("10.96.0.1",), (ServicePort(80),), _NOW + 70 * _S))
    assert _name(index.service_at("10.96.0.1", 80, "tcp", _NOW + 59 * _S)) == "shop"
    assert _name(index.service_at("10.96.0.1", 80, "tcp", _NOW + 80 * _S)) == "mail"


def test_a_node_port_names_its_service_while_it_has_it() -> None:
    """Not after the Service dropped the port, or went."""
    index = _index(_SHOP)
    assert _name(index.node_port(30080, "tcp")) == "shop"
    assert index.node_port(30080, "udp") is None
    index.apply(replace(_SHOP, ports=(ServicePort(80),)))
    assert index.node_port(30080, "tcp") is None
    index.apply(_SHOP)
    index.apply(replace(_SHOP, gone_ns=_NOW + _S))
    assert index.node_port(30080, "tcp") is None


def test_a_node_port_is_the_services_at_every_nodes_address() -> None:
    """And at no other; a change of node ports changes what nodes' addresses mean."""
    index = _index(_PROXY)
    assert "192.168.0.1" in index.apply(_SHOP).addresses
    assert "192.168.0.1" not in index.apply(replace(_SHOP, name="store")).addresses
    assert _name(index.service_at("192.168.0.1", 30080, "tcp", _NOW)) == "store"
    assert index.service_at("192.168.0.1", 80, "tcp", _NOW) is None
    assert index.service_at("192.168.0.2", 30080, "tcp", _NOW) is None


def test_a_port_of_the_host_names_its_pod() -> None:
    """Declared by a pod in the host's network, or led to one that is not; while it is there."""
    ports = (("192.168.0.1", 9100, "tcp"), ("192.168.0.1", 50000, "tcp"))
    exporter = replace(_PROXY, name="exporter", host_ports=ports)
    index = Index()
    assert index.apply(exporter).addresses == ("192.168.0.1",)
    assert _name(index.host_port("192.168.0.1", 9100, "tcp")) == "exporter"
    assert index.host_port("192.168.0.1", 9100, "udp") is None
    assert index.host_port("192.168.0.2", 9100, "tcp") is None
    assert index.host_port("192.168.0.1", 50000, "tcp") is None
    index.apply(replace(exporter, gone_ns=_NOW + _S))
    assert index.host_port("192.168.0.1", 9100, "tcp") is None
    assert "192.168.0.1" in index.apply(replace(_WEB, host_ports=ports)).addresses
    assert _name(index.host_port("192.168.0.1", 9100, "tcp")) == "web-5d9-x"


def test_what_is_gone_answers_for_a_while_and_is_then_forgotten() -> None:
    """By the time of the facts, so that a replay forgets at the same one."""
    index = _index(_WEB, _SHOP)
    index.apply(replace(_WEB, gone_ns=_NOW + _S))
    index.apply(replace(_SHOP, gone_ns=_NOW + _S))
    assert _name(index.pod_of_container("c1")) == "web-5d9-x"
    index.apply(replace(_PROXY, gone_ns=_NOW + 2 * _S + RETENTION_NS))
    assert index.pod_of_container("c1") is index.pod_by_uid("u1") is index.pod_at("10.0.0.1", _NOW) is None
    assert index.service_at("10.96.0.1", 80, "tcp", _NOW) is None


def test_what_came_back_is_not_forgotten() -> None:
    """A list from before may have missed it."""
    index = _index(_WEB, replace(_WEB, gone_ns=_NOW + _S), _WEB)
    index.apply(replace(_PROXY, gone_ns=_NOW + 2 * _S + RETENTION_NS))
    assert index.pod_at("10.0.0.1", _NOW) is _WEB


def test_churn_leaves_nothing_behind() -> None:
    """However many pods come and go, within one second or many, with addresses that move."""
    generator = random.Random(3)  # noqa: S311  # not for secrets
    index = Index()
    for number in range(30_000):
        born = _NOW + number * _S // 50
        pod = replace(
            _WEB,
            uid=f"u{number}",
            addresses=(f"10.0.{generator.randrange(20)}.{generator.randrange(250)}",),
            containers={f"c{number}": "c"},
            host_ports=(("192.168.0.1", number % 1000, "tcp"),),
            from_ns=born,
        )
        index.apply(pod)
        if generator.random() < 0.1:
            pod = replace(pod, addresses=(f"10.1.0.{generator.randrange(250)}",), from_ns=born + 1)
            index.apply(pod)
        assert index.pod_at(pod.addresses[0], pod.from_ns) is pod
        index.apply(replace(pod, gone_ns=born + 10))
    assert len(index) <= 10_001
    assert len(index._containers) == len(index._ids) == len(index)
    index.apply(replace(_PROXY, gone_ns=_NOW + 10_000_000 * _S))
    assert len(index) == 1
    assert (len(index._containers), len(index._pod_addresses), len(index._nodes)) == (0, 0, 0)
    assert (len(index._pod_addresses._former), len(index._host_ports)) == (0, 0)
