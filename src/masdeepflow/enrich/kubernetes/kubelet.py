"""The pods of this node as its kubelet tells them, without the API server: no Services, no other nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, Context, User

from masdeepflow.enrich.kubernetes.answers import Reader, accept, whole
from masdeepflow.enrich.kubernetes.backoff import Backoff
from masdeepflow.enrich.kubernetes.connection import SERVICE_ACCOUNT, ConfigurationError, Server
from masdeepflow.enrich.kubernetes.feed import Feed
from masdeepflow.enrich.kubernetes.limits import Limits
from masdeepflow.enrich.kubernetes.objects import Pod
from masdeepflow.enrich.kubernetes.owners import Owners
from masdeepflow.enrich.kubernetes.pods import Pods
from masdeepflow.enrich.kubernetes.state import Counters, Link, describe

if TYPE_CHECKING:
    from collections.abc import Collection

    import httpx2

    from masdeepflow.enrich.facts import PodFact, ServiceFact
    from masdeepflow.enrich.kubernetes.state import ClusterState

__all__ = ["Kubelet"]

_TOKEN = f"{SERVICE_ACCOUNT}/token"
_WHAT = "the pods of this node"
_SILENCE_S = 10.0


class Kubelet:
    """Asks the kubelet again and again, from a thread of its own.

    url: `https://NODE:10250`, or `http://NODE:10255` where the read-only port is on. token_file: read at each
    request, not used over http. ca_file: of the kubelet's certificate; system authorities if empty. insecure:
    whether to take any certificate, because most kubelets have one that nobody signed. every_s: between two
    requests. labels: keys of pod labels to keep.

    Raises:
        ConfigurationError: the URL is none; nothing was started.
    """

    def __init__(  # noqa: PLR0913  # options of the command line
        self,
        url: str,
        *,
        token_file: str = _TOKEN,
        ca_file: str = "",
        insecure: bool = False,
        labels: Collection[str] = (),
        every_s: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigurationError(f"{url!r} is not the URL of a kubelet: https://NODE:10250")
        self._server = _server(url, token_file, ca_file, insecure=insecure)
        self._every_s = every_s
        self._backoff = backoff or Backoff()
        self._counters = Counters()
        self._limits = Limits(self._counters)
        self._reader = Reader(Pod, _WHAT, self._server, self._counters)
        self._link = Link(f"{self._server.where} was not asked yet")
        self._feed = Feed("kubelet", self._poll, self._counters)
        owners = Owners(self._limits, _want_nothing)
        self._pods = Pods(self._feed.offer, owners, self._limits, labels=labels, containers=True)

    def start(self) -> None:
        """Begin to ask."""
        self._feed.start()

    def take(self) -> list[PodFact | ServiceFact]:
        """Return what was learnt since the last call, some hundred facts at most. Never waits."""
        return self._feed.take()

    def close(self) -> None:
        """Ask no more."""
        self._feed.close()

    def state(self) -> ClusterState:
        """Return how it stands, from any thread."""
        return describe([self._link], self._server.where, self._counters, len(self._pods), 0)

    async def _poll(self) -> None:
        while True:
            wait_s = await self._try()
            await asyncio.sleep(wait_s)

    async def _try(self) -> float:
        """Ask until it fails; return after how many seconds to try again."""
        try:
            async with self._server.connect(_SILENCE_S) as client:
                while True:
                    await self._ask(client)
                    await asyncio.sleep(self._every_s)
        except Exception as error:  # noqa: BLE001  # whatever a kubelet does, it is asked again
            self._link.lost(self._server.explain(error, _WHAT))
            self._counters.reconnects += 1
            return self._backoff.wait_s(getattr(error, "retry_after_s", 0))

    async def _ask(self, client: httpx2.AsyncClient) -> None:
        async with client.stream("GET", "/pods") as answer:
            await accept(answer, _WHAT, self._server)
            body = await whole(answer.aiter_bytes(), _WHAT, self._server)
        uids = set()
        for pod in self._reader.page(body)[0]:
            self._pods.seen(pod)
            uids.add(pod.metadata.uid)
        self._pods.synced(uids)
        self._link.found()
        self._backoff.reset()


def _server(url: str, token_file: str, ca_file: str, *, insecure: bool) -> Server:
    cluster = Cluster(server=url, certificate_auth=ca_file or None, insecure=insecure)
    user = User(token_file=token_file) if url.startswith("https:") else User()
    return Server(SingleConfig("kubelet", Context(cluster="kubelet"), cluster, user), "the kubelet")


def _want_nothing(_: str) -> None:
    """Leave owners' owners unknown that only the API server can tell."""
