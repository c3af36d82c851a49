"""Addresses as columns, held against the standard library."""

from __future__ import annotations

import ipaddress
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich.addresses import are_loopback, canonical, text_of, words_of

ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.ip_addresses(network="127.0.0.0/8"),
    st.ip_addresses(network="::ffff:0:0/96"),
    st.ip_addresses(network="::/126"),
)


def _words(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> np.ndarray:
    """Return the canonical form (1, 2) of an address as it is in a slot."""
    raw = np.frombuffer(address.packed.ljust(16, b"\0"), np.uint64).reshape(1, 2)
    return canonical(raw, np.array([address.version == 6]))


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@given(ADDRESSES)
def test_an_address_is_written_as_ever(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """An IPv4 address that an IPv6 socket uses is one; what is written is found again."""
    words = _words(address)
    plain = _plain(address)
    family = socket.AF_INET if plain.version == 4 else socket.AF_INET6
    text = text_of(*words[0].tolist())
    assert text == socket.inet_ntop(family, plain.packed)
    assert words_of(text) == tuple(words[0].tolist())


@given(ADDRESSES)
def test_loopback_is_what_means_something_else_in_each_namespace(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Of both families."""
    assert are_loopback(_words(address)).tolist() == [_plain(address).is_loopback]


def test_bytes_behind_an_ipv4_address_mean_nothing() -> None:
    """It fills four of sixteen."""
    raw = np.frombuffer(bytes([10, 0, 0, 1]) + b"\xaa" * 12, np.uint64).reshape(1, 2)
    assert text_of(*canonical(raw, np.array([False]))[0].tolist()) == "10.0.0.1"


@pytest.mark.parametrize("text", ["", "pid:1", "10.0.0", "10.0.0.1\0", "a" * 64, "/run/x"])
def test_what_is_no_address_is_none(text: str) -> None:
    """Subjects of facts are addresses among much else."""
    assert words_of(text) is None
