"""`--include` and `--exclude`: what passes, and what is refused."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow import filters
from tests.support.tables import SERVER

VALUES = {
    "pid": st.integers(1, 3).map(str),
    "comm": st.sampled_from(["nginx", "a=b"]),
    "port": st.integers(79, 81).map(str),
    "protocol": st.sampled_from(["http", "mysql"]),
    "pod": st.sampled_from(["web-0", "web-1"]),
    "namespace": st.sampled_from(["shop", "web-0"]),
    "container": st.sampled_from(["nginx", "db"]),
}
ITEMS = st.lists(st.one_of(*(st.tuples(st.just(key), value) for key, value in VALUES.items())), max_size=4)
ROWS = st.fixed_dictionaries({**VALUES, "protocol": st.none() | VALUES["protocol"]})


def _passes(items: list[tuple[str, str]], row: dict[str, str | None]) -> bool:
    """Reference of include: for every key named, one of its values."""
    for key in {key for key, _ in items}:
        unknown_protocol = key == "protocol" and row[key] is None
        if not unknown_protocol and str(row[key]) not in [value for name, value in items if name == key]:
            return False
    return True


def _values(**fields: object) -> dict[str, str | None]:
    """Return what a filter sees of an endpoint with these fields."""
    return filters.values_of(replace(SERVER, **fields), None)  # type: ignore[arg-type]


def test_a_pod_is_found_by_its_name_and_namespace() -> None:
    """Names of pods and containers filter as those of processes do; whoever is in none has empty names."""
    named = _values(pod="web-0", namespace="shop", container="nginx")
    assert filters.parse(["pod=web-0", "namespace=shop", "container=nginx"], []).passes(named)
    assert not filters.parse(["namespace=shop"], []).passes(_values())
    assert filters.parse([], ["namespace=shop"]).passes(_values())


@given(ITEMS, ITEMS, ROWS)
def test_a_row_passes_if_all_keys_include_it_and_none_excludes_it(
    include: list[tuple[str, str]], exclude: list[tuple[str, str]], row: dict[str, str | None]
) -> None:
    """Values of one key are alternatives, keys all have to agree, and an exclusion always wins."""
    shown = filters.parse(["=".join(item) for item in include], ["=".join(item) for item in exclude])
    excluded = any(str(row[key]) == value for key, value in exclude)
    assert shown.passes(row) == (_passes(include, row) and not excluded)
    assert bool(shown) == bool(include or exclude)


def test_no_filter_shows_everything() -> None:
    """Without options there is nothing to check, which the pipeline asks for first."""
    shown = filters.parse([], [])
    assert not shown
    assert shown.passes(_values())


def test_a_value_may_hold_an_equals_sign() -> None:
    """Only the first equals sign separates."""
    assert filters.parse(["comm=a=b"], []).passes(_values(comm="a=b"))


def test_numbers_are_compared_as_numbers() -> None:
    """Leading zeros do not make another port."""
    assert filters.parse(["port=0080"], []).passes(_values(server_port=80))
    assert filters.parse(["pid=0"], []).passes(_values(pid=0))


def test_unix_sockets_have_no_port() -> None:
    """An include of a port leaves Unix sockets out, an exclude of one keeps them."""
    assert not filters.parse(["port=80"], []).passes(_values(server_port=None))
    assert filters.parse([], ["port=80"]).passes(_values(server_port=None))


@pytest.mark.parametrize("item", ["", "pid", "pid=", "=1", "user=root", "PID=1", " pid=1"])
def test_an_item_without_a_known_key_and_a_value_is_refused(item: str) -> None:
    """The error shows the form, the keys there are, and what was given."""
    with pytest.raises(filters.FilterError, match=r"KEY=VALUE .* pid, comm, port, protocol") as caught:
        filters.parse([item], [])
    assert repr(item) in str(caught.value)


@pytest.mark.parametrize("item", ["pid=nginx", "port=-1", "port=8.0", "pid=\u0661", "port=\u00b2"])
def test_a_number_is_written_in_ascii_digits(item: str) -> None:
    """What would never match, such as digits of other scripts, is refused with the key that is a number."""
    with pytest.raises(filters.FilterError, match=rf"^{item.partition('=')[0]} .* is a number"):
        filters.parse([], [item])


@pytest.mark.parametrize("item", ["port=0", "port=65536", "port=" + "9" * 5000])
def test_a_port_is_one_that_there_can_be(item: str) -> None:
    """Anything else would never match."""
    with pytest.raises(filters.FilterError, match=r"^port in a filter is between 1 and 65535"):
        filters.parse([item], [])


def test_what_is_named_is_told() -> None:
    """Whoever knows the protocols can say which of them there is not."""
    shown = filters.parse(["protocol=http", "port=80"], ["protocol=dns"])
    assert shown.named("protocol") == {"http", "dns"}
    assert shown.named("comm") == set()


@given(st.text())
def test_any_text_is_a_filter_or_an_error_of_filters(item: str) -> None:
    """Nothing that a user can type gives another exception."""
    with contextlib.suppress(filters.FilterError):
        assert filters.parse([item], [])
