"""Answers of a server: taken if they are what was asked for, else what they say is told as an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from masdeepflow.enrich.kubernetes.connection import AwayError, GoneError
from masdeepflow.enrich.kubernetes.objects import ListMeta, Page, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from masdeepflow.enrich.kubernetes.connection import Server
    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["BODY_BYTES", "LINE_BYTES", "Reader", "accept", "lines", "refuse", "whole"]

LINE_BYTES = 8 * 1024 * 1024
"""Longest line of a watch that is read: etcd's largest object (1.5 MiB by default) has room in it as JSON."""

BODY_BYTES = 64 * 1024 * 1024
"""Largest page of a list that is read."""

_ERROR_BYTES = 64 * 1024
_MESSAGE = 300  # characters of what a server says that are repeated
_PAGE = msgspec.json.Decoder(Page)
_STATUS = msgspec.json.Decoder(Status)


async def accept(answer: httpx2.Response, what: str, server: Server) -> None:
    """Return if the answer is 200.

    Raises:
        GoneError: 410.
        AwayError: anything else, with the server's own words.
    """
    if answer.status_code == httpx2.codes.OK:
        return
    body = b""
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > _ERROR_BYTES:
            break
    refuse(body, answer.status_code, what, server, retry_after_s=_retry_after_s(answer))


def refuse(body: bytes | msgspec.Raw, code: int, what: str, server: Server, retry_after_s: float = 0) -> None:
    """Raise what a `Status` means. code: of the answer that it came with; its own, if it has one, is told.

    Raises:
        GoneError: it is 410.
        AwayError: it is anything else.
    """
    try:
        status = _STATUS.decode(body)
    except msgspec.DecodeError:
        status = Status(message=bytes(body)[:_MESSAGE].decode("utf-8", "replace").strip())
    code = status.code or code
    if code == httpx2.codes.GONE:
        raise GoneError
    said = f"{server.where} answers {code} to {what}: {status.message[:_MESSAGE]}"
    raise AwayError(said + _REMEDIES.get(code, ""), retry_after_s)


_REMEDIES: dict[int, str] = {
    httpx2.codes.UNAUTHORIZED: "; the token is not accepted",
    httpx2.codes.FORBIDDEN: "; grant it in a ClusterRole, see docs/kubernetes.md",
}


def _retry_after_s(answer: httpx2.Response) -> float:
    """Return the seconds of a Retry-After (RFC 9110, section 10.2.3); 0 without one or for a date."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


async def whole(chunks: AsyncIterator[bytes], what: str, server: Server) -> bytes:
    """Return all chunks together.

    Raises:
        AwayError: it is more than `BODY_BYTES`.
    """
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > BODY_BYTES:
            raise AwayError(f"{server.where} sends more than {BODY_BYTES >> 20} MiB at once of {what}")
        parts.append(chunk)
    return b"".join(parts)


async def lines(chunks: AsyncIterator[bytes], counters: Counters) -> AsyncIterator[bytes]:
    """Yield lines without their break (LF only), none empty. Longer ones than `LINE_BYTES` are dropped."""
    parts: list[bytes] = []  # of the line that is not at its end
    size = 0  # of that line, its dropped parts included
    async for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            size += len(end)
            if size > LINE_BYTES:
                counters.dropped += 1
            elif line := b"".join((*parts, end)).strip():
                yield line
            parts, size = [], 0
        size += len(rest)
        parts.append(rest)
        if size > LINE_BYTES:
            parts.clear()


class Reader:
    """Objects out of lists and events. An object that is not of its shape is dropped, and counted.

    model: what they are decoded to. what: they are, for sentences.
    """

    def __init__(self, model: type, what: str, server: Server, counters: Counters) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(model)
        self._what = what
        self._server = server
        self._counters = counters

    def item(self, raw: msgspec.Raw) -> Any | None:  # noqa: ANN401  # of the model
        """Return an object, None if it is not of the model's shape."""
        try:
            item = self._decoder.decode(raw)
        except msgspec.DecodeError:
            self._counters.dropped += 1
            return None
        self._counters.events += 1
        return item

    def page(self, body: bytes) -> tuple[list[Any], ListMeta]:
        """Return the objects of a page, and what it says of itself.

        Raises:
            AwayError: it is no list at all.
        """
        try:
            page = _PAGE.decode(body)
        except msgspec.DecodeError as error:
            self._counters.dropped += 1
            raise AwayError(f"{self._server.where} lists {self._what} as garbage") from error
        items = map(self.item, page.items or ())
        return [item for item in items if item is not None], page.metadata
