"""Names and numbers: the enums are the kernel side's, the attributes are OpenTelemetry's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow import schema
from masdeepflow.kernel.layout import committed
from masdeepflow.schema import ATTRIBUTES, Column, Flag, Kind, Role, Transport

if TYPE_CHECKING:
    from enum import IntEnum, IntFlag

INTERFACE = {
    "http": "request.method route response.status_code",
    "url": "path query",
    "network": "protocol.version accelerated",
    "server": "name",
    "user_agent": "original",
    "db": "system.name collection.name namespace operation.name query.text query.summary "
    "response.status_code response.message",
    "dns": "question.name question.type response_code answer_count extended_error",
    "messaging": "system operation.name destination.template",
    "error": "type",
    "masdeepflow": "db.blocking waited_ns closed_by",
}
"""What the JSON log tells about a transaction by its protocol: keys by their first word."""


@pytest.mark.parametrize(
    ("enum", "name", "prefix"),
    [
        (Kind, "slot_kind", "KIND_"),
        (Role, "slot_role", "ROLE_"),
        (Transport, "slot_transport", "TRANSPORT_"),
        (Flag, "slot_flag", "FLAG_"),
    ],
)
def test_enums_are_those_of_the_kernel_side(enum: type[IntEnum | IntFlag], name: str, prefix: str) -> None:
    """Every enumerator of bpf/wire.h has its counterpart of the same value, and there are no others."""
    ours = {prefix + member.name: int(member) for member in enum if member.name is not None}
    assert ours == committed().enums[name]


def test_attributes_are_keys_of_the_json_log() -> None:
    """An attribute has the name under which users find it in the JSON log."""
    documented = {f"{first}.{rest}" for first, names in INTERFACE.items() for rest in names.split()}
    assert set(ATTRIBUTES) <= documented


def test_attributes_are_known_by_their_own_name() -> None:
    """The key of an attribute is its column's name, lower case and dotted, and each has a help text."""
    for name, column in ATTRIBUTES.items():
        assert column.name == name
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)
        assert column.help


def test_free_text_is_no_metric_label() -> None:
    """What a client chooses freely never splits a metric: each value would be a series of its own."""
    free = ("url.path", "url.query", "server.name", "user_agent.original", "db.query.text")
    assert not any(ATTRIBUTES[name].metric_label for name in (*free, "db.response.message"))


def test_header_names_the_enums_that_are_checked() -> None:
    """bpf/wire.h has no enum that the layout, and so the rule above, leaves out."""
    header = (Path(__file__).parents[2] / "bpf" / "wire.h").read_text()
    assert set(re.findall(r"^enum (\w+) \{", header, re.MULTILINE)) == set(committed().enums)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> dict[str, Column]:
    """Give the attributes, which are as before behind the test."""
    attributes = dict(ATTRIBUTES)
    monkeypatch.setattr(schema, "ATTRIBUTES", attributes)
    return attributes


def test_attributes_of_a_protocol_come_last_and_split_no_metrics(own: dict[str, Column]) -> None:
    """The same again is no error, nor is one of ours as it is."""
    columns = [Column("toy.size", "int", "Size", metric_label=True), ATTRIBUTES["db.system.name"]]
    for _ in range(2):
        schema.extend(columns)
    assert list(own) == [*ATTRIBUTES, "toy.size"]
    assert not own["toy.size"].metric_label
    assert own["db.system.name"].metric_label


@pytest.mark.parametrize(
    "column",
    [
        Column("db.query.text", "int", "Something else"),
        Column("size", "int", "No namespace"),
        Column("Toy.size", "int", "Capitals"),
        Column('toy."size', "int", "What JSON would have to escape"),
        Column("process.pid", "int", "What every transaction has"),
        Column("k8s.pod.name", "string", "Likewise"),
        Column("toy.size", "float", "No such type"),  # type: ignore[arg-type]
    ],
)
def test_names_that_are_taken_or_odd_are_refused(own: dict[str, Column], column: Column) -> None:
    """A key must not come twice in a JSON object, and nothing is added by halves."""
    with pytest.raises(ValueError, match=re.escape(column.name)):
        schema.extend([Column("toy.first", "int", "Fine"), column])
    assert own == ATTRIBUTES
