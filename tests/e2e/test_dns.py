"""DNS against real servers: every query of every client is there, once per side, answered or not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.ports import free_port
from tests.support.programs import run, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import StartAgent

pytestmark = [pytest.mark.root, pytest.mark.server("dnsmasq", "unbound", "dig", "knotd")]

_ROUNDS, _NAMES, _SIDES = 20, 10, 2
_HOST, _UPSTREAM, _DEAD = "127.0.53.54", "127.0.53.56", "127.0.53.57"
_WAIT_S = 20


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


@pytest.mark.server("musl-gcc", "gcc")
@pytest.mark.parametrize("dead_first", [False, True])
def test_of_several_servers_the_one_that_answers_is_named(
    start_agent: StartAgent, tmp_path: Path, *, dead_first: bool
) -> None:
    """The C library musl asks all name servers at once, over one socket: who is dead has not answered."""
    (tmp_path / "lookup.c").write_text(_MUSL)
    made = run("musl-gcc", "-o", tmp_path / "lookup", tmp_path / "lookup.c")
    assert made.code == 0, made.stderr
    with servers.dnsmasq(tmp_path, (_HOST, 53)):
        agent = start_agent("--log", "json", ports=[53])
        hosts = (_DEAD, _HOST) if dead_first else (_HOST, _DEAD)
        for _ in range(_NAMES):
            lookup = (tmp_path / "lookup", "www.golden.test")
            done = run(*servers.resolving_at(tmp_path, hosts[0], *lookup, others=hosts[1:]))
            assert done.code == 0
        agent.settle()
        answered = [one for one in _shown(agent.transactions, 53) if "dns.response_code" in one]
    counts = Counter((one["role"], one["server.address"], one["dns.question.type"]) for one in answered)
    ends = [(role, _HOST, kind) for role in ("client", "server") for kind in ("A", "AAAA")]
    assert counts == dict.fromkeys(ends, _NAMES)


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
    run("dig", "@127.0.53.55", "+tries=2", "+time=1", "dead.golden.test")
    # With no server there at all the kernel tells the client at once: it may try less often than it was told.
    until(lambda: _shown(agent.transactions, 53), timeout_s=_WAIT_S)
    agent.settle()
    shown = _shown(agent.transactions, 53)
    assert {(found["error"], found["error.type"], found["role"]) for found in shown} == {
        (True, "timeout", "client")
    }
    assert {found["dns.question.name"] for found in shown} == {"dead.golden.test"}
    assert not any("duration_ns" in found or "dns.response_code" in found for found in shown)
