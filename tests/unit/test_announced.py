"""Requests in flight: each gets one line, whatever was to be seen of it when it was announced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.announced import Announced
from masdeepflow.schema import Kind, Transport
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DTYPE = np.dtype(
    [
        *(("cookie", "u8"), ("kind", "u1"), ("request_bytes", "u8"), ("request_length", "u2")),
        *(("transport", "u1"), ("remote_address", "u1", 16), ("remote_port", "u2")),
    ],
)


def _mark(
    announced: Announced, *rows: tuple[int, Kind, str | None, bool, int], peers: Sequence[int] = ()
) -> list[bool]:
    """Mark (cookie, kind, text, truncated, request bytes) rows; 100 bytes at most were captured.

    peers: last bytes of their addresses, if the rows are datagrams.
    """
    slots = np.zeros(len(rows), _DTYPE)
    slots["cookie"], slots["kind"] = [row[0] for row in rows], [row[1] for row in rows]
    slots["request_bytes"] = [row[4] for row in rows]
    slots["request_length"] = np.minimum(slots["request_bytes"], 100)
    if peers:
        slots["transport"], slots["remote_address"][:, 15] = Transport.UDP, peers
    parsed = Parsed(
        rows=np.arange(len(rows)),
        request_text=Encoded.from_list([text for _, _, text, _, _ in rows]),
        response_text=Encoded.absent(len(rows)),
        error=np.zeros(len(rows), bool),
        truncated=np.array([truncated for _, _, _, truncated, _ in rows]),
    )
    shown: list[bool] = announced.mark(slots, parsed).tolist()
    return shown


def test_an_announced_request_is_not_shown_again() -> None:
    """Not when it ends, nor when it is still waiting in a later turn; the same request after it is."""
    announced = Announced()
    assert _mark(announced, (1, Kind.OPEN, "a", False, 9), (1, Kind.OPEN, "a", False, 9)) == [False, True]
    assert _mark(announced, (1, Kind.TURN, "a", False, 9), (1, Kind.TURN, "a", False, 9)) == [True, False]


def test_the_same_asked_of_two_servers_is_shown_once_each() -> None:
    """One socket may ask all name servers at once; that one has answered says nothing of the other."""
    announced = Announced()
    row = (1, Kind.OPEN, "a", False, 9)
    ended = (1, Kind.TURN, "a", False, 9)
    assert _mark(announced, row, ended, peers=[7, 8]) == [False, False]
    assert _mark(announced, ended, peers=[7]) == [True]


def test_what_was_not_visible_in_flight_is_shown_at_the_end() -> None:
    """A turn in flight of which nothing could be told, and a request that came behind the announced one."""
    announced = Announced()
    assert _mark(announced, (1, Kind.OPEN, None, False, 4), (1, Kind.TURN, "a", False, 9)) == [False, False]
    assert _mark(announced, (2, Kind.OPEN, "a", False, 9)) == [False]
    assert _mark(announced, (2, Kind.TURN, "a", False, 9), (2, Kind.TURN, "b", False, 9)) == [True, False]


def test_a_request_that_is_still_arriving_waits_until_it_is_whole() -> None:
    """A line that is cut though there was room for more grows; one cut at the payload limit does not."""
    announced = Announced()
    assert _mark(announced, (1, Kind.OPEN, "a…", True, 9), (1, Kind.TURN, "abc", False, 20)) == [True, False]
    assert _mark(announced, (1, Kind.OPEN, "a…", True, 200), (1, Kind.TURN, "a…", True, 200)) == [False, True]


def test_memory_is_bounded_and_closed_connections_are_forgotten() -> None:
    """Beyond the limit the oldest is forgotten: shown twice rather than never."""
    announced = Announced(limit=2)
    _mark(announced, *((cookie, Kind.OPEN, "a", False, 9) for cookie in (1, 2, 3)))
    announced.forget([2, 7])
    assert _mark(announced, *((cookie, Kind.TURN, "a", False, 9) for cookie in (1, 2, 3))) == [
        False,
        False,
        True,
    ]


def test_one_connection_takes_no_more_than_its_share() -> None:
    """Requests that never end as they were announced do not pile up; the latest are remembered."""
    announced = Announced(texts=3)
    for number in range(100):
        _mark(announced, (1, Kind.OPEN, f"{number}" * 1000, False, 9))
    assert [len(texts) for texts in announced._texts.values()] == [3]
    ended = [(1, Kind.TURN, f"{number}" * 1000, False, 9) for number in (96, 97, 98, 99)]
    assert _mark(announced, *ended) == [False, True, True, True]
    assert announced._texts == {}


def test_what_will_be_shown_twice_is_counted() -> None:
    """Requests beyond a connection's share, and all of a connection that there is no room for."""
    announced = Announced(limit=2, texts=3)
    for number in range(5):
        _mark(announced, (1, Kind.OPEN, f"{number}", False, 9))
    assert announced.evicted == 2
    for cookie in (2, 3):
        _mark(announced, (cookie, Kind.OPEN, "x", False, 9))
    assert announced.evicted == 2 + 3
    announced.forget([2, 3])
    assert announced.evicted == 2 + 3, "closed ones are not missed"


def test_what_is_remembered_does_not_grow_with_what_was_sent() -> None:
    """With many connections at once, long requests would else take gigabytes."""
    announced = Announced()
    _mark(announced, *((cookie, Kind.OPEN, "x" * 3000, False, 9) for cookie in range(10)))
    assert {type(text) for texts in announced._texts.values() for text in texts} == {int}


def test_lines_of_other_connections_are_not_made() -> None:
    """One request in flight does not cost the text of every request of its batch."""
    slots = np.zeros(3, _DTYPE)
    slots["cookie"], slots["kind"] = (1, 2, 1), (Kind.OPEN, Kind.TURN, Kind.TURN)
    slots["request_bytes"] = slots["request_length"] = 9
    made: list[int] = []

    def make() -> tuple[NDArray[np.int32], list[str]]:
        raise AssertionError("all lines were made")

    def some(rows: NDArray[np.integer]) -> list[str | None]:
        made.extend(rows.tolist())
        return ["a"] * len(rows)

    no = np.zeros(3, bool)
    text = Encoded.later(np.arange(3), make, some)
    parsed = Parsed(np.arange(3), text, Encoded.absent(3), error=no, truncated=no)
    assert Announced().mark(slots, parsed).tolist() == [False, False, True]
    assert made == [0, 2]
