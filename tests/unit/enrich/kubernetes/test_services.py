"""Services as they are described -> facts."""

from __future__ import annotations

import msgspec
import pytest

from masdeepflow.enrich.facts import ServiceFact, ServicePort
from masdeepflow.enrich.kubernetes import services as module
from masdeepflow.enrich.kubernetes.limits import Limits
from masdeepflow.enrich.kubernetes.objects import Service
from masdeepflow.enrich.kubernetes.services import Services
from masdeepflow.enrich.kubernetes.state import Counters
from tests.support.kubernetes_objects import Json, check, epoch_ns, service


class _Kept:
    def __init__(self) -> None:
        self.facts: list[ServiceFact] = []
        self.services = Services(self.facts.append, Limits(Counters()), clock=lambda: epoch_ns(1000))

    def seen(self, item: Json) -> ServiceFact:
        check(item)
        self.services.seen(msgspec.convert(item, Service))
        return self.facts[-1]


def test_a_service_gives_its_addresses_and_ports() -> None:
    """Cluster addresses, external ones, and those of its load balancer; each port with its transport."""
    ports: list[Json] = [
        {"port": 80, "nodePort": 30080},
        {"port": 53, "protocol": "UDP"},
        {"port": 9, "protocol": "SCTP"},
    ]
    item = service("shop", "10.96.0.1", "FD00::1", namespace="shop", ports=ports, start=5)
    item["spec"]["externalIPs"] = ["203.0.113.1"]
    item["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}, {"hostname": "lb.example"}]}}
    fact = _Kept().seen(item)
    assert fact.addresses == ("10.96.0.1", "fd00::1", "203.0.113.1", "203.0.113.2")
    assert fact.ports == (ServicePort(80, "tcp", 30080), ServicePort(53, "udp"))
    assert (fact.name, fact.namespace, fact.from_ns, fact.gone_ns) == ("shop", "shop", epoch_ns(5), 0)


@pytest.mark.parametrize("ip", ["None", ""])
def test_a_service_without_an_address_has_none(ip: str) -> None:
    """A headless one, or a name of something outside."""
    item = service("db")
    item["spec"]["clusterIP"] = ip
    assert _Kept().seen(item).addresses == ()


def test_a_service_that_is_deleted_or_not_listed_is_gone() -> None:
    """Now, by the agent's clock."""
    kept = _Kept()
    first, second = service("a", "10.96.0.1"), service("b", "10.96.0.2")
    kept.seen(first)
    kept.seen(second)
    kept.services.deleted(msgspec.convert(first, Service))
    kept.services.synced(set())
    assert [(fact.name, fact.gone_ns) for fact in kept.facts[2:]] == [
        ("a", epoch_ns(1000)),
        ("b", epoch_ns(1000)),
    ]
    assert len(kept.services) == 0


def test_only_what_is_new_is_offered() -> None:
    """A version or an annotation is not."""
    kept = _Kept()
    item = service("a", "10.96.0.1")
    kept.seen(item)
    item["metadata"]["annotations"] = {"x": "y"}
    kept.seen(item)
    assert len(kept.facts) == 1


def test_what_strangers_write_is_bounded() -> None:
    """Thousands of ports and addresses."""
    ports = [{"port": number, "name": f"p{number}"} for number in range(1, 5000)]
    item = service("a", *(f"10.96.{number >> 8}.{number & 255}" for number in range(5000)), ports=ports)
    fact = _Kept().seen(item)
    assert (len(fact.addresses), len(fact.ports)) == (64, 256)


def test_more_services_than_can_be_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known go on."""
    monkeypatch.setattr(module, "_MOST", 2)
    kept = _Kept()
    items = [service(name, "10.96.0.1") for name in "abc"]
    for item in items:
        kept.seen(item)
    items[0]["spec"]["ports"] = [{"port": 81}]
    assert kept.seen(items[0]).ports == (ServicePort(81),)
    assert [fact.name for fact in kept.facts] == ["a", "b", "a"]
