"""MySQL bytes to messages and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen.mysql_wire import Capability, Fields, Packet

_PAYLOADS = [b"\x03SELECT 1;", b"", b"\x0e"]
_STREAM = wire.frames(_PAYLOADS, 0)

# What MariaDB 10.11.19 sent.
_GREETING = (
    b"\n5.5.5-10.11.19-MariaDB-0+deb12u1\x00\x03\x00\x00\x00^I2_fc=G\x00\xfe\xf7\x08\x02\x00\xff\x81\x15"
    b"\x00\x00\x00\x00\x00\x00\x1d\x00\x00\x00+CM;}(L(|^@c\x00mysql_native_password\x00"
)
_CAPABILITIES = Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION


def _split(reader: wire.PacketReader, stream: bytes, size: int) -> list[bytes]:
    parts = (stream[start : start + size] for start in range(0, len(stream), size))
    return [packet.payload for part in parts for packet in reader.feed(part)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 11, len(_STREAM)])
def test_packets_however_the_reads_split_them(size: int) -> None:
    """The same packets come out whether the stream is fed whole, byte by byte or in between."""
    assert _split(wire.PacketReader(), _STREAM, size) == _PAYLOADS


def test_trailing_bytes_wait_for_their_packet() -> None:
    """Bytes after the last whole packet are kept for the next read."""
    reader = wire.PacketReader()
    assert list(reader.feed(_STREAM[:-1])) == [Packet(0, _PAYLOADS[0]), Packet(1, b"")]
    assert list(reader.feed(_STREAM[-1:])) == [Packet(2, b"\x0e")]


@pytest.mark.parametrize("length", [0xFFFFFE, 0xFFFFFF, 0x1000000, 0x1FFFFFE])
def test_long_payloads_take_several_chunks(length: int) -> None:
    """A payload of 2^24-1 bytes or more is continued, with an empty chunk when it ends on the boundary."""
    framed = wire.frame(bytes(length), 0xFF)
    chunks = length // 0xFFFFFF + 1
    assert len(framed) == length + 4 * chunks
    assert list(wire.PacketReader().feed(framed)) == [Packet((0xFF + chunks - 1) % 256, bytes(length))]


def test_a_packet_beyond_the_limit_is_refused_by_its_header() -> None:
    """Memory is bounded: the chunk that would pass MAX_PACKET is refused before its bytes are gathered."""
    reader = wire.PacketReader()
    full = wire.frame(bytes(0xFFFFFF), 0)[:-4]
    for _ in range(wire.MAX_PACKET // 0xFFFFFF - 1):
        assert list(reader.feed(full)) == []
    assert list(reader.feed(full)) == []
    with pytest.raises(wire.PacketTooLargeError):
        list(reader.feed(b"\xff\xff\xff\x00"))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (0xFA, "fa"),
        (0xFB, "fcfb00"),
        (0xFFFF, "fcffff"),
        (0x10000, "fd000001"),
        (0xFFFFFF, "fdffffff"),
        (0x1000000, "fe0000000100000000"),
        (2**64 - 1, "feffffffffffffffff"),
    ],
)
def test_lenenc_int(value: int, encoded: str) -> None:
    """Each width begins where the one before cannot hold the value (page_protocol_basic_dt_integers)."""
    assert wire.lenenc_int(value).hex() == encoded
    assert Fields(bytes.fromhex(encoded)).lenenc_int() == value


def test_lenenc_int_has_no_place_for_more() -> None:
    """A value of more than 64 bits cannot be encoded, and FF is no length."""
    with pytest.raises(wire.WireError):
        wire.lenenc_int(2**64)
    with pytest.raises(wire.WireError):
        Fields(b"\xff").lenenc_int()


def test_native_password() -> None:
    """The answer is the one PyMySQL computes, and an empty password answers with nothing."""
    salt = bytes(range(1, 21))
    assert wire.scramble("secret", salt).hex() == "b32bb3a583e1340c0a1108d58b1be49781ad8c2f"
    assert wire.scramble("", salt) == b""


def test_greeting_of_a_real_server() -> None:
    """The fields of a server's greeting are where the manual puts them."""
    assert wire.Greeting.parse(_GREETING) == wire.Greeting(
        version="5.5.5-10.11.19-MariaDB-0+deb12u1",
        connection_id=3,
        salt=b"^I2_fc=G+CM;}(L(|^@c",
        capabilities=Capability(0x81FFF7FE),
        plugin="mysql_native_password",
    )


@pytest.mark.parametrize(
    "payload", [b"", b"\x09", b"HTTP/1.1 400 Bad Request\r\n\r\n", _GREETING[:-1], _GREETING[:30]]
)
def test_no_greeting(payload: bytes) -> None:
    """Another protocol, another version or half a greeting is a WireError."""
    with pytest.raises(wire.WireError):
        wire.Greeting.parse(payload)


@pytest.mark.parametrize(
    ("extra", "auth"),
    [
        (Capability.PLUGIN_AUTH_LENENC_DATA, b"\x03abc"),
        (Capability.SECURE_CONNECTION, b"\x03abc"),
        (Capability(0), b"abc\0"),
    ],
)
def test_login_in_each_form(extra: Capability, auth: bytes) -> None:
    """The authentication data has one of three forms, by capability; database and plugin follow."""
    capabilities = Capability.PROTOCOL_41 | Capability.CONNECT_WITH_DB | Capability.PLUGIN_AUTH | extra
    head = capabilities.to_bytes(4, "little") + bytes(28)
    login = wire.Login.parse(head + b"me\0" + auth + b"db\0plugin\0")
    assert login == wire.Login("me", b"abc", capabilities, "plugin")


@pytest.mark.parametrize("flags", [Capability(0), Capability.PROTOCOL_41 | Capability.SSL])
def test_login_needs_41_and_no_tls(flags: Capability) -> None:
    """A client older than 4.1, or one that starts TLS, cannot log in."""
    with pytest.raises(wire.WireError):
        wire.Login.parse(flags.to_bytes(4, "little") + bytes(40))


_MESSAGES = [
    wire.Greeting("8.0", 7, bytes(range(1, 21)), _CAPABILITIES | Capability.PLUGIN_AUTH, "some_plugin"),
    wire.Login(
        "root", b"x" * 20, _CAPABILITIES | Capability.PLUGIN_AUTH | Capability.PLUGIN_AUTH_LENENC_DATA
    ),
    wire.AuthSwitch("caching_sha2_password", bytes(range(1, 21))),
    wire.Ok(300, 70000, wire.MORE_RESULTS, 2),
    wire.Err(1064, "42000", "You have an error"),
]


@pytest.mark.parametrize("message", _MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_survive_the_wire(
    message: wire.Greeting | wire.Login | wire.AuthSwitch | wire.Ok | wire.Err,
) -> None:
    """What is encoded is what is parsed."""
    assert type(message).parse(message.encode()) == message


def test_err_before_the_handshake_has_no_sqlstate() -> None:
    """A server that refuses the connection leaves the SQLSTATE out; it is shown as the general one."""
    error = wire.Err.parse(b"\xff\x10\x04Too many connections")
    assert error == wire.Err(1040, "", "Too many connections")
    assert str(error) == "1040 (HY000): Too many connections"


def test_bare_auth_switch_means_the_old_password() -> None:
    """A lone FE asks for the method from before 4.1."""
    assert wire.AuthSwitch.parse(b"\xfe").plugin == "mysql_old_password"


def test_row_with_null_and_empty() -> None:
    """NULL and the empty string are different values."""
    assert wire.text_row(b"\x011\xfb\x00") == [b"1", None, b""]


def test_eof_is_told_from_a_long_value() -> None:
    """FE starts both an EOF packet and a value of 16 MB; the length of the packet decides."""
    assert wire.is_eof(wire.EOF)
    assert wire.eof_status(wire.EOF) == 0x0002
    assert not wire.is_eof(wire.lenenc(bytes(0x1000000)))
    assert not wire.is_eof(b"")


def test_column_name_is_the_alias() -> None:
    """The fifth string of a column definition is its name."""
    assert wire.column_name(wire.column_definition("n")) == "n"


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_a_wire_error(payload: bytes) -> None:
    """No bytes, whatever a peer sends, raise anything but WireError."""
    parsers = (
        wire.Greeting.parse, wire.Login.parse, wire.AuthSwitch.parse, wire.Ok.parse, wire.Err.parse,
        wire.column_name, wire.text_row, wire.is_eof,
    )  # fmt: skip
    for parse in parsers:
        for start in (b"", b"\x0a5.7\0"):
            try:
                parse(start + payload)
            except wire.WireError:
                continue
