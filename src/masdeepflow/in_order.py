"""Turns of connections with a state: the usual ones as columns, the others one by one, all in their order.

Usual turns neither change what is known of their connection nor depend on it otherwise than by a look-up.
One that is not usual, a login or a goodbye, costs its connection no more than itself: what is before it and
behind it are still columns, each with the state of its time.
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from masdeepflow.coded import Coded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Ended", "InOrder", "State", "States", "Turns", "in_order"]


class State(Protocol):
    """What is known of a connection."""

    @property
    def busy(self) -> bool:
        """Whether its next turn has to be followed even if it is a usual one."""

    def copy(self) -> Self:
        """Return it as it is now."""


S = TypeVar("S", bound=State)
T = TypeVar("T")
S_co = TypeVar("S_co", bound=State, covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Ended(Protocol):
    """A transaction."""

    @property
    def row(self) -> int:
        """The turn that ended it."""


X = TypeVar("X", bound=Ended)


class States(Protocol[S_co, T_contra, X]):
    """What is known of all connections, by their cookies."""

    def get(self, cookie: int) -> S_co | None:
        """Return what is known of one."""

    def follow(self, turns: Iterable[T_contra]) -> tuple[list[X], list[int]]:
        """Follow turns; return their transactions, and the cookies of connections that became opaque."""


class Turns(NamedTuple, Generic[T]):
    """n turns. usual: bool (n,). owner: (n,), index into `cookies`. read: from rows (k,) to their turns."""

    usual: NDArray[np.bool_]
    owner: NDArray[np.integer]
    cookies: Sequence[int]
    read: Callable[[NDArray[np.intp]], Iterator[T]]


class InOrder(NamedTuple, Generic[S, X]):
    """What came of n turns.

    rows: intp (m,), ascending: the usual turns that are to be read as columns. states: (m,), what was known
    of the connection of each at its time. transactions: of all other turns, by row. opaque: cookies.
    """

    rows: NDArray[np.intp]
    states: Coded[S | None]
    transactions: list[X]
    opaque: list[int]


class _Stretch(NamedTuple):
    """Turns of one connection, one behind the other, that are all usual or all not. rows: intp (k,)."""

    cookie: int
    rows: NDArray[np.intp]
    usual: bool


def in_order(
    turns: Turns[T],
    states: States[S, T, X],
    learn: Callable[[NDArray[np.intp]], None] = lambda _: None,
    *,
    others_only: bool = False,
) -> InOrder[S, X]:
    """Follow those of n turns that are not usual, and those that are on a busy connection.

    learn: is told rows (k,) that are to be read as columns, before later turns of their connections are
    followed. others_only: nothing of connections that have usual turns only.
    """
    usual, owner, cookies, read = turns
    known = [states.get(cookie) for cookie in cookies]
    mixed = np.array([one is not None and one.busy for one in known], bool)
    mixed[owner[~usual]] = True
    at = owner.astype(np.int32)
    columns = ~mixed[owner]
    if not others_only:
        learn(np.flatnonzero(columns))
    if columns.all():
        return InOrder(np.arange(len(usual)), Coded(at, known), [], [])
    transactions: list[X] = []
    opaque: list[int] = []

    def follow(some: Iterable[T]) -> None:
        found, ended = states.follow(some)
        transactions.extend(found)
        opaque.extend(ended)

    stretches = list(_stretches(np.flatnonzero(~columns), turns))
    odd = [stretch.rows for stretch in stretches if not stretch.usual]
    others = read(np.concatenate(odd)) if odd else iter(())
    for stretch in stretches:
        if not stretch.usual:
            follow(islice(others, len(stretch.rows)))
            continue
        left = _follow_busy(stretch, states, read, follow)
        if len(left):
            columns[left] = True
            at[left] = len(known)
            state = states.get(stretch.cookie)
            known.append(state and state.copy())
            learn(left)
    rows = np.flatnonzero(columns)
    transactions.sort(key=attrgetter("row"))
    return InOrder(rows, Coded(at[rows], known), transactions, opaque)


def _stretches(rows: NDArray[np.intp], turns: Turns[T]) -> Iterator[_Stretch]:
    """Yield those of `rows` (m,), each connection's in their order."""
    rows = rows[np.argsort(turns.owner[rows], kind="stable")]
    owners, kinds = turns.owner[rows], turns.usual[rows]
    starts = np.flatnonzero((owners[1:] != owners[:-1]) | (kinds[1:] != kinds[:-1])) + 1
    first = np.append(0, starts)
    for some, place, kind in zip(
        np.split(rows, starts), owners[first].tolist(), kinds[first].tolist(), strict=True
    ):
        yield _Stretch(turns.cookies[place], some, kind)


def _follow_busy(
    stretch: _Stretch,
    states: States[S, T, X],
    read: Callable[[NDArray[np.intp]], Iterator[T]],
    follow: Callable[[Iterable[T]], None],
) -> NDArray[np.intp]:
    """Follow turns for as long as their connection is busy; return those that are left."""
    rows, some = stretch.rows, 1
    while len(rows) and (state := states.get(stretch.cookie)) is not None and state.busy:
        # Most need one turn; what is busy for long, as an encrypted one, is not looked at so often.
        follow(read(rows[:some]))
        rows, some = rows[some:], 2 * some
    return rows
