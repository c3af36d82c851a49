"""Services as the API server describes them -> facts, where they say something new."""

from __future__ import annotations

import sys
import time
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import msgspec

from masdeepflow.enrich.facts import ServiceFact, ServicePort
from masdeepflow.enrich.kubernetes.limits import addresses
from masdeepflow.enrich.kubernetes.objects import TRANSPORTS, Service, unix_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from masdeepflow.enrich.kubernetes.limits import Limits

__all__ = ["Services"]

_MOST = 20_000
_ADDRESSES = 64
_PORTS = 256


class Services:
    """The Services of one watch, each with its last fact. offer: takes a fact that is new."""

    model: ClassVar[type] = Service

    def __init__(
        self, offer: Callable[[ServiceFact], None], limits: Limits, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._offer = offer
        self._limits = limits
        self._clock = clock
        self._known: dict[str, ServiceFact] = {}

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, service: Service) -> None:
        """Take a Service as it is now."""
        fact = self._fact(service)
        known = self._known.get(fact.uid)
        if known != fact and (known or not self._limits.full(len(self._known), _MOST)):
            self._known[fact.uid] = fact
            self._offer(fact)

    def deleted(self, service: Service) -> None:
        """Take a Service as it was in the end."""
        self._end(service.metadata.uid)

    def synced(self, uids: Collection[str]) -> None:
        """Let all go that are not among those there."""
        for uid in [uid for uid in self._known if uid not in uids]:
            self._end(uid)

    def _end(self, uid: str) -> None:
        fact = self._known.pop(uid, None)
        if fact:
            self._offer(msgspec.structs.replace(fact, gone_ns=self._clock()))

    def _fact(self, service: Service) -> ServiceFact:
        text = self._limits.text
        meta = service.metadata
        ports = self._limits.first(_ports(service), _PORTS)
        return ServiceFact(
            uid=text(meta.uid),
            name=text(meta.name),
            namespace=sys.intern(text(meta.namespace)),
            addresses=tuple(self._limits.first(dict.fromkeys(addresses(_ips(service))), _ADDRESSES)),
            ports=tuple(ports),
            from_ns=unix_ns(meta.creation_timestamp),
        )


def _ips(service: Service) -> Iterator[str]:
    spec, balancer = service.spec, service.status.load_balancer
    return chain(
        [spec.cluster_ip],
        spec.cluster_ips or (),
        spec.external_ips or (),
        (each.ip for each in (balancer and balancer.ingress) or ()),
    )


def _ports(service: Service) -> Iterator[ServicePort]:
    for each in service.spec.ports or ():
        transport = TRANSPORTS.get(each.protocol)
        if transport:
            yield ServicePort(each.port, transport, each.node_port)
