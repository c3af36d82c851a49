"""Rows of the kernel's table, made up in memory."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.gateway import pairs
from masdeepflow.gateway.kernel import object_path
from masdeepflow.gateway.pairs import (
    REASONS,
    SIDES,
    STATES,
    Awake,
    Pairs,
    Totals,
    address_text,
    awake_of,
    layout_of,
    pair_dtype,
)
from masdeepflow.kernel import libbpf

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = layout_of(object_path())
DTYPE = pair_dtype(LAYOUT)
COUNTERS = LAYOUT.dtype("gateway_counters")


def _row(
    state: str = "redirected", sent: tuple[int, int] = (0, 0), read: tuple[int, int] = (0, 0)
) -> np.void:
    row = np.zeros(1, DTYPE)[0]
    row["state"] = STATES.index(state)
    for side in SIDES:
        row[f"{side}_address"] = np.frombuffer(b"\0" * 10 + b"\xff\xff\x7f\0\0\1", np.uint8)
    row["client_port"], row["server_port"] = 40000, 8080
    row["ends"]["redirected"], row["ends"]["received"] = sent, read
    made: np.void = row
    return made


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pairs:
    """Return a table in a file, with its counters of pairs that are gone in `gone`."""
    rows = np.zeros(pairs.MAX_PAIRS, DTYPE)
    rows[3] = _row(sent=(100, 20), read=(20, 60))
    rows[7] = _row("tcp", sent=(9, 0), read=(0, 9))
    rows[7]["ends"]["by_tcp"] = (5, 0)
    rows[7]["reason"] = REASONS.index("slow reader")
    path = tmp_path / "pairs"
    path.write_bytes(rows.tobytes())
    gone = np.zeros(2, COUNTERS)
    gone["pairs"], gone["redirected"] = (2, 3), (1000, 0)
    gone["left"][0][REASONS.index("slow reader")] = 4
    monkeypatch.setattr(libbpf, "possible_cpus", lambda: 2)
    monkeypatch.setattr(libbpf, "lookup", lambda *_: gone.tobytes())
    with path.open("rb") as file:
        return Pairs(file.fileno(), 0, LAYOUT)


def test_states_and_reasons_are_those_of_the_kernel_side() -> None:
    """Names are found by number: one for each enumerator of bpf/gateway.h, in its order."""
    states = LAYOUT.enums["pair_state"]
    assert [name.removeprefix("PAIR_").lower() for name in sorted(states, key=states.__getitem__)] == list(
        STATES
    )
    reasons = LAYOUT.enums["pair_reason"]
    assert sorted(reasons.values()) == list(range(len(REASONS) + 1))
    assert reasons["REASONS"] == len(REASONS)
    assert REASONS[reasons["REASON_PRESSURE"]] == "slow reader"
    assert REASONS[reasons["REASON_STOP"]] == "gateway stopped"


def test_a_row_is_a_pair_of_the_kernel_side() -> None:
    """Head and both ends fill cache lines, so that no end shares one with the other."""
    assert DTYPE.itemsize == 256
    assert DTYPE["ends"].shape == (2,)
    assert DTYPE["ends"].base.itemsize == 64


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "2001:db8::5"])
def test_addresses_are_shown_as_they_are_written(address: str) -> None:
    """IPv4 is mapped into IPv6 in the table, and shown as IPv4."""
    parsed = ipaddress.ip_address(address)
    raw = parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
    assert address_text(raw) == address


def test_queued_is_what_the_other_end_sent_and_this_one_has_not_read(table: Pairs) -> None:
    """For each end; one that has left the hash has nothing queued."""
    rows = table.rows[[3, 7]]
    assert table.queued(rows).tolist() == [[0, 40], [0, 0]]
    rows["ends"]["left"] = 1
    assert not table.queued(rows).any()


def test_namespaces_of_pairs_that_leave_are_told(table: Pairs) -> None:
    """Of both ends, once one of them has left: it is its peer whose queue is to be pushed."""
    table.rows = table.rows.copy()
    table.rows["ends"]["netns"][[3, 7]] = ((1, 2), (4, 5))
    table.rows["state"][[3, 7]] = STATES.index("leaving")
    before = table.leaving()
    assert table.left_since(before) == set()
    table.rows["ends"]["left"][3] = (0, 1)
    assert table.left_since(before) == {1, 2}
    assert table.left_since(table.leaving()) == set()


def test_totals_add_the_living_to_the_gone(table: Pairs) -> None:
    """Bytes of both directions; a connection is counted when it begins."""
    assert table.totals() == Totals(5, 1129, 5, 0, 0, 0, {"slow reader": 4})
    assert table.count("redirected") == 1
    assert table.count("redirected", "tcp") == 2


def test_pairs_are_described_largest_first(table: Pairs) -> None:
    """As `accelerate status` shows them, no more than asked for."""
    first, second = table.describe(10)
    assert first == {
        "client": "127.0.0.1:40000",
        "server": "127.0.0.1:8080",
        "state": "redirected",
        "reason": "none",
        "redirected_bytes": 120,
        "tcp_bytes": 0,
        "queued_bytes": 40,
    }
    assert (second["state"], second["reason"], second["tcp_bytes"]) == ("tcp", "slow reader", 5)
    assert table.describe(1) == [first]


def test_lines_tell_only_what_happened() -> None:
    """What is zero is not worth a line, but for the sums themselves."""
    assert len(Totals(0, 0, 0, 0, 0, 0, {}).lines()) == 3
    told = "\n".join(Totals(1, 2, 3, 4, 5, 6, {"slow reader": 7}).lines())
    assert "left to TCP, slow reader: 7" in told
    assert "connections to other hosts: 4" in told
    assert "beyond the table's size: 5" in told
    assert "reset, splice() from redirected bytes: 6" in told


@pytest.mark.parametrize(("cpus", "now"), [(2, "2 now"), (0, "none now")])
def test_cpus_kept_awake_are_told_with_what_they_took(cpus: int, now: str) -> None:
    """Users are to see what the shorter round trips cost."""
    told = Totals(0, 0, 0, 0, 0, 0, {}, Awake(cpus, 12.25, 20.5)).lines()
    assert told[-1] == f"CPUs kept awake: {now}, 12.2 s so far, which took 20.5 s of CPU time"


def test_who_never_kept_a_cpu_awake_has_nothing_to_tell() -> None:
    """The row's fields are zero."""
    shared = np.zeros(1, LAYOUT.dtype("gateway_shared"))
    assert awake_of(shared[0]) is None
    shared["awake_ns"], shared["awake_cpu_ns"] = 2 * 10**9, 3 * 10**9
    assert awake_of(shared[0]) == Awake(0, 2.0, 3.0)
