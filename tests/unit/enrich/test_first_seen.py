"""Columns that are made of the first slots of ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from masdeepflow.batch import Slots
from masdeepflow.enrich import end as end_module
from masdeepflow.enrich import first_seen as module
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.first_seen import FirstSeen, Parties, UnixPaths
from masdeepflow.schema import Kind, Role, Transport
from tests.support.slots import execute, make_slots, turn

if TYPE_CHECKING:
    import pytest


def _seen(*turns: dict[str, Any], rows: list[int] | None = None) -> FirstSeen:
    slots = Slots.of(make_slots(*turns))
    return FirstSeen(slots, np.arange(len(turns)) if rows is None else np.array(rows, np.intp), 5)


def _names(seen: FirstSeen, directory: Directory | None = None) -> list[tuple[int, str, str, str]]:
    """Return PID, short name, role and service of each end's party."""
    parties, whose = seen.parties(directory or Directory(), Parties())
    mine = [parties[number] for number in whose]
    return [(party.identity.pid, party.comm, party.owner.role, party.identity.service) for party in mine]


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    """In their order."""
    turns = [turn(b"x", cookie=cookie, pid=cookie) for cookie in range(10, 20)]
    seen = _seen(*turns, rows=[7, 2])
    assert seen.facts["cookie"].tolist() == [17, 12]
    assert [name[0] for name in _names(seen)] == [17, 12]


def test_an_end_is_opened_when_its_first_byte_came() -> None:
    """That of the response where the request was not seen; in Unix time."""
    seen = _seen(turn(b"x", b"y", request_first_ns=100), turn(b"", b"y", response_first_ns=200), turn())
    assert seen.facts["opened_ns"].tolist() == [105, 205, 5]


def test_numbers_that_mean_nothing_are_the_unknown_role_and_tcp() -> None:
    """Recordings come from strangers."""
    seen = _seen(turn(role=9, transport=200), turn(role=Role.SERVER, transport=Transport.UDP))
    assert seen.facts["role"].tolist() == [Role.UNKNOWN, Role.SERVER]
    assert seen.facts["transport"].tolist() == [Transport.TCP, Transport.UDP]


def test_a_process_is_looked_up_once_by_name() -> None:
    """A process that renames itself is another party; so is its other role."""
    one: dict[str, Any] = {"pid": 7, "comm": b"a"}
    other = {**one, "comm": b"b"}
    turns = [turn(**one), turn(**other), turn(**one), turn(role=Role.SERVER, **one), turn(**other)]
    parties, whose = _seen(*turns).parties(Directory(), Parties())
    assert whose.tolist() == [0, 1, 0, 2, 1]
    assert [(party.comm, party.owner.role) for party in parties] == [
        ("a", "client"),
        ("b", "client"),
        ("a", "server"),
    ]
    assert parties[0].identity is parties[2].identity


def test_a_process_that_changes_within_the_batch_is_what_it_was_at_each_place() -> None:
    """An exec between two connections names the second."""
    directory = Directory()
    program = make_slots(execute(7, b"nginx", b"-v"))
    directory.processes.follow(program, np.array([2]))
    same: dict[str, Any] = {"pid": 7, "comm": b"sh"}
    names = _names(_seen(turn(**same), turn(pid=8), turn(**same), turn(**same)), directory)
    assert [(pid, service) for pid, _, _, service in names] == [
        (7, "sh"),
        (8, "client"),
        (7, "nginx"),
        (7, "nginx"),
    ]


def test_names_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever chooses its name can't be taken for another."""
    monkeypatch.setattr(module, "mixed", lambda words: np.zeros(len(words), np.uint64))
    assert [name[:2] for name in _names(_seen(turn(pid=1, comm=b"a"), turn(pid=2, comm=b"b")))] == [
        (1, "a"),
        (2, "b"),
    ]


def test_parties_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the same process; of a thousand processes that come and go few are kept."""
    monkeypatch.setattr(module, "_PARTIES_LIMIT", 8)
    directory, parties = Directory(), Parties()
    numbers = set()
    for pid in range(100):
        for _ in range(2):
            ((party,), _) = _seen(turn(pid=pid)).parties(directory, parties)
            numbers.add(party.number)
    assert len(numbers) == 100
    assert len(parties._known) <= 8
    renamed = directory.identity(1000, "x", 0)
    other = parties.again(party, renamed)
    assert (other.identity, other.comm, other.role) == (renamed, party.comm, party.role)
    assert other.number != party.number


def test_an_opening_tells_the_path_of_a_unix_connection() -> None:
    """Later slots do not; each end is told apart."""
    common: dict[str, Any] = {"transport": Transport.UNIX}
    opening = turn(b"/run/x\0", cookie=5, kind=Kind.CONNECT, **common)
    seen = _seen(opening, turn(b"/etc/passwd", cookie=6, **common), turn(b"y", cookie=5, pid=9, **common))
    paths = UnixPaths()
    assert seen.paths(paths) == [(0, "/run/x"), (2, "/run/x")]
    paths.forget([5, 6])
    assert len(paths) == 0
    assert seen.facts["nowhere"].all()


def test_facts_have_the_fields_of_a_slot() -> None:
    """Those that do not change over the connection, as they are."""
    end: dict[str, Any] = {"cookie": 2**64 - 1, "pid": 4_194_303, "netns": 2**32 - 1}
    end |= {"local_port": 65535, "remote_port": 1}
    (fact,) = _seen(turn(**end)).facts
    assert {name: int(fact[name]) for name in end} == end
    assert end_module.server_ports(_seen(turn(**end)).facts).tolist() == [1]
