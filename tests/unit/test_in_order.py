"""Usual turns as columns, others one by one: what comes out is what one turn after the other gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.in_order import InOrder, Turns, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

OWNERS = 3
USUAL, RENAMED, HELD, ENCRYPTED = range(4)
"""Kinds of turns: one that shows the connection's name, one that changes it to its own row's number, one
after which the connection is busy for two turns, and one after which no turn is shown."""
Shown = tuple[int, int | None]


class Turn(NamedTuple):
    """A turn of a connection."""

    row: int
    cookie: int
    kind: int


@dataclass
class Connection:
    """Its name, and for how many turns it is busy."""

    name: int | None = None
    held: int = 0
    opaque: bool = False

    @property
    def busy(self) -> bool:
        """Whether its next turn has to be followed."""
        return self.held > 0 or self.opaque

    def copy(self) -> Connection:
        """Return it as it is now."""
        return replace(self)


class Transaction(NamedTuple):
    """What a turn that was followed shows."""

    row: int
    name: int | None


class Connections:
    """Follows them one turn at a time, and counts these."""

    def __init__(self) -> None:
        self.known: dict[int, Connection] = {}
        self.followed = 0

    def get(self, cookie: int) -> Connection | None:
        """Return what is known of one."""
        return self.known.get(cookie)

    def follow(self, turns: Iterable[Turn]) -> tuple[list[Transaction], list[int]]:
        """Follow turns."""
        found, opaque = [], []
        for turn in turns:
            self.followed += 1
            connection = self.known.setdefault(turn.cookie, Connection())
            if connection.opaque:
                continue
            connection.held = 2 if turn.kind == HELD else max(connection.held - 1, 0)
            if turn.kind == RENAMED:
                connection.name = turn.row
            if turn.kind == ENCRYPTED:
                connection.opaque = True
                opaque.append(turn.cookie)
            found.append(Transaction(turn.row, connection.name))
        return found, opaque


def turns_of(owner: NDArray[np.intp], kinds: NDArray[np.intp]) -> Turns[Turn]:
    """Return turns of connections whose cookies are 10, 11, ..."""

    def read(rows: NDArray[np.intp]) -> Iterator[Turn]:
        return (Turn(row, int(owner[row]) + 10, int(kinds[row])) for row in rows.tolist())

    return Turns(kinds == USUAL, owner, list(range(10, 10 + OWNERS)), read)


def split(*turns: tuple[int, int], states: Connections) -> InOrder[Connection, Transaction]:
    """Return what becomes of turns, each an owner and a kind."""
    owner, kinds = np.array(turns, np.intp).reshape(-1, 2).T
    return in_order(turns_of(owner, kinds), states)


def shown(found: InOrder[Connection, Transaction]) -> list[Shown]:
    """Return what all turns show, in their order."""
    names = [known and known.name for known in found.states.values]
    columns = zip(found.rows.tolist(), (names[code] for code in found.states.codes.tolist()), strict=True)
    return sorted([*columns, *found.transactions], key=lambda one: one[0])


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(range(OWNERS)), st.sampled_from([USUAL] * 4 + [1, 2, 3]))),
        max_size=4,
    )
)
def test_the_order_is_kept(batches: list[list[tuple[int, int]]]) -> None:
    """Over batches, whichever turns are usual and whatever the others do to their connection."""
    states, reference = Connections(), Connections()
    for batch in batches:
        found = split(*batch, states=states)
        one_by_one = (Turn(row, owner + 10, kind) for row, (owner, kind) in enumerate(batch))
        expected, opaque = reference.follow(one_by_one)
        assert shown(found) == expected
        assert [one.row for one in found.transactions] == sorted(one.row for one in found.transactions)
        assert sorted(found.opaque) == sorted(opaque)


def test_a_turn_that_is_not_usual_costs_its_connection_no_more_than_itself() -> None:
    """Or a batch of thousands would be followed turn by turn for one goodbye, and the ring overflow."""
    states = Connections()
    batch = [(number % 2, USUAL) for number in range(1000)]
    batch[501] = (1, RENAMED)
    found = split((1, RENAMED), *batch, (0, RENAMED), states=states)
    assert states.followed == len(found.transactions) == 3
    assert len(found.rows) == 999


def test_a_busy_connection_is_followed_until_it_is_not() -> None:
    """Its usual turns too, into the next batch; those of others are columns meanwhile."""
    states = Connections()
    found = split((0, HELD), (0, USUAL), (1, USUAL), states=states)
    assert found.rows.tolist() == [2]
    assert split(*[(0, USUAL)] * 9, states=states).rows.tolist() == list(range(1, 9))


def test_usual_turns_are_told_before_what_comes_behind_them_is_followed() -> None:
    """They may leave something that a later turn asks for."""
    told: list[object] = []

    class Told(Connections):
        def follow(self, turns: Iterable[Turn]) -> tuple[list[Transaction], list[int]]:
            turns = list(turns)
            told.append([turn.row for turn in turns])
            return super().follow(turns)

    kinds = np.array([USUAL, USUAL, RENAMED, USUAL, RENAMED, USUAL])
    turns = turns_of(np.array([0, 1, 0, 0, 0, 1]), kinds)
    for others_only in False, True:
        in_order(turns, Told(), lambda rows: told.append(tuple(rows.tolist())), others_only=others_only)
    assert told == [(1, 5), (0,), [2], (3,), [4], (0,), [2], (3,), [4]]


def test_no_turns() -> None:
    """They leave nothing."""
    found = split(states=Connections())
    assert (len(found.rows), found.transactions, found.opaque) == (0, [], [])
