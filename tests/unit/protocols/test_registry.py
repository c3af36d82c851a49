"""The choice among protocols: the best candidate wins, and a broken one is survived."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.registry import UNRECOGNISED, Registry, load
from masdeepflow.table import Encoded, Parsed
from tests.support.noise import KINDS, Real, mistakes, real_turns
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SLOTS = make_slots(turn(b"a"), turn(b"b"), turn(b"c"))
_TURNS = 20_000


class Scored:
    """A protocol that scores turns as told and parses each into nothing to show."""

    def __init__(self, name: str, *scores: int) -> None:
        self.name = name
        self.forgotten: list[int] = []
        self._scores = scores

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return the scores."""
        return np.array(self._scores[: len(slots)], np.uint8)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return one row a turn."""
        none, no = Encoded.absent(len(slots)), np.zeros(len(slots), bool)
        return Parsed(np.arange(len(slots)), none, none, error=no, truncated=no)

    def forget(self, cookies: Sequence[int]) -> None:
        """Note what is forgotten."""
        self.forgotten += cookies


class Broken(Scored):
    """A protocol with a defect in everything it does."""

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Fail."""
        raise IndexError(slots)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Fail."""
        raise RuntimeError(slots)

    def forget(self, cookies: Sequence[int]) -> None:
        """Fail."""
        raise KeyError(cookies)


class Misshapen(Scored):
    """A protocol that scores two turns, however many there are."""

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:  # noqa: ARG002  # that is the defect
        """Return scores of the wrong shape."""
        return np.full(2, CERTAIN, np.uint8)


def _choose(*protocols: Scored) -> tuple[list[int], list[bool]]:
    numbers, sticky = Registry(protocols).choose(SLOTS)
    return numbers.tolist(), sticky.tolist()


def test_best_score_wins_each_turn() -> None:
    """Every turn goes to the protocol that is surest of it, whatever the order of the protocols."""
    first, second = Scored("a", POSSIBLE, LIKELY, 0), Scored("b", LIKELY, POSSIBLE, CERTAIN)
    assert _choose(first, second)[0] == [1, 0, 1]
    assert _choose(second, first)[0] == [0, 1, 0]


def test_equal_scores_go_to_the_first() -> None:
    """A tie is always broken alike, so that a replay equals the live run."""
    assert _choose(Scored("a", LIKELY, LIKELY, LIKELY), Scored("b", LIKELY, LIKELY, LIKELY))[0] == [0, 0, 0]


def test_turns_nobody_knows_are_unrecognised() -> None:
    """A score of 0 is no candidate; without protocols nothing is."""
    assert _choose(Scored("a", 0, 0, 0)) == ([1, 1, 1], [False] * 3)
    assert _choose() == ([0, 0, 0], [False] * 3)
    assert Registry([]).name(0) == UNRECOGNISED


def test_connection_follows_from_likely_on() -> None:
    """A possible answer is for its turn only; a likely or certain one is the connection's."""
    assert _choose(Scored("a", POSSIBLE, LIKELY, CERTAIN))[1] == [False, True, True]
    assert _choose(Scored("a", LIKELY - 1, 0, 0))[1] == [False, False, False]


@pytest.mark.parametrize("broken", [Broken("broken"), Misshapen("broken")])
def test_broken_recogniser_is_counted_and_survived(broken: Scored) -> None:
    """The other protocols still get their turns."""
    registry = Registry([broken, Scored("b", LIKELY, 0, 0)])
    numbers, _ = registry.choose(SLOTS)
    assert numbers.tolist() == [1, 2, 2]
    assert registry.errors == {"broken": 1}


def test_broken_parser_is_counted_and_survived() -> None:
    """Its turns are nobody's; the protocols beside it go on."""
    registry = Registry([Broken("broken"), Scored("b")])
    assert registry.parse(0, SLOTS) is None
    assert registry.parse(1, SLOTS) is not None
    assert registry.errors == {"broken": 1}


def test_broken_forgetting_is_counted_and_survived() -> None:
    """The protocols behind it hear of the close all the same."""
    registry = Registry([Broken("broken"), Scored("b")])
    registry.forget([7, 8])
    assert registry.errors == {"broken": 1}
    assert isinstance(registry.protocols[1], Scored)
    assert registry.protocols[1].forgotten == [7, 8]


def _parsed(**columns: Any) -> Parsed:  # noqa: ANN401  # whatever a parser may return
    none, no = Encoded.absent(3), np.zeros(3, bool)
    whole: dict[str, Any] = {
        "rows": np.arange(3),
        "request_text": none,
        "response_text": none,
        "error": no,
        "truncated": no,
    }
    return Parsed(**{**whole, **columns})


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, "parse returns NoneType, not Parsed"),
        (_parsed(error=np.zeros(2, bool)), r"error: it is bool \(2,\), where bool \(3,\) is due"),
        (_parsed(rows=np.array([0, 1, 3])), r"rows: they are not all in \[0, 3\)"),
    ],
)
def test_what_is_no_result_is_a_failure(
    result: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Columns that do not fit would end the agent in a sink: such turns are nobody's, and why is told."""
    protocol = Scored("broken")
    protocol.parse = lambda _slots: result  # type: ignore[method-assign, assignment, return-value]
    registry = Registry([protocol])
    assert registry.parse(0, SLOTS) is None
    assert registry.errors == {"broken": 1}
    assert re.search(reason, caplog.text)


@pytest.mark.parametrize("score", [np.full(3, 255), np.array(["a", "b", "c"]), 255, None])
def test_scores_of_another_type_are_a_failure(score: object) -> None:
    """They would be compared as something else, or end the agent where they are compared."""
    protocol = Scored("broken")
    protocol.recognise = lambda _slots: score  # type: ignore[method-assign, assignment, return-value]
    registry = Registry([protocol, Scored("b", LIKELY, 0, 0)])
    assert registry.choose(SLOTS)[0].tolist() == [1, 2, 2]
    assert registry.errors == {"broken": 1}


def test_a_parser_that_asks_for_the_end_does_not_get_it() -> None:
    """`sys.exit` in a parser is a defect like any other."""

    class Leaving(Scored):
        def parse(self, slots: np.ndarray) -> Parsed:
            raise SystemExit(len(slots))

    registry = Registry([Leaving("a")])
    assert registry.parse(0, SLOTS) is None
    assert registry.errors == {"a": 1}


def test_failures_are_told_of_every_protocol() -> None:
    """A counter that is there from the start can be alerted on."""
    registry = Registry([Broken("broken"), Scored("b")])
    registry.parse(0, SLOTS)
    assert registry.failures() == {"broken": 1, "b": 0}


def test_evictions_are_told_of_every_protocol_that_keeps_something() -> None:
    """What a protocol forgets before its time is counted; a counter with a defect leaves out itself alone."""

    class Keeping(Scored):
        evicted = 3

    class Defective(Scored):
        @property
        def evicted(self) -> int:
            raise ZeroDivisionError

    registry = Registry([Keeping("a"), Scored("b"), Defective("c")])
    assert registry.evictions() == {"a": 3}
    assert registry.errors == {"c": 1}
    assert Registry(load()).evictions().items() >= {"mysql": 0, "postgresql": 0, "redis": 0}.items()


def test_only_the_first_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A parser that fails on every batch must not flood stderr; the log has a traceback for each parser."""
    registry = Registry([Broken("broken"), Broken("other")])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            registry.parse(0, SLOTS)
            registry.parse(1, SLOTS)
    assert registry.errors == {"broken": 3, "other": 3}
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    assert ["broken" in text for text in caplog.messages] == [True, False]


def test_failures_are_not_kept_from_who_stops_the_agent() -> None:
    """Being told to stop is no defect of a parser."""

    class Stopped(Scored):
        def parse(self, slots: np.ndarray) -> Parsed:
            raise KeyboardInterrupt(slots)

    with pytest.raises(KeyboardInterrupt):
        Registry([Stopped("a")]).parse(0, SLOTS)


def test_every_module_that_binds_protocol_is_loaded() -> None:
    """A new protocol needs no list to be edited; names differ, and none is the unrecognised one's."""
    names = [protocol.name for protocol in load()]
    assert "http" in names
    assert len(set(names)) == len(names)
    assert UNRECOGNISED not in names


def test_each_load_gives_new_instances() -> None:
    """State per connection belongs to one pipeline."""
    first, second = load(), load()
    assert not {id(protocol) for protocol in first} & {id(protocol) for protocol in second}


@pytest.fixture(scope="module")
def real() -> Real:
    """Return the turns of the golden captures."""
    return real_turns()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_recognised_by_mistake(real: Real, kind: str) -> None:
    """A small part of the benchmark `recognition`: noise is nobody's, changed turns nobody's or their own."""
    noise = KINDS[kind](real, _TURNS, np.random.default_rng(7))
    assert mistakes(Registry(load()), real, noise) == (Counter(), 0)


def test_real_turns_are_recognised(real: Real) -> None:
    """Most of what the noise is made of is somebody's, and no mistake is found where there is none."""
    known, slots = Registry(load()), real.slots.copy()
    slots["cookie"] = np.arange(1, len(slots) + 1)
    chosen, _ = known.choose(slots)
    names = [known.name(number) for number in chosen.tolist()]
    own = [real.names[number] for number in real.protocol.tolist()]
    right = sum(name == spoken for name, spoken in zip(names, own, strict=True))
    assert right > 0.8 * len(own)
