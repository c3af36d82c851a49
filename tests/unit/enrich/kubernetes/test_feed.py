"""Facts from one thread to another."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from masdeepflow.enrich.facts import PodFact
from masdeepflow.enrich.kubernetes import feed as module
from masdeepflow.enrich.kubernetes.feed import Feed
from masdeepflow.enrich.kubernetes.state import Counters

if TYPE_CHECKING:
    import pytest


async def _forever() -> None:
    await asyncio.sleep(3600)


def _feed() -> tuple[Feed, Counters]:
    counters = Counters()
    return Feed("test", _forever, counters), counters


def _pod(uid: str, name: str = "") -> PodFact:
    return PodFact(uid, name, "default")


def test_facts_are_taken_in_the_order_they_came() -> None:
    """Once each."""
    feed, _ = _feed()
    for uid in "abc":
        feed.offer(_pod(uid))
    assert [fact.uid for fact in feed.take()] == ["a", "b", "c"]
    assert feed.take() == []


def test_of_an_object_only_the_last_fact_waits() -> None:
    """In the place of the first, so that none is overtaken for ever."""
    feed, _ = _feed()
    for uid, name in (("a", "old"), ("b", ""), ("a", "new")):
        feed.offer(_pod(uid, name))
    assert [(fact.uid, fact.name) for fact in feed.take()] == [("a", "new"), ("b", "")]


def test_one_take_is_bounded() -> None:
    """The thread that takes has a ring to read."""
    feed, _ = _feed()
    for number in range(1200):
        feed.offer(_pod(str(number)))
    assert [len(feed.take()) for _ in range(4)] == [500, 500, 200, 0]


def test_what_nobody_takes_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """News of what waits already still goes in."""
    monkeypatch.setattr(module, "_LIMIT", 2)
    feed, counters = _feed()
    for uid in "abc":
        feed.offer(_pod(uid))
    feed.offer(_pod("b", "new"))
    assert [(fact.uid, fact.name) for fact in feed.take()] == [("a", ""), ("b", "new")]
    assert counters.dropped == 1


def test_facts_of_a_busy_thread_all_arrive() -> None:
    """Whenever they are taken."""
    feed, _ = _feed()

    def offer() -> None:
        for number in range(20_000):
            feed.offer(_pod(str(number)))

    offering = threading.Thread(target=offer)
    offering.start()
    taken: list[str] = []
    while offering.is_alive() or feed._pending:
        taken += [fact.uid for fact in feed.take()]
    assert sorted(map(int, taken)) == list(range(20_000))


def test_closing_ends_what_runs() -> None:
    """With what it has to tidy up."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await _forever()
        finally:
            ended.set()

    feed = Feed("test", work, Counters())
    feed.start()
    assert begun.wait(60)
    feed.close()
    assert ended.is_set()
    assert not feed._thread.is_alive()
    feed.close()


def test_closing_what_never_ran_is_fine() -> None:
    """So is closing at once."""
    feed, _ = _feed()
    feed.close()
    for _ in range(20):
        feed, _ = _feed()
        feed.start()
        feed.close()
        assert not feed._thread.is_alive()
