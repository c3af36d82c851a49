"""DNS against real servers: every query of every client is there, once per side, answered or not."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.ports import free_port
from tests.support.programs import run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import StartAgent

pytestmark = [pytest.mark.root, pytest.mark.server("dnsmasq", "unbound", "dig", "knotd")]

_ROUNDS, _NAMES, _SIDES = 20, 10, 2
_HOST, _UPSTREAM, _DEAD = "127.0.53.54", "127.0.53.56", "127.0.53.57"
_WAIT_S = 20
_RARE = 2


def _shown(transactions: list[dict[str, Any]], port: int) -> list[dict[str, Any]]:
    return [
        found for found in transactions if found.get("server.port") == port and found["protocol"] == "dns"
    ]


@pytest.mark.parametrize("port", [53, None], ids=["port 53", "another port"])
def test_dig_in_a_loop_is_counted(start_agent: StartAgent, tmp_path: Path, port: int | None) -> None:
    """As many queries as dig has sent, on both sides, with question, code and latency."""
    port = port or free_port()
    with servers.dnsmasq(tmp_path, (_HOST, port)):
        agent = start_agent("--log", "json", ports=[port])
        names = [f"n{number}.golden.test" for number in range(_NAMES - 1)] + ["www.golden.test"]
        # A port that is not DNS's own is followed by datagram once DNS was recognised on it.
        run("dig", f"@{_HOST}", "-p", port, "first.golden.test")
        agent.wait_for(lambda lines: len([line for line in lines if "first.golden.test" in line]) == _SIDES)
        for _ in range(_ROUNDS):
            done = run("dig", f"@{_HOST}", "-p", port, "+noall", "+stats", *names)
            assert done.stdout.count("Query time") == _NAMES
        agent.wait_counted(lambda one: one["protocol"] == "dns", _ROUNDS * _NAMES + 1)
        shown = _shown(agent.transactions, port)[_SIDES:]
    for role in ("client", "server"):
        mine = [found for found in shown if found["role"] == role]
        questions = Counter(found["dns.question.name"] for found in mine)
        assert questions == dict.fromkeys(names, _ROUNDS), role
        assert {(found["dns.question.type"], found["error"]) for found in mine} == {("A", False)}
        codes = Counter(found["dns.response_code"] for found in mine)
        assert codes == {"NXDOMAIN": _ROUNDS * (_NAMES - 1), "NOERROR": _ROUNDS}
        assert all(0 < found["duration_ns"] < 1_000_000_000 for found in mine)
        assert {found["network.transport"] for found in mine} == {"udp"}
        assert {found["server.address"] for found in mine} == {_HOST}
        assert len({found["client.port"] for found in mine}) > 1


def test_a_resolver_that_cannot_answer(start_agent: StartAgent, tmp_path: Path) -> None:
    """The one that it asks refuses: each query of dig's ends as an error, with the code that dig shows."""
    upstream = free_port()
    with (
        servers.dnsmasq(tmp_path, (_UPSTREAM, upstream)),
        servers.unbound(tmp_path, (_HOST, 53), (_UPSTREAM, upstream)),
    ):
        agent = start_agent("--log", "json", ports=[53])
        names = [f"n{number}.example.org" for number in range(_NAMES)]
        for _ in range(_ROUNDS):
            done = run("dig", f"@{_HOST}", "+noall", "+comments", *names)
            assert done.stdout.count("status: SERVFAIL") == _NAMES
        found = agent.wait_counted(lambda one: one["protocol"] == "dns", _ROUNDS * _NAMES)
    for role in ("client", "server"):
        mine = [one for one in _shown(found, 53) if one["role"] == role]
        assert Counter(one["dns.question.name"] for one in mine) == dict.fromkeys(names, _ROUNDS)
        assert {(one["dns.response_code"], one["error"]) for one in mine} == {("SERVFAIL", True)}


def test_both_questions_of_a_lookup_have_their_own_latency(start_agent: StartAgent, tmp_path: Path) -> None:
    """The C library asks for A and AAAA at once; both are there, and each ends with its own response."""
    with servers.dnsmasq(tmp_path, (_HOST, 53)):
        agent = start_agent("--log", "json", ports=[53])
        done = run(*servers.resolving_at(tmp_path, _HOST, "getent", "ahosts", "www.golden.test"))
        assert "192.0.2.1" in done.stdout
        agent.settle()
        shown = _shown(agent.transactions, 53)
    for role in ("client", "server"):
        mine = {found["dns.question.type"]: found for found in shown if found["role"] == role}
        assert set(mine) == {"A", "AAAA"}
        assert {found["dns.answer_count"] for found in mine.values()} == {1}


_MUSL = """
#include <netdb.h>
int main(int count, char **names)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC}, *found;
    return getaddrinfo(names[1], "80", &hints, &found);
}
"""


@contextlib.contextmanager
def _deaf(host: str) -> Iterator[None]:
    """Have somebody listen who never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((host, 53))
        yield


def _musl_lookup(directory: Path) -> Path:
    (directory / "lookup.c").write_text(_MUSL)
    made = run("musl-gcc", "-o", directory / "lookup", directory / "lookup.c")
    assert made.code == 0, made.stderr
    return directory / "lookup"


@pytest.mark.server("musl-gcc", "gcc")
@pytest.mark.parametrize("dead_first", [False, True])
def test_of_several_servers_the_one_that_answers_is_named(
    start_agent: StartAgent, tmp_path: Path, *, dead_first: bool
) -> None:
    """The C library musl asks all name servers at once, over one socket: who is dead has timed out."""
    lookup = _musl_lookup(tmp_path)
    with servers.dnsmasq(tmp_path, (_HOST, 53)), _deaf(_DEAD):
        agent = start_agent("--log", "json", ports=[53])
        hosts = (_DEAD, _HOST) if dead_first else (_HOST, _DEAD)
        words = (lookup, "www.golden.test")
        assert run(*servers.resolving_at(tmp_path, hosts[0], *words, others=hosts[1:])).code == 0
        agent.settle()  # now it is known that somebody asks several
        for _ in range(_NAMES):
            done = run(*servers.resolving_at(tmp_path, hosts[0], *words, others=hosts[1:]))
            assert done.code == 0

        def shown() -> list[dict[str, Any]]:
            return _shown(agent.transactions, 53)

        def lost() -> list[dict[str, Any]]:
            return [one for one in shown() if "error.type" in one]

        until(lambda: len(lost()) == _SIDES * (_NAMES + 1), timeout_s=_WAIT_S)
        answered = [one for one in shown() if "dns.response_code" in one]
    counts = Counter((one["role"], one["server.address"], one["dns.question.type"]) for one in answered)
    ends = [(role, _HOST, kind) for role in ("client", "server") for kind in ("A", "AAAA")]
    assert counts == dict.fromkeys(ends, _NAMES + 1)
    assert not any(one["error"] for one in answered)
    assert {one["server.address"] for one in lost()} == {_DEAD}
    reasons = Counter((one["error.type"], one["error"]) for one in lost())
    assert reasons["timeout", True] >= _SIDES * _NAMES
    assert reasons.total() - reasons["answered_elsewhere", False] == reasons["timeout", True]


@pytest.mark.server("musl-gcc", "gcc")
def test_of_servers_that_all_answer_none_has_failed(start_agent: StartAgent, tmp_path: Path) -> None:
    """Of several that are asked at once the later ones' answers are there too, though nobody reads them.

    Hardly any is missed (ADR 14), or taken for the other server's where both come at the same time (ADR 13).
    None of these is an error.
    """
    lookup = _musl_lookup(tmp_path)
    (tmp_path / "other").mkdir()
    with servers.dnsmasq(tmp_path, (_HOST, 53)), servers.dnsmasq(tmp_path / "other", (_DEAD, 53)):
        agent = start_agent("--log", "json", ports=[53])
        words = servers.resolving_at(tmp_path, _HOST, lookup, "www.golden.test", others=[_DEAD])
        assert run(*words).code == 0
        agent.settle()
        before = len(agent.transactions)
        for _ in range(_NAMES):
            assert run(*words).code == 0

        def missed() -> list[dict[str, Any]]:
            return [
                one for one in agent.transactions[before:] if one.get("error.type") == "answered_elsewhere"
            ]

        def told() -> Counter[tuple[str, str]]:
            shown = _shown(agent.transactions[before:], 53)
            answered = [one for one in shown if "dns.response_code" in one]
            return Counter((one["role"], one["server.address"]) for one in answered + missed())

        ends = [(role, host) for role in ("client", "server") for host in (_HOST, _DEAD)]
        until(lambda: told().total() == len(ends) * _SIDES * _NAMES, lambda: str(told()), _WAIT_S)
        agent.settle()
        counts = told()
        assert all(counts["server", host] == _SIDES * _NAMES for host in (_HOST, _DEAD))
        assert all(abs(counts["client", host] - _SIDES * _NAMES) <= _RARE for host in (_HOST, _DEAD))
        assert len(missed()) <= _RARE
        assert not any(one["error"] for one in agent.transactions)


def test_the_server_that_a_lookup_waits_for_is_named(start_agent: StartAgent, tmp_path: Path) -> None:
    """The C library asks a second server when the first one is silent: how long it waited, and for whom."""
    with servers.dnsmasq(tmp_path, (_HOST, 53)), _deaf(_DEAD):
        agent = start_agent("--log", "json", ports=[53])
        words = ("getent", "ahosts", "www.golden.test")
        assert run(*servers.resolving_at(tmp_path, _DEAD, *words, others=[_HOST])).code == 0

        def retried() -> list[dict[str, Any]]:
            return [one for one in _shown(agent.transactions, 53) if one.get("error.type") == "retried"]

        until(lambda: len(retried()) == _SIDES, timeout_s=_WAIT_S)
        agent.settle()
        clients = [one for one in _shown(agent.transactions, 53) if one["role"] == "client"]
    lost = [one for one in clients if one["error"]]
    assert {(one["server.address"], one["error.type"]) for one in lost} == {(_DEAD, "retried")}
    assert {one["dns.question.type"] for one in lost} == {"A", "AAAA"}
    # resolving_at() tells it to wait for a second.
    assert all(1_000_000_000 <= one["masdeepflow.waited_ns"] < 3_000_000_000 for one in lost)
    answered = [(one["server.address"], one["dns.response_code"]) for one in clients if not one["error"]]
    assert answered == [(_HOST, "NOERROR")] * _SIDES


@pytest.mark.parametrize("database", ["ahosts", "ahostsv4"])
def test_a_server_that_is_not_there_is_told_at_once(
    start_agent: StartAgent, tmp_path: Path, database: str
) -> None:
    """Nothing listens there, and the C library goes on: an error with its reason, read or not."""
    with servers.dnsmasq(tmp_path, (_HOST, 53)):
        agent = start_agent(ports=[53])
        words = ("getent", database, "www.golden.test")
        assert run(*servers.resolving_at(tmp_path, _DEAD, *words, others=[_HOST])).code == 0
        agent.wait_for(lambda lines: any(f"-> {_HOST}:53, DNS Response: NOERROR" in line for line in lines))
        agent.settle()
        refused = [line for line in agent.lines if f"-> {_DEAD}:53, DNS Response" in line]
        asked = [line for line in agent.lines if f"-> {_DEAD}:53, DNS Query" in line]
    assert len(refused) == len(asked) > 0
    assert all(
        "Response: none (ECONNREFUSED: nothing listens there), , Waited: 0." in line for line in refused
    )


def test_the_second_datagram_of_a_truncated_lookup_is_no_error(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    """The C library asks for A and AAAA over TCP when one does not fit, and reads no more of the others."""
    with servers.knot(tmp_path, (_HOST, 53)):
        agent = start_agent("--log", "json", ports=[53])
        done = run(*servers.resolving_at(tmp_path, _HOST, "getent", "ahosts", "many.golden.test"))
        assert "192.0.2.60" in done.stdout

        def clients() -> list[dict[str, Any]]:
            return [one for one in _shown(agent.transactions, 53) if one["role"] == "client"]

        def asked() -> Counter[tuple[str, str]]:
            return Counter((one["network.transport"], one["dns.question.type"]) for one in clients())

        # It may repeat all of it with more room for the answer.
        until(lambda: len(asked()) == 2 * _SIDES and len(set(asked().values())) == 1, timeout_s=_WAIT_S)
    assert not any(one["error"] for one in clients())


def test_a_server_that_does_not_answer_is_an_error(start_agent: StartAgent) -> None:
    """Each try is a query of its own that ends as an error, once, five seconds after it was sent."""
    agent = start_agent("--log", "json", ports=[53])
    with _deaf(_DEAD):
        run("dig", f"@{_DEAD}", "+tries=2", "+time=1", "dead.golden.test")
    until(lambda: len(_shown(agent.transactions, 53)) == _SIDES, timeout_s=_WAIT_S)
    shown = _shown(agent.transactions, 53)
    assert {(found["error"], found["error.type"], found["role"]) for found in shown} == {
        (True, "timeout", "client")
    }
    assert {found["dns.question.name"] for found in shown} == {"dead.golden.test"}
    assert not any("duration_ns" in found or "dns.response_code" in found for found in shown)
