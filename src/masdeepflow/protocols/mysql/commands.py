"""Command packets: what each command is called, how it is answered, what a log line shows of it.

Sources: MySQL Source Code Documentation, "Command Phase" (page_protocol_command_phase) and my_command.h;
MariaDB Knowledge Base, "Clients & Utilities / Client/Server Protocol / 2 - Text Protocol, 3 - Binary Protocol".
"""

from __future__ import annotations

import dataclasses
import enum
import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.redact import summarize_sql

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COMMANDS",
    "HEADER_BYTES",
    "HIDDEN",
    "LAST_STATEMENT",
    "Answer",
    "Code",
    "Command",
    "decode",
    "on_statement",
    "read_command",
    "statement_text",
    "with_query",
]

HEADER_BYTES = 4
LAST_STATEMENT = 0xFFFFFFFF
"""MariaDB's statement id for the one prepared last."""

_ELLIPSIS = "…"
_REMEMBERED = 4096
# The bytes of a UTF-8 character whose rest is beyond the end.
_CUT_CHARACTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")


class Code(enum.IntEnum):
    """First byte of the commands that are more to this module than a name."""

    QUIT = 0x01
    INIT_DB = 0x02
    QUERY = 0x03
    FIELD_LIST = 0x04
    CREATE_DB = 0x05
    DROP_DB = 0x06
    PROCESS_KILL = 0x0C
    PING = 0x0E
    CHANGE_USER = 0x11
    BINLOG_DUMP = 0x12
    STMT_PREPARE = 0x16
    STMT_EXECUTE = 0x17
    STMT_SEND_LONG_DATA = 0x18
    STMT_CLOSE = 0x19
    STMT_RESET = 0x1A
    SET_OPTION = 0x1B
    STMT_FETCH = 0x1C
    RESET_CONNECTION = 0x1F
    STMT_BULK_EXECUTE = 0xFA


class Answer(enum.Enum):
    """What a server sends back."""

    NONE = enum.auto()
    STATUS = enum.auto()  # one OK, ERR or EOF packet
    RESULTS = enum.auto()  # one or more results: OK, a result set, or a request for a file
    PREPARED = enum.auto()  # a statement id, then definitions of parameters and columns
    COLUMNS = enum.auto()  # definitions of columns, without their count
    ROWS = enum.auto()  # rows of a cursor
    TEXT = enum.auto()  # a string
    EVENTS = enum.auto()  # packets without end
    LOGIN = enum.auto()  # the exchange that a login ends with


class Kind(NamedTuple):
    """label: of the log line. operation: the command's name in the manual, without COM_."""

    label: str
    operation: str
    answer: Answer


COMMANDS = {
    Code.QUIT: Kind("Quit", "QUIT", Answer.NONE),
    Code.INIT_DB: Kind("Init DB", "INIT_DB", Answer.STATUS),
    Code.QUERY: Kind("Query", "QUERY", Answer.RESULTS),
    Code.FIELD_LIST: Kind("Field List", "FIELD_LIST", Answer.COLUMNS),
    Code.CREATE_DB: Kind("Create DB", "CREATE_DB", Answer.STATUS),
    Code.DROP_DB: Kind("Drop DB", "DROP_DB", Answer.STATUS),
    0x07: Kind("Refresh", "REFRESH", Answer.STATUS),
    0x08: Kind("Shutdown", "SHUTDOWN", Answer.STATUS),
    0x09: Kind("Statistics", "STATISTICS", Answer.TEXT),
    0x0A: Kind("Process Info", "PROCESS_INFO", Answer.RESULTS),
    Code.PROCESS_KILL: Kind("Process Kill", "PROCESS_KILL", Answer.STATUS),
    0x0D: Kind("Debug", "DEBUG", Answer.STATUS),
    Code.PING: Kind("Ping", "PING", Answer.STATUS),
    Code.CHANGE_USER: Kind("Change User", "CHANGE_USER", Answer.LOGIN),
    Code.BINLOG_DUMP: Kind("Binlog Dump", "BINLOG_DUMP", Answer.EVENTS),
    0x13: Kind("Table Dump", "TABLE_DUMP", Answer.EVENTS),
    0x15: Kind("Register Replica", "REGISTER_SLAVE", Answer.STATUS),
    Code.STMT_PREPARE: Kind("Prepare", "STMT_PREPARE", Answer.PREPARED),
    Code.STMT_EXECUTE: Kind("Execute", "STMT_EXECUTE", Answer.RESULTS),
    Code.STMT_SEND_LONG_DATA: Kind("Send Long Data", "STMT_SEND_LONG_DATA", Answer.NONE),
    Code.STMT_CLOSE: Kind("Close Statement", "STMT_CLOSE", Answer.NONE),
    Code.STMT_RESET: Kind("Reset Statement", "STMT_RESET", Answer.STATUS),
    Code.SET_OPTION: Kind("Set Option", "SET_OPTION", Answer.STATUS),
    Code.STMT_FETCH: Kind("Fetch", "STMT_FETCH", Answer.ROWS),
    0x1E: Kind("Binlog Dump GTID", "BINLOG_DUMP_GTID", Answer.EVENTS),
    Code.RESET_CONNECTION: Kind("Reset Connection", "RESET_CONNECTION", Answer.STATUS),
    0x20: Kind("Clone", "CLONE", Answer.EVENTS),
    0x21: Kind("Subscribe Group Replication Stream", "SUBSCRIBE_GROUP_REPLICATION_STREAM", Answer.STATUS),
    Code.STMT_BULK_EXECUTE: Kind("Bulk Execute", "STMT_BULK_EXECUTE", Answer.RESULTS),
}
"""First byte -> command. Those that only the server's own threads have (my_command.h: Sleep, Connect, Time,
Delayed Insert, Connect Out, Daemon) are never sent.
"""


@dataclasses.dataclass(slots=True, eq=False)
class Command:
    """One command packet, or a login, as a transaction shows it. Compared by identity.

    code: its first byte. text: of the log line, None when the command is not visible. query, summary: of commands
    that carry a statement. namespace: the database it changes to, None unless it does. statement: id of a prepared
    statement. execute: of a prepare, what executing it shows. truncated: something shown was cut.
    """

    code: int
    answer: Answer
    text: str | None
    operation: str | None
    query: str | None = None
    summary: str | None = None
    namespace: str | None = None
    truncated: bool = False
    statement: int = 0
    execute: Command | None = None


HIDDEN = Command(0, Answer.RESULTS, None, None, truncated=True)
"""A command that is beyond the payload prefix: only its answer is known."""


def decode(data: bytes, *, cut: bool = False) -> str:
    """Return text as the log shows it; `…` behind what the payload limit cut."""
    if not cut:
        return data.decode("utf-8", "backslashreplace")
    return _CUT_CHARACTER.sub(b"", data).decode("utf-8", "backslashreplace") + _ELLIPSIS


class _Body(NamedTuple):
    """The packet behind its header. data: behind the command byte, as far as captured; cut: there was more."""

    code: int
    data: bytes
    cut: bool


def read_command(packet: bytes) -> Command | None:
    """Return the command of a packet with its header, as far as captured; None if it is none."""
    code = packet[HEADER_BYTES] if len(packet) > HEADER_BYTES else 0
    if code in _ON_STATEMENT:
        return _on_statement(code, int.from_bytes(packet[HEADER_BYTES + 1 : HEADER_BYTES + 5], "little"))
    return _read_remembered(packet) if code in COMMANDS else None


@lru_cache(_REMEMBERED)
def _read_remembered(packet: bytes) -> Command:
    return read_plain_command(packet)


def read_plain_command(packet: bytes) -> Command:
    """Return the command of a packet whose command byte is in `COMMANDS` and not about a prepared statement."""
    code, data = packet[HEADER_BYTES], packet[HEADER_BYTES + 1 :]
    cut = int.from_bytes(packet[:3], "little") > len(data) + 1
    return _READERS.get(code, _read_name)(_Body(code, data, cut))


def _show(code: int, detail: str = "", *, namespace: str | None = None, truncated: bool = False) -> Command:
    kind = COMMANDS[code]
    text = f"MySQL {kind.label}: {detail}" if detail else f"MySQL {kind.label}"
    return Command(code, kind.answer, text, kind.operation, namespace=namespace, truncated=truncated)


def _read_name(body: _Body) -> Command:
    return _show(body.code)


def _read_query(body: _Body) -> Command:
    sql = decode(statement_text(body.data), cut=body.cut)
    operation, summary = summarize_sql(sql)
    text = f"MySQL Query: {sql}"
    namespace = summary[4:] or None if operation == "USE" else None
    return Command(body.code, Answer.RESULTS, text, operation or "QUERY", sql, summary, namespace, body.cut)


def _read_prepare(body: _Body) -> Command:
    sql = decode(body.data, cut=body.cut)
    operation, summary = summarize_sql(sql)
    text = f"MySQL Execute: {sql}"
    operation = operation or "STMT_EXECUTE"
    execute = Command(
        Code.STMT_EXECUTE, Answer.RESULTS, text, operation, sql, summary, None, body.cut
    )
    text = f"MySQL Prepare: {sql}"
    return Command(
        body.code, Answer.PREPARED, text, "STMT_PREPARE", sql, summary, None, body.cut, 0, execute
    )


def _read_database(body: _Body) -> Command:
    name = decode(body.data, cut=body.cut)
    namespace = name if body.code == Code.INIT_DB else None
    return _show(body.code, name, namespace=namespace, truncated=body.cut)


def _read_table(body: _Body) -> Command:
    """COM_FIELD_LIST: table, NUL, pattern of columns."""
    table, nul, _ = body.data.partition(b"\0")
    cut = body.cut and not nul
    return _show(body.code, decode(table, cut=cut), truncated=cut)


def _read_thread(body: _Body) -> Command:
    return _show(body.code, str(int.from_bytes(body.data[:4], "little")))


def _read_option(body: _Body) -> Command:
    return _show(body.code, f"multi statements {'off' if body.data[:1] == b'{chr(1)}' else 'on'}")


def _read_binlog(body: _Body) -> Command:
    """COM_BINLOG_DUMP: position (4 bytes), flags (2), server id (4), file name."""
    file = decode(body.data[10:], cut=body.cut)
    return _show(body.code, f"{file}:{int.from_bytes(body.data[:4], 'little')}", truncated=body.cut)


def _read_user(body: _Body) -> Command:
    """COM_CHANGE_USER: user, NUL, length of the answer to the challenge (1 byte), answer, database, NUL, ..."""
    user, _, rest = body.data.partition(b"\0")
    database, _, _ = rest[rest[0] + 1 :].partition(b"\0") if rest else (b"", b"", b"")
    return login_command(body.code, user, database)


_READERS: dict[int, Callable[[_Body], Command]] = {
    Code.QUERY: _read_query,
    Code.STMT_PREPARE: _read_prepare,
    Code.INIT_DB: _read_database,
    Code.CREATE_DB: _read_database,
    Code.DROP_DB: _read_database,
    Code.FIELD_LIST: _read_table,
    Code.PROCESS_KILL: _read_thread,
    Code.SET_OPTION: _read_option,
    Code.BINLOG_DUMP: _read_binlog,
    Code.CHANGE_USER: _read_user,
}
