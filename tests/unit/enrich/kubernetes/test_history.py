"""Who held an address, and when."""

from __future__ import annotations

from masdeepflow.enrich.facts import PodFact
from masdeepflow.enrich.kubernetes.history import SKEW_NS, History

_S = 1_000_000_000
_ADDRESS = "10.0.0.1"


def _pod(uid: str, from_s: int, gone_s: int = 0, *addresses: str) -> PodFact:
    return PodFact(
        uid, uid, "default", addresses=addresses or (_ADDRESS,), from_ns=from_s * _S, gone_ns=gone_s * _S
    )


def _history(*pods: PodFact) -> History[PodFact]:
    history: History[PodFact] = History()
    for pod in pods:
        history.keep(pod, ())
    return history


def _names(history: History[PodFact], time_ns: int, address: str = _ADDRESS) -> list[str]:
    return [pod.name for pod in history.at(address, time_ns)]


def test_each_holder_answers_for_its_own_period() -> None:
    """The first until it ended, the second since it began, whatever order they were told in."""
    for pods in ([_pod("a", 100, 200), _pod("b", 200)], [_pod("b", 200), _pod("a", 100, 200)]):
        history = _history(*pods)
        assert _names(history, 200 * _S - 1) == ["a"]
        assert _names(history, 200 * _S) == ["b"]


def test_the_later_holder_comes_first() -> None:
    """A pod whose end was missed never hides the one that has its address now."""
    history = _history(_pod("a", 100), _pod("b", 200))
    assert _names(history, 150 * _S) == ["a"]
    assert _names(history, 250 * _S) == ["b", "a"]


def test_clocks_may_differ_by_the_skew_and_no_more() -> None:
    """Outside of all periods the nearest holder answers, within `SKEW_NS`."""
    history = _history(_pod("a", 100, 200))
    assert _names(history, 100 * _S - SKEW_NS) == ["a"]
    assert _names(history, 100 * _S - SKEW_NS - 1) == []
    assert _names(history, 200 * _S + SKEW_NS) == ["a"]
    assert _names(history, 200 * _S + SKEW_NS + 1) == []


def test_between_two_holders_the_nearer_one_answers() -> None:
    """Of two that are within the skew."""
    history = _history(_pod("a", 100, 200), _pod("b", 206))
    assert _names(history, 202 * _S) == ["a"]
    assert _names(history, 205 * _S) == ["b"]


def test_an_object_that_changes_its_address_leaves_the_old_one_then() -> None:
    """Its former address names it for the time before only, and may be another's since."""
    history = _history(_pod("a", 100))
    history.keep(_pod("a", 200, 0, "10.0.0.2"), (_ADDRESS,))
    history.keep(_pod("b", 300), ())
    assert _names(history, 150 * _S) == ["a"]
    assert _names(history, 350 * _S) == ["b"]
    assert _names(history, 350 * _S, "10.0.0.2") == ["a"]


def test_a_dropped_object_leaves_nothing() -> None:
    """Its former addresses are forgotten too, those of others stay."""
    history = _history(_pod("a", 100), _pod("b", 200))
    history.keep(moved := _pod("a", 300, 0, "10.0.0.2"), (_ADDRESS,))
    history.drop(moved)
    assert _names(history, 150 * _S) == []
    assert _names(history, 250 * _S) == ["b"]
    history.drop(_pod("b", 200))
    assert len(history) == 0


def test_an_address_that_is_regained_is_not_former() -> None:
    """It survives however many others come and go."""
    history = _history(_pod("a", 100))
    before: tuple[str, ...] = (_ADDRESS,)
    for number in range(100):
        moved = _pod("a", 101 + number, 0, f"10.0.1.{number}", _ADDRESS)
        history.keep(moved, before)
        before = moved.addresses
    assert _names(history, 500 * _S) == ["a"]
    assert len(history) < 20


def test_an_address_keeps_a_bounded_number_of_holders() -> None:
    """Those that ended first are dropped first."""
    history = _history(*(_pod(f"{number}", number, number + 1) for number in range(10, 1000)))
    assert _names(history, 999 * _S) == ["999"]
    assert len(history._holders[_ADDRESS]) <= 16
