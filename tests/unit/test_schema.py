"""Names and numbers: the enums are the kernel side's, the attributes are OpenTelemetry's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.layout import committed
from masdeepflow.schema import ATTRIBUTES, Flag, Kind, Role, Transport

if TYPE_CHECKING:
    from enum import IntEnum, IntFlag

INTERFACE = {
    "http": "request.method route response.status_code",
    "url": "path query",
    "network": "protocol.version",
    "server": "name",
    "user_agent": "original",
    "db": "system.name namespace operation.name query.text query.summary response.status_code "
    "response.message",
    "dns": "question.name question.type response_code",
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
