"""List and watch of one kind of object, as in https://kubernetes.io/docs/reference/using-api/api-concepts/.

The first list comes as a watch that begins with all objects (`sendInitialEvents`, on by default since
Kubernetes 1.34): one object at a time, from the server's cache. Servers without it are asked for pages.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import httpx2
import msgspec

from masdeepflow.enrich.kubernetes.answers import Reader, accept, lines, refuse, whole
from masdeepflow.enrich.kubernetes.backoff import Backoff
from masdeepflow.enrich.kubernetes.connection import AwayError, GoneError
from masdeepflow.enrich.kubernetes.objects import (
    INITIAL_EVENTS_END,
    Bookmark,
    WatchEvent,
)
from masdeepflow.enrich.kubernetes.state import Link

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from masdeepflow.enrich.kubernetes.connection import Server
    from masdeepflow.enrich.kubernetes.objects import ObjectMeta
    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["Keeper", "Pace", "Reflector", "Source"]

_PAGE = 250
_BRIEF_S = 1.0  # a watch that ends sooner is a failure, or else it would be tried again at once
_REFUSED = {httpx2.codes.BAD_REQUEST, httpx2.codes.UNPROCESSABLE_CONTENT}  # unknown parameters
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
_EVENT = msgspec.json.Decoder(WatchEvent)
_BOOKMARK = msgspec.json.Decoder(Bookmark)


class Keeper(Protocol):
    """Who keeps the objects of a watch. model: what they are decoded to, with `metadata`."""

    model: ClassVar[type]

    def seen(self, item: Any, /) -> None:  # noqa: ANN401  # of `model`
        """Take an object as it is now."""

    def deleted(self, item: Any, /) -> None:  # noqa: ANN401  # of `model`
        """Take an object as it was in the end."""

    def synced(self, uids: Collection[str], /) -> None:
        """Drop objects with other uids: these are all that there are."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to watch. what: for sentences. path: below the server. fields: a field selector.

    metadata: whether only that of the objects is wanted.
    """

    what: str
    path: str
    fields: str = ""
    metadata: bool = False

    def headers(self, kind: str) -> dict[str, str]:
        """Return what makes the server leave out all but metadata. kind: of the answer."""
        return {"Accept": _METADATA.format(kind) if self.metadata else "application/json"}


@dataclass(frozen=True, slots=True)
class Pace:
    """watch_s: how long the server is to keep a watch open, up to twice that.

    silence_s: how long a watch may say nothing; servers send a bookmark about every minute.
    first_s, most_s: bounds of the waits between tries.
    """

    watch_s: int = 300
    silence_s: float = 100.0
    first_s: float = 1.0
    most_s: float = 30.0


class Reflector:
    """Keeps a `Keeper` in step with a `Source`.

    link: whether it is in step, and if not, why.
    """

    def __init__(
        self, source: Source, keeper: Keeper, counters: Counters, pace: Pace, server: Server
    ) -> None:
        self.source = source
        self.link = Link(f"{server.where} was not asked yet for {source.what}")
        self._keeper = keeper
        self._counters = counters
        self._pace = pace
        self._server = server
        self._where = server.where
        self._backoff = Backoff(pace.first_s, pace.most_s)
        self._version = ""
        self._streams = True  # whether the server sends the first list as a watch, as far as is known
        self._listed: set[str] | None = None  # uids in the first list, until it is whole
        self._reader = Reader(keeper.model, source.what, server, counters)

    async def run(self) -> None:
        """Watch until cancelled. What fails is told in `link` and tried again, with a new connection."""
        while True:
            wait_s = await self._try()
            await asyncio.sleep(wait_s)

    async def _try(self) -> float:
        """Watch until something fails; return after how many seconds to try again."""
        try:
            async with self._server.connect(self._pace.silence_s) as client:
                while True:
                    await self._once(client)
        except GoneError:
            self._version = ""
            self._counters.relists += 1
            return self._backoff.wait_s()
        except Exception as error:  # noqa: BLE001  # whatever a server or plugin does, the watch goes on
            self.link.lost(self._server.explain(error, self.source.what))
            self._counters.reconnects += 1
            return self._backoff.wait_s(getattr(error, "retry_after_s", 0))

    async def _once(self, client: httpx2.AsyncClient) -> None:
        """Do one request: a list if none is had and none comes with the watch, else a watch."""
        if self._version or self._streams:
            await self._watch(client)
        else:
            await self._list(client)

    async def _watch(self, client: httpx2.AsyncClient) -> None:
        initial = not self._version
        self._listed = set() if initial else None
        start = time.monotonic()
        headers = self.source.headers("PartialObjectMetadata")
        params = self._watch_params()
        async with client.stream("GET", self.source.path, params=params, headers=headers) as answer:
            if initial and answer.status_code in _REFUSED:
                self._streams = False
                return
            await accept(answer, f"the list of {self.source.what}", self._server)
            if not initial:
                self.link.found()
            async for line in lines(answer.aiter_bytes(), self._counters):
                self._event(line)
        if self._listed is not None:
            raise AwayError(f"{self._where} ends before the list of {self.source.what} is whole")
        if time.monotonic() - start < _BRIEF_S:
            raise AwayError(f"{self._where} ends the watch of {self.source.what} at once")
        self._backoff.reset()

    def _watch_params(self) -> Mapping[str, str | int]:
        seconds = self._pace.watch_s * random.uniform(1, 2)  # noqa: S311  # so that agents do not come at once
        params: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": max(1, int(seconds)),
        }
        if self._version:
            params["resourceVersion"] = self._version
        else:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        return params | self._selector()

    def _selector(self) -> dict[str, str]:
        return {"fieldSelector": self.source.fields} if self.source.fields else {}

    def _event(self, line: bytes) -> None:
        try:
            event = _EVENT.decode(line)
        except msgspec.DecodeError as error:
            self._counters.dropped += 1
            raise AwayError(f"{self._where} sends garbage in the watch of {self.source.what}") from error
        if event.type == "ERROR":
            refuse(event.object, 0, f"the watch of {self.source.what}", self._server)
        elif event.type == "BOOKMARK":
            self._bookmark(event.object)
        else:
            self._change(event)

    def _bookmark(self, item: msgspec.Raw) -> None:
        try:
            meta = _BOOKMARK.decode(item).metadata
        except msgspec.DecodeError:
            self._counters.dropped += 1
            return
        if self._listed is None:
            self._version = meta.resource_version or self._version
            self._backoff.reset()
        elif (meta.annotations or {}).get(INITIAL_EVENTS_END) == "true":
            self._complete(self._listed, meta.resource_version)

    def _complete(self, uids: set[str], version: str) -> None:
        """Take note that a list is whole."""
        if not version:
            raise AwayError(f"{self._where} gives the list of {self.source.what} no version")
        self._listed = None
        self._version = version
        self._keeper.synced(uids)
        self.link.found()
        self._backoff.reset()

    def _change(self, event: WatchEvent) -> None:
        item = self._reader.item(event.object)
        if item is None:
            return
        if event.type == "DELETED":
            self._keeper.deleted(item)
        else:
            self._keeper.seen(item)
        self._note(item.metadata, there=event.type != "DELETED")

    def _note(self, meta: ObjectMeta, *, there: bool) -> None:
        """Take note of an object's version, or of its place in the first list."""
        if self._listed is None:
            self._version = meta.resource_version or self._version
            self._backoff.reset()
        elif there:
            self._listed.add(meta.uid)
        else:
            self._listed.discard(meta.uid)

    async def _list(self, client: httpx2.AsyncClient) -> None:
        uids: set[str] = set()
        token: str | None = ""
        while token is not None:
            items, meta = self._reader.page(await self._get_page(client, token))
            for item in items:
                uids.add(item.metadata.uid)
                self._keeper.seen(item)
            token = meta.continue_ or None
        self._complete(uids, meta.resource_version)

    async def _get_page(self, client: httpx2.AsyncClient, token: str) -> bytes:
        params: dict[str, str | int] = {"limit": _PAGE, **self._selector()}
        if token:
            params["continue"] = token
        headers = self.source.headers("PartialObjectMetadataList")
        async with client.stream("GET", self.source.path, params=params, headers=headers) as answer:
            await accept(answer, f"the list of {self.source.what}", self._server)
            return await whole(answer.aiter_bytes(), self.source.what, self._server)
