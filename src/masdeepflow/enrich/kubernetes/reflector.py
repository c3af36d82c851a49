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

from masdeepflow.enrich.kubernetes.backoff import Backoff
from masdeepflow.enrich.kubernetes.connection import AwayError, GoneError, Server, refusal
from masdeepflow.enrich.kubernetes.lines import lines
from masdeepflow.enrich.kubernetes.objects import (
    INITIAL_EVENTS_END,
    Bookmark,
    ListMeta,
    Status,
    WatchEvent,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["Keeper", "Pace", "Reflector", "Source"]

_PAGE = 250
_ERROR_BYTES = 64 * 1024
_BRIEF_S = 1.0  # a watch that ends sooner and brought nothing is a failure
_REFUSED = {httpx2.codes.BAD_REQUEST, httpx2.codes.UNPROCESSABLE_CONTENT}  # unknown parameters
_METADATA = "application/json;as={};g=meta.k8s.io;v=v1"
_EVENT = msgspec.json.Decoder(WatchEvent)
_BOOKMARK = msgspec.json.Decoder(Bookmark)
_STATUS = msgspec.json.Decoder(Status)


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

    away: why it is not, None while it is; a sentence from the start.
    """

    def __init__(
        self, source: Source, keeper: Keeper, counters: Counters, pace: Pace, server: Server
    ) -> None:
        self.source = source
        self.away: str | None = f"{server.where} was not asked yet for {source.what}"
        self._keeper = keeper
        self._counters = counters
        self._pace = pace
        self._server = server
        self._where = server.where
        self._backoff = Backoff(pace.first_s, pace.most_s)
        self._version = ""
        self._streams = True  # whether the server sends the first list as a watch, as far as is known
        self._listed: set[str] | None = None  # uids in the first list, until it is whole
        self._item: msgspec.json.Decoder[Any] = msgspec.json.Decoder(keeper.model)
        self._page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_page_of(keeper.model))

    async def run(self) -> None:
        """Watch until cancelled. What fails is told in `away` and tried again, with a new connection."""
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
            self.away = self._server.explain(error, self.source.what)
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
        seen = self._counters.events
        headers = self.source.headers("PartialObjectMetadata")
        params = self._watch_params()
        async with client.stream("GET", self.source.path, params=params, headers=headers) as answer:
            if initial and answer.status_code in _REFUSED:
                self._streams = False
                return
            await self._check(answer)
            if not initial:
                self._arrived()
            async for line in lines(answer.aiter_bytes(), self._counters):
                self._event(line)
        if self._counters.events == seen and time.monotonic() - start < _BRIEF_S:
            raise AwayError(f"{self._where} ends the watch of {self.source.what} at once")

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

    def _arrived(self) -> None:
        self.away = None
        self._backoff.reset()

    def _event(self, line: bytes) -> None:
        try:
            event = _EVENT.decode(line)
        except msgspec.DecodeError as error:
            self._counters.dropped += 1
            raise AwayError(f"{self._where} sends garbage in the watch of {self.source.what}") from error
        if event.type == "ERROR":
            self._fail(event.object)
        elif event.type == "BOOKMARK":
            self._bookmark(event.object)
        else:
            self._change(event)

    def _fail(self, status: msgspec.Raw) -> None:
        try:
            read = _STATUS.decode(status)
        except msgspec.DecodeError:
            read = Status()
        if read.code == httpx2.codes.GONE:
            raise GoneError
        raise AwayError(refusal(read.code, read.message, f"the watch of {self.source.what}", self._where))

    def _bookmark(self, item: msgspec.Raw) -> None:
        try:
            meta = _BOOKMARK.decode(item).metadata
        except msgspec.DecodeError:
            self._counters.dropped += 1
            return
        if self._listed is None:
            self._version = meta.resource_version or self._version
        elif (meta.annotations or {}).get(INITIAL_EVENTS_END) == "true":
            self._complete(self._listed, meta.resource_version)

    def _complete(self, uids: set[str], version: str) -> None:
        """Take note that a list is whole."""
        self._listed = None
        self._version = version
        self._keeper.synced(uids)
        self._arrived()

    def _change(self, event: WatchEvent) -> None:
        try:
            item = self._item.decode(event.object)
        except msgspec.DecodeError:
            self._counters.dropped += 1
            return
        self._counters.events += 1
        if event.type == "DELETED":
            self._keeper.deleted(item)
        else:
            self._keeper.seen(item)
        if self._listed is None:
            self._version = item.metadata.resource_version or self._version
            self._backoff.reset()
        elif event.type == "DELETED":
            self._listed.discard(item.metadata.uid)
        else:
            self._listed.add(item.metadata.uid)

    async def _list(self, client: httpx2.AsyncClient) -> None:
        uids: set[str] = set()
        meta = ListMeta(continue_="")
        while meta.continue_ is not None:
            page = await self._get_page(client, meta.continue_)
            for item in page.items or ():
                self._counters.events += 1
                uids.add(item.metadata.uid)
                self._keeper.seen(item)
            meta = page.metadata
            meta.continue_ = meta.continue_ or None
        self._complete(uids, meta.resource_version)

    async def _get_page(self, client: httpx2.AsyncClient, token: str) -> Any:  # noqa: ANN401  # of `_page_of`
        params: dict[str, str | int] = {"limit": _PAGE, **self._selector()}
        if token:
            params["continue"] = token
        headers = self.source.headers("PartialObjectMetadataList")
        async with client.stream("GET", self.source.path, params=params, headers=headers) as answer:
            await self._check(answer)
            body = await answer.aread()
        try:
            return self._page.decode(body)
        except msgspec.DecodeError as error:
            self._counters.dropped += 1
            raise AwayError(
                f"{self._where} answers with garbage to the list of {self.source.what}"
            ) from error

    async def _check(self, answer: httpx2.Response) -> None:
        """Raise what an answer other than 200 means."""
        if answer.status_code == httpx2.codes.OK:
            return
        if answer.status_code == httpx2.codes.GONE:
            raise GoneError
        message = await _message(answer)
        sentence = refusal(answer.status_code, message, f"the list of {self.source.what}", self._where)
        raise AwayError(sentence, _retry_after_s(answer))


def _page_of(model: type) -> type:
    """Return the type of a list of objects."""
    return msgspec.defstruct(
        f"{model.__name__}Page",
        [
            ("items", list[model] | None, None),  # type: ignore[valid-type]  # made here
            ("metadata", ListMeta, msgspec.field(default_factory=ListMeta)),
        ],
    )


async def _message(answer: httpx2.Response) -> str:
    """Return what the server says of an error, from a `Status` or the first bytes."""
    body = b""
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > _ERROR_BYTES:
            break
    try:
        return _STATUS.decode(body).message
    except msgspec.DecodeError:
        return body[:_ERROR_BYTES].decode("utf-8", "replace").strip()


def _retry_after_s(answer: httpx2.Response) -> float:
    """Return the seconds of a Retry-After (RFC 9110, section 10.2.3); 0 without one or for a date."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
