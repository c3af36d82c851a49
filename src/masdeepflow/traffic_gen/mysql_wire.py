"""MySQL client/server protocol, version 4.1: bytes to packets to messages and back, without sockets.

Layouts are those of the MySQL Source Code Documentation, https://dev.mysql.com/doc/dev/mysql-server/latest/ ;
each message names its page there. Integers are little-endian; "lenenc" is the manual's length-encoded form.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "CACHING_SHA2",
    "EOF",
    "EOF_HEADER",
    "ERR_HEADER",
    "MORE_RESULTS",
    "NATIVE",
    "OK_HEADER",
    "AuthSwitch",
    "Capability",
    "Command",
    "Err",
    "Fields",
    "Greeting",
    "Login",
    "Ok",
    "Packet",
    "PacketReader",
    "PacketTooLargeError",
    "WireError",
    "column_definition",
    "column_name",
    "eof_status",
    "frame",
    "frames",
    "is_eof",
    "lenenc",
    "lenenc_int",
    "scramble",
    "text_row",
]

NATIVE = "mysql_native_password"
CACHING_SHA2 = "caching_sha2_password"

OK_HEADER, ERR_HEADER, EOF_HEADER = 0x00, 0xFF, 0xFE
AUTOCOMMIT, MORE_RESULTS = 0x0002, 0x0008
"""Status flags, page_protocol_basic_ok_packet / mysql__com_8h."""

UTF8MB4_GENERAL_CI = 45
PROTOCOL_VERSION = 10
SALT_BYTES = 20
MAX_PACKET = 64 * 1024 * 1024
"""Bytes of a packet that are gathered at most; MySQL's own default of max_allowed_packet."""

_CHUNK = 0xFFFFFF
_HEADER_BYTES = 4
_EOF_LIMIT = 9
_SQLSTATE_MARK = ord("#")


class WireError(Exception):
    """The bytes are not what the protocol puts in this place."""


class PacketTooLargeError(WireError):
    """A packet exceeds ``MAX_PACKET``."""


class Capability(enum.IntFlag):
    """Capability flags used here, group__group__cs__capabilities__flags."""

    LONG_PASSWORD = 1 << 0
    FOUND_ROWS = 1 << 1
    LONG_FLAG = 1 << 2
    CONNECT_WITH_DB = 1 << 3
    ODBC = 1 << 6
    IGNORE_SPACE = 1 << 8
    PROTOCOL_41 = 1 << 9
    INTERACTIVE = 1 << 10
    SSL = 1 << 11
    TRANSACTIONS = 1 << 13
    SECURE_CONNECTION = 1 << 15
    MULTI_STATEMENTS = 1 << 16
    MULTI_RESULTS = 1 << 17
    PS_MULTI_RESULTS = 1 << 18
    PLUGIN_AUTH = 1 << 19
    CONNECT_ATTRS = 1 << 20
    PLUGIN_AUTH_LENENC_DATA = 1 << 21


class Command(enum.IntEnum):
    """First byte of a command packet, my_command_8h."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    STATISTICS = 0x09
    DEBUG = 0x0D
    PING = 0x0E
    CHANGE_USER = 0x11
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    RESET_CONNECTION = 0x1F


@dataclass(frozen=True, slots=True)
class Packet:
    """One logical packet; ``sequence`` is that of its last chunk."""

    sequence: int
    payload: bytes


class PacketReader:
    """Cuts a byte stream into packets, however the reads split it (page_protocol_basic_packets).

    ::

        0         3     4
        | length  | seq | payload ...   length FFFFFF: the next chunk continues this packet
    """

    def __init__(self) -> None:
        """Start at a packet boundary."""
        self._buffer = bytearray()
        self._gathered = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield the packets that ``data`` completes.

        Raises:
            PacketTooLargeError: a packet exceeds ``MAX_PACKET``; the stream cannot be followed any further.

        """
        self._buffer += data
        while (chunk := self._next_chunk()) is not None:
            self._gathered += chunk.payload
            if len(chunk.payload) < _CHUNK:
                yield Packet(chunk.sequence, bytes(self._gathered))
                self._gathered.clear()

    def _next_chunk(self) -> Packet | None:
        buffer = self._buffer
        if len(buffer) < _HEADER_BYTES:
            return None
        end = _HEADER_BYTES + int.from_bytes(buffer[:3], "little")
        if len(self._gathered) + end > MAX_PACKET:
            raise PacketTooLargeError(_TOO_LARGE)
        if len(buffer) < end:
            return None
        chunk = Packet(buffer[3], bytes(buffer[_HEADER_BYTES:end]))
        del buffer[:end]
        return chunk


_TOO_LARGE = f"a packet of more than {MAX_PACKET} bytes"


def frame(payload: bytes, sequence: int) -> bytes:
    """Put the packet header, or several for a long payload, round ``payload``."""
    framed = bytearray()
    # A payload that fills its last chunk ends with an empty one, hence the + 1.
    for number, start in enumerate(range(0, len(payload) + 1, _CHUNK)):
        chunk = payload[start : start + _CHUNK]
        framed += len(chunk).to_bytes(3, "little") + bytes([(sequence + number) & 0xFF]) + chunk
    return bytes(framed)


def frames(payloads: Iterable[bytes], sequence: int) -> bytes:
    """Frame short payloads one after the other, the first with ``sequence``."""
    return b"".join(frame(payload, sequence + number) for number, payload in enumerate(payloads))


class Fields:
    """Takes the basic types off the front of a payload; each method raises WireError when it is too short."""

    def __init__(self, payload: bytes) -> None:
        """Start at the first byte."""
        self._payload = payload
        self._at = 0

    def __bool__(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._payload)

    def take(self, count: int) -> bytes:
        """Take ``count`` bytes."""
        end = self._at + count
        if end > len(self._payload):
            raise WireError(_short(count, len(self._payload) - self._at))
        taken = self._payload[self._at : end]
        self._at = end
        return taken

    def integer(self, count: int) -> int:
        """Take an integer of ``count`` bytes."""
        return int.from_bytes(self.take(count), "little")

    def until_nul(self) -> bytes:
        """Take the bytes before a NUL, and the NUL."""
        end = self._payload.find(0, self._at)
        if end < 0:
            raise WireError(_NO_NUL)
        taken = self.take(end - self._at)
        self._at += 1
        return taken

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(len(self._payload) - self._at)

    def lenenc_int(self) -> int | None:
        """Take a lenenc integer; None for the FB that stands for NULL in a row."""
        first = self.integer(1)
        if first < _LENENC_NULL:
            return first
        if first == _LENENC_NULL:
            return None
        if first not in _LENENC_WIDTH:
            raise WireError(_BAD_LENENC)
        return self.integer(_LENENC_WIDTH[first])

    def lenenc(self) -> bytes | None:
        """Take a lenenc string; None for NULL."""
        length = self.lenenc_int()
        return None if length is None else self.take(length)


_LENENC_NULL = 0xFB
_LENENC_WIDTH = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_NO_NUL = "a string without its final NUL"
_BAD_LENENC = "FF where a length should be"


def _short(wanted: int, left: int) -> str:
    return f"{wanted} bytes expected, {left} left"


def lenenc_int(value: int) -> bytes:
    """Encode a lenenc integer (page_protocol_basic_dt_integers)."""
    if value < _LENENC_NULL:
        return bytes([value])
    for first, width in _LENENC_WIDTH.items():
        if value < 1 << 8 * width:
            return bytes([first]) + value.to_bytes(width, "little")
    raise WireError(_BAD_LENENC)


def lenenc(data: bytes) -> bytes:
    """Encode a lenenc string (page_protocol_basic_dt_strings)."""
    return lenenc_int(len(data)) + data


def scramble(password: str, salt: bytes) -> bytes:
    """Answer a mysql_native_password challenge; nothing for an empty password.

    ``SHA1(password) XOR SHA1(salt + SHA1(SHA1(password)))``,
    page_protocol_connection_phase_authentication_methods_native_password_authentication.
    """
    if not password:
        return b""
    once = _sha1(password.encode(errors="surrogateescape"))
    mask = _sha1(salt + _sha1(once))
    return bytes(left ^ right for left, right in zip(once, mask, strict=True))


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class Greeting:
    """The server's first packet, page_protocol_connection_phase_packets_protocol_handshake_v10."""

    version: str
    connection_id: int
    salt: bytes
    capabilities: Capability
    plugin: str = NATIVE

    def encode(self) -> bytes:
        """Build the payload."""
        low, high = self.capabilities & 0xFFFF, self.capabilities >> 16
        return (
            bytes([PROTOCOL_VERSION])
            + self.version.encode()
            + struct.pack("<xI8sx", self.connection_id, self.salt)
            + struct.pack("<HBHHB10x", low, UTF8MB4_GENERAL_CI, AUTOCOMMIT, high, SALT_BYTES + 1)
            + self.salt[8:]
            + b"\0"
            + self.plugin.encode()
            + b"\0"
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload.

        Raises:
            WireError: it is no handshake of version 10 with the 4.1 protocol.

        """
        fields = Fields(payload)
        if fields.integer(1) != PROTOCOL_VERSION:
            raise WireError(_NO_HANDSHAKE)
        version = fields.until_nul().decode(errors="replace")
        connection_id = fields.integer(4)
        salt = fields.take(8)
        low, high, length = struct.unpack("<xHxxxHB10x", fields.take(19))
        capabilities = Capability(low | high << 16)
        if not capabilities & Capability.PROTOCOL_41:
            raise WireError(_NO_HANDSHAKE)
        salt += fields.take(max(13, length - 8)).rstrip(b"\0")
        plugin = (
            fields.until_nul().decode(errors="replace") if capabilities & Capability.PLUGIN_AUTH else NATIVE
        )
        return cls(version, connection_id, salt, capabilities, plugin)


_NO_HANDSHAKE = "no handshake of MySQL 4.1 or later"


@dataclass(frozen=True, slots=True)
class Login:
    """The client's answer, page_protocol_connection_phase_packets_protocol_handshake_response."""

    user: str
    auth: bytes
    capabilities: Capability
    plugin: str = NATIVE

    def encode(self) -> bytes:
        """Build the payload."""
        return (
            struct.pack("<IIB23x", self.capabilities, _CHUNK, UTF8MB4_GENERAL_CI)
            + self.user.encode(errors="surrogateescape")
            + b"\0"
            + lenenc(self.auth)
            + self.plugin.encode()
            + b"\0"
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload.

        Raises:
            WireError: it is something else, a request for TLS included.

        """
        fields = Fields(payload)
        capabilities = Capability(fields.integer(4))
        if not capabilities & Capability.PROTOCOL_41 or capabilities & Capability.SSL:
            raise WireError(_NO_HANDSHAKE)
        fields.take(28)
        user = fields.until_nul().decode(errors="replace")
        auth = _login_auth(fields, capabilities)
        if capabilities & Capability.CONNECT_WITH_DB and fields:
            fields.until_nul()
        plugin = (
            fields.until_nul().decode(errors="replace")
            if capabilities & Capability.PLUGIN_AUTH and fields
            else NATIVE
        )
        return cls(user, auth, capabilities, plugin)


def _login_auth(fields: Fields, capabilities: Capability) -> bytes:
    if capabilities & Capability.PLUGIN_AUTH_LENENC_DATA:
        return fields.lenenc() or b""
    if capabilities & Capability.SECURE_CONNECTION:
        return fields.take(fields.integer(1))
    return fields.until_nul()


@dataclass(frozen=True, slots=True)
class AuthSwitch:
    """The server asks for another method.

    page_protocol_connection_phase_packets_protocol_auth_switch_request
    """

    plugin: str
    salt: bytes

    def encode(self) -> bytes:
        """Build the payload."""
        return bytes([EOF_HEADER]) + self.plugin.encode() + b"\0" + self.salt + b"\0"

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload; a bare FE asks for the method from before MySQL 4.1."""
        fields = Fields(payload[1:])
        if not fields:
            return cls("mysql_old_password", b"")
        return cls(fields.until_nul().decode(errors="replace"), fields.rest().rstrip(b"\0"))


@dataclass(frozen=True, slots=True)
class Ok:
    """Success, page_protocol_basic_ok_packet."""

    affected_rows: int = 0
    last_insert_id: int = 0
    status: int = AUTOCOMMIT
    warnings: int = 0

    def encode(self) -> bytes:
        """Build the payload."""
        return (
            bytes([OK_HEADER])
            + lenenc_int(self.affected_rows)
            + lenenc_int(self.last_insert_id)
            + struct.pack("<HH", self.status, self.warnings)
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload."""
        fields = Fields(payload[1:])
        affected, insert_id = fields.lenenc_int() or 0, fields.lenenc_int() or 0
        return cls(affected, insert_id, fields.integer(2), fields.integer(2))


@dataclass(frozen=True, slots=True)
class Err:
    """Failure, page_protocol_basic_err_packet; a server that refuses the connection sends no ``sqlstate``."""

    code: int
    sqlstate: str
    message: str

    def __str__(self) -> str:
        """Write code, SQLSTATE and message the way the mysql client does."""
        return f"{self.code} ({self.sqlstate or 'HY000'}): {self.message}"

    def encode(self) -> bytes:
        """Build the payload."""
        head = struct.pack("<BHc5s", ERR_HEADER, self.code, b"#", self.sqlstate.encode())
        return head + self.message.encode()

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Read the payload."""
        fields = Fields(payload[1:])
        code = fields.integer(2)
        text = fields.rest()
        sqlstate = b""
        if text and text[0] == _SQLSTATE_MARK:
            sqlstate, text = text[1:6], text[6:]
        return cls(code, sqlstate.decode(errors="replace"), text.decode(errors="replace"))


EOF = struct.pack("<BHH", EOF_HEADER, 0, AUTOCOMMIT)
"""End of columns or rows, page_protocol_basic_eof_packet: header, warnings, status."""


def is_eof(payload: bytes) -> bool:
    """Tell an EOF packet from a row whose first value is longer than 16 MB."""
    return payload[:1] == EOF[:1] and len(payload) < _EOF_LIMIT


def eof_status(payload: bytes) -> int:
    """Read the status flags of an EOF packet."""
    return int.from_bytes(payload[3:5], "little")


def column_definition(name: str) -> bytes:
    """Describe a VAR_STRING column of utf8mb4.

    page_protocol_com_query_response_text_resultset_column_definition
    """
    strings = b"".join(map(lenenc, (b"def", b"", b"", b"", name.encode(), b"")))
    return strings + struct.pack("<BHIBHB2x", 12, UTF8MB4_GENERAL_CI, 1024, 0xFD, 0, 0)


def column_name(payload: bytes) -> str:
    """Read the name a column definition carries."""
    fields = Fields(payload)
    for _ in ("catalog", "schema", "table", "org_table"):
        fields.lenenc()
    return (fields.lenenc() or b"").decode(errors="replace")


def text_row(payload: bytes) -> list[bytes | None]:
    """Read a row of a text result set, page_protocol_com_query_response_text_resultset_row."""
    fields = Fields(payload)
    values = []
    while fields:
        values.append(fields.lenenc())
    return values
