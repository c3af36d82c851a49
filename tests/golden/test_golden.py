"""Replays of captures of real servers and clients: the committed lines, and what they must say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.capture import lines_of, recording_of, replayed
from tests.golden.scenarios import SCENARIOS
from tests.support import json_log

_FOREIGN = {name: name for name in ("http", "memcached", "mongodb", "mysql", "nats", "postgresql", "redis")}
"""What is on another protocol's port -> what it has to be recognised as; all else is nobody's."""
_SAME_ON_BOTH_SIDES = (
    "http.request.method",
    "url.path",
    "http.response.status_code",
    "db.query.text",
    "db.operation.name",
    "db.collection.name",
    "db.response.status_code",
    "dns.question.name",
    "dns.question.type",
    "dns.response_code",
    "dns.answer_count",
    "messaging.operation.name",
    "messaging.destination.template",
    "error.type",
)
_ONE_SIDED = {"mysql/tls", "mysql/connector-j", "nats/tls", "dns/unanswered", "dns/refused", "dns/knot-glibc"}
"""Or with more than a prefix holds at one of them."""


def _transactions(name: str) -> list[dict[str, Any]]:
    objects = [json.loads(line) for line in lines_of(name).read_text().splitlines()]
    return [found for found in objects if "event" not in found]


def _negatives() -> list[str]:
    return [name for name in SCENARIOS if "-on-" in name]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_replay_prints_the_committed_lines(name: str) -> None:
    """Byte by byte, the summary included, and without root."""
    assert replayed(name) == lines_of(name).read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_lines_are_valid_and_in_order(name: str) -> None:
    """Documented keys only, in order of time, a true summary at the end, nothing lost."""
    lines = lines_of(name).read_text().splitlines()
    summary = json_log.summary(lines)
    objects = [json.loads(line) for line in lines[:-1]]
    for found in objects:
        json_log.check_line(found)
    json_log.check_order(objects)
    assert not any(summary["lost"].values())
    assert sum(one["requests"] for one in summary["services"]) == len(_transactions(name))


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - set(_negatives()) - _ONE_SIDED))
def test_both_sides_of_a_connection_tell_the_same(name: str) -> None:
    """Client and server report the same requests, with the same outcomes."""
    sides: dict[str, list[tuple[Any, ...]]] = {"client": [], "server": []}
    for found in _transactions(name):
        told = (found.get("client.port", 0), found["protocol"])
        sides[found["role"]].append((*told, *(found.get(key) for key in _SAME_ON_BOTH_SIDES)))
    assert sides["client"]
    assert sorted(sides["client"], key=str) == sorted(sides["server"], key=str)
    assert name.split("/", maxsplit=1)[0] in {told[1] for told in sides["client"]}


@pytest.mark.parametrize("name", _negatives())
def test_a_port_says_nothing_about_the_protocol(name: str) -> None:
    """HTTP on 3306 is HTTP, MySQL on 80 is MySQL, Redis is Redis; TLS and noise are nobody's anywhere."""
    expected = _FOREIGN.get(name.split("/")[1].split("-on-", maxsplit=1)[0], "tcp")
    assert {found["protocol"] for found in _transactions(name)} == {expected}


@pytest.mark.parametrize(
    "name", ["http/tls-on-80", "mysql/tls", "mysql/compressed", "nats/tls", "postgresql/tls"]
)
def test_what_cannot_be_read_does_not_leak(name: str) -> None:
    """Neither the recording nor the lines hold what went over TLS or compressed."""
    assert "secret" not in lines_of(name).read_text()
    assert {found["protocol"] for found in _transactions(name)} >= {"tcp"}


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("mongodb/")])
def test_documents_are_not_shown(name: str) -> None:
    """Commands, collections and databases are; what is in filters, documents, logins and errors is not."""
    assert not {word for word in ("secret", "alice", "email") if word in lines_of(name).read_text()}


def test_nothing_is_here_that_no_script_makes() -> None:
    """Each recording has a scenario and each scenario its recording and lines; all of it stays small."""
    directory = recording_of("http/x").parent.parent
    files = {path for path in directory.glob("*/*") if path.suffix in (".rec", ".jsonl")}
    assert files == {path for name in SCENARIOS for path in (recording_of(name), lines_of(name))}
    assert sum(path.stat().st_size for path in files) < 3_500_000
