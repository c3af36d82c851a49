"""Answers of a server, good and bad ones."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, Context, User

from masdeepflow.enrich.kubernetes import answers
from masdeepflow.enrich.kubernetes.answers import Reader, accept, lines, whole
from masdeepflow.enrich.kubernetes.connection import AwayError, GoneError, Server
from masdeepflow.enrich.kubernetes.objects import Metadata
from masdeepflow.enrich.kubernetes.state import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_SERVER = Server(SingleConfig("x", Context(cluster="x"), Cluster(server="http://api"), User()), "the server")


async def _each(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def _lines(*parts: bytes, counters: Counters | None = None) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [line async for line in lines(_each(parts), counters or Counters())]

    return asyncio.run(collect())


@given(st.binary(), st.lists(st.integers(0, 100)))
def test_lines_do_not_depend_on_chunks(data: bytes, cuts: list[int]) -> None:
    """Only a line feed ends one, and blank ones are left out."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:end] for start, end in pairwise(places)]
    whole_lines = data.split(b"\n")[:-1]
    assert _lines(*parts) == [line.strip() for line in whole_lines if line.strip()]


def test_a_line_that_is_too_long_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is kept meanwhile, and the next one is read."""
    monkeypatch.setattr(answers, "LINE_BYTES", 10)
    counters = Counters()
    assert _lines(b"0123456", b"789a", b"x" * 100, b"y\nnext\n0123456789\n", counters=counters) == [
        b"next",
        b"0123456789",
    ]
    assert counters.dropped == 1


def test_a_page_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is in memory."""
    monkeypatch.setattr(answers, "BODY_BYTES", 10)
    assert asyncio.run(whole(_each([b"01234", b"56789"]), "pods", _SERVER)) == b"0123456789"
    with pytest.raises(AwayError, match="at once of pods"):
        asyncio.run(whole(_each([b"01234", b"56789", b"a"]), "pods", _SERVER))


def _refused(code: int, body: bytes, headers: dict[str, str] | None = None) -> AwayError:
    answer = httpx2.Response(code, content=body, headers=headers)
    with pytest.raises(AwayError) as raised:
        asyncio.run(accept(answer, "the list of pods", _SERVER))
    return raised.value


def test_an_answer_200_is_accepted() -> None:
    """And not read."""
    asyncio.run(accept(httpx2.Response(200), "the list of pods", _SERVER))


def test_a_refusal_is_told_in_the_servers_words() -> None:
    """From a Status, or from the text of a proxy; of both only the beginning."""
    status = b'{"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}'
    assert str(_refused(500, status)) == (
        "the server http://api answers 500 to the list of pods: etcdserver: leader changed"
    )
    assert str(_refused(502, b"Bad Gateway\n")).endswith("answers 502 to the list of pods: Bad Gateway")
    assert len(str(_refused(502, b"\xff" * 1_000_000))) < 1000


def test_what_the_server_asks_to_wait_is_kept() -> None:
    """In seconds; a date is not."""
    assert _refused(429, b"", {"Retry-After": "7"}).retry_after_s == 7
    assert _refused(429, b"", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}).retry_after_s == 0
    assert _refused(503, b"").retry_after_s == 0


@pytest.mark.parametrize(("code", "body"), [(410, b""), (200 + 300, b'{"code": 410}')])
def test_gone_is_told_apart(code: int, body: bytes) -> None:
    """By the answer's code, or that of its Status."""
    with pytest.raises(GoneError):
        asyncio.run(accept(httpx2.Response(code, content=body), "the list of pods", _SERVER))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b'{"items": 3}', b"\xff"])
def test_a_page_that_is_no_list_is_an_error(body: bytes) -> None:
    """It says nothing about what is there."""
    counters = Counters()
    with pytest.raises(AwayError, match="lists pods as garbage"):
        Reader(Metadata, "pods", _SERVER, counters).page(body)
    assert counters.dropped == 1


def test_objects_of_another_shape_are_left_out_of_a_page() -> None:
    """And counted; an empty list may be null."""
    counters = Counters()
    reader = Reader(Metadata, "pods", _SERVER, counters)
    items, meta = reader.page(
        b'{"items": [{"metadata": {"name": "a"}}, {"metadata": 3}, null], "metadata": {"continue": "x"}}'
    )
    assert ([item.metadata.name for item in items], meta.continue_) == (["a"], "x")
    assert (counters.events, counters.dropped) == (1, 2)
    assert reader.page(b'{"items": null}')[0] == []
