"""The rules of the PostgreSQL parser: messages, connections over several turns, and its reference."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.columns import row_hash
from masdeepflow.protocols import mysql
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.postgresql import PROTOCOL, PostgreSql, connection, plain
from masdeepflow.protocols.postgresql.masks import request_mask, response_mask
from masdeepflow.schema import ATTRIBUTES, Flag, Kind
from masdeepflow.table import ABSENT
from tests.fuzz.fuzz_postgresql import (
    BOUND,
    CANCEL,
    CLOSED,
    COPY_BOTH,
    COPY_IN,
    COPY_OUT,
    DATA,
    DATA_END,
    DESCRIBE,
    EMPTY,
    FLUSH,
    FRAGMENTS,
    GSS,
    LET_IN,
    LOGIN,
    NO_DATA,
    NOTIFICATION,
    PARSED,
    READY,
    SUSPENDED,
    SYNC,
    TLS,
    bind,
    check,
    described,
    execute,
    message,
    notice,
    parse,
    query,
    row,
    startup,
    tag,
)
from tests.support.slots import MILLISECOND, START, cut, make_slots, turn
from tests.unit.protocols.postgresql_reference import BASE, check_equal, rows_of, strings

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]
Lines = list[tuple[str | None, str | None]]

SELECT = b"SELECT a FROM t WHERE id = $1"
RESULT = described(b"a") + row(b"1") + tag(b"SELECT 1")
DONE = ("PostgreSQL Query: SELECT a FROM t WHERE id = $1", "PostgreSQL Response: SELECT 1")
ERROR = notice(b'relation "t" does not exist')
FAILED = 'PostgreSQL Response: ERROR 42P01: relation "t" does not exist'
SKIPPED = "PostgreSQL Response: Skipped after an error"
ROOM, RESPONSE_ROOM = 208, 104


def rows(*turns: dict[str, object], parser: PostgreSql | None = None, size: int | None = None) -> list[Row]:
    """Parse turns, as one batch or in batches of `size`; return each transaction as a dict.

    What has not ended when its answer pauses is left out.
    """
    parser = parser or PROTOCOL()
    slots = make_slots(*turns)
    found: list[Row] = []
    for start in range(0, len(slots), size or len(slots)):
        batch = slots[start : start + (size or len(slots))]
        parsed = parser.parse(batch)
        columns = {
            "row": (parsed.rows + start).tolist(),
            "request": parsed.request_text.to_list(),
            "response": parsed.response_text.to_list(),
            "error": parsed.error.tolist(),
            "truncated": parsed.truncated.tolist(),
        }
        columns |= {name: strings(column) for name, column in parsed.attributes.items()}
        columns |= {name: parsed.base.get(name, batch[name][parsed.rows]).tolist() for name in BASE}
        paused = [False] * len(parsed.rows) if parsed.still_open is None else parsed.still_open.tolist()
        every = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        found += [one for one, left in zip(every, paused, strict=True) if not left]
    return found


def lines(
    *turns: tuple[bytes, bytes] | dict[str, object],
    parser: PostgreSql | None = None,
    size: int | None = None,
) -> Lines:
    """Parse turns and return the two lines of each transaction."""
    whole = (one if isinstance(one, dict) else turn(*one) for one in turns)
    return [(found["request"], found["response"]) for found in rows(*whole, parser=parser, size=size)]


def score(request: bytes, response: bytes = b"") -> int:
    """Return how a turn is recognised."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response)))[0])


# One statement


def test_attributes_follow_the_conventions() -> None:
    """All names are known to sinks; a query gives all but those of errors."""
    (found,) = rows(turn(query("SELECT a FROM t"), RESULT + READY))
    assert set(found) - {"row", "request", "response", "error", "truncated", *BASE} <= set(ATTRIBUTES)
    assert found["db.system.name"] == "postgresql"
    assert found["db.query.text"] == "SELECT a FROM t"
    assert found["db.query.summary"] == "SELECT t"
    assert found["db.operation.name"] == "SELECT"
    assert (found["error"], found["truncated"], found["db.response.status_code"]) == (False, False, None)


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        (tag(b"INSERT 0 1"), "INSERT 0 1"),
        (RESULT, "SELECT 1"),
        (EMPTY, "Empty query"),
        (tag(b"BEGIN") + tag(b"UPDATE 3") + tag(b"COMMIT"), "BEGIN; UPDATE 3; COMMIT"),
        (COPY_OUT + DATA + DATA_END + tag(b"COPY 1"), "COPY 1"),
        (
            notice(b"it is there", b"N", b"NOTICE", b"00000") + tag(b"DROP TABLE"),
            "DROP TABLE, NOTICE: it is there",
        ),
        (notice(b"careful", b"N", b"WARNING", b"25001") + tag(b"BEGIN"), "BEGIN, WARNING 25001: careful"),
        (message(b"S", b"TimeZone\0UTC\0") + tag(b"SET"), "SET"),
    ],
)
def test_what_a_query_is_answered(response: bytes, shown: str) -> None:
    """Tags of all statements, and notices behind them."""
    assert lines((query("x"), response + READY)) == [("PostgreSQL Query: x", f"PostgreSQL Response: {shown}")]


def test_an_error() -> None:
    """Severity, SQLSTATE and message, in the line and as attributes."""
    (found,) = rows(turn(query("SELECT * FROM t"), tag(b"BEGIN") + ERROR + READY))
    assert found["response"] == FAILED
    assert found["error"]
    assert found["db.response.status_code"] == "42P01"
    assert found["db.response.message"] == 'relation "t" does not exist'


def test_an_error_that_is_cut_is_marked() -> None:
    """What was captured of the message is shown."""
    (found,) = rows(turn(query("SELECT 1"), notice(b"x" * 300) + READY))
    assert found["response"].startswith("PostgreSQL Response: ERROR 42P01: xxx")
    assert found["response"].endswith("x…")
    assert found["truncated"]


def test_a_result_whose_end_was_not_captured_is_no_error() -> None:
    """What is known of it is shown and marked: nobody saw a tag, and nobody saw an error."""
    (found,) = rows(turn(query("SELECT 1"), described(b"a", b"b") + row(b"x" * 500) + ERROR + READY))
    assert found["response"] == "PostgreSQL Response: Result set, 2 columns"
    assert (found["error"], found["truncated"]) == (False, True)
    (found,) = rows(turn(query("SELECT 1"), COPY_OUT + DATA * 50 + tag(b"COPY 50") + READY))
    assert found["response"] == "PostgreSQL Response: Copied rows"
    (found,) = rows(turn(query("SELECT 1"), b"", response_bytes=500, response_first_ns=1))
    assert (found["response"], found["truncated"]) == (None, True)


def test_six_hidden_bytes_are_a_ready_for_query() -> None:
    """No other message that can stand at the end is of that length: so the answer is whole."""
    padding = notice(b"x" * 48, b"N", b"NOTICE", b"00000")
    response = padding + tag(b"SELECT 1") + READY
    assert len(padding + tag(b"SELECT 1")) == RESPONSE_ROOM
    (found,) = rows(turn(query("SELECT 1"), response))
    assert (found["response"].split(",")[0], found["truncated"]) == ("PostgreSQL Response: SELECT 1", False)


def test_a_cut_statement_is_marked() -> None:
    """It ends with the mark, without half a character."""
    text = "SELECT '" + "ä" * 200
    (found,) = rows(turn(query(text), RESULT + READY))
    assert found["db.query.text"] == text[: (ROOM - 5 - 8) // 2 + 8] + "…"
    assert found["truncated"]


def test_a_function_call() -> None:
    """It shows the function's name, if it is one of those that drivers call, else its number."""
    for number, shown in ((957, "lo_creat"), (4711, "4711")):
        call = message(b"F", number.to_bytes(4, "big") + b"\0\1\0\1\0\1\0\0\0\4\0\6\0\0\0\1")
        assert lines((call, message(b"V", b"\0\0\0\4\0\0\0\1") + READY)) == [
            (f"PostgreSQL Function Call: {shown}", "PostgreSQL Response: OK")
        ]


# Logins


def test_a_login_names_the_database_of_what_follows() -> None:
    """User, database and application are in its line; the database is the user's name unless it is given."""
    found = rows(turn(LOGIN, LET_IN), turn(query("SELECT 1"), RESULT + READY))
    assert found[0]["request"] == "PostgreSQL Login: bob@shop (psql)"
    assert found[0]["response"] == "PostgreSQL Response: OK"
    assert [one["db.namespace"] for one in found] == ["shop", "shop"]
    found = rows(turn(startup(0x30000, b"user\0eve\0\0"), LET_IN), turn(query("SELECT 1"), RESULT + READY))
    assert [one["db.namespace"] for one in found] == ["eve", "eve"]


SCRAM = [
    (LOGIN, message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")),
    (message(b"p", b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=secret"), message(b"R", b"\0\0\0\x0br=secret,s=salt")),
    (message(b"p", b"c=biws,r=secret,p=proof"), message(b"R", b"\0\0\0\x0cv=sign") + LET_IN),
]


def test_a_login_of_several_turns_is_one_transaction() -> None:
    """From its first byte to the server's last word; what was said between is not shown."""
    turns = [turn(*one) for one in SCRAM]
    for size in (None, 1):
        (found,) = rows(*turns, size=size)
        assert found["row"] == 2
        assert found["request"] == "PostgreSQL Login: bob@shop (psql)"
        assert found["request_first_ns"] == START
        assert found["request_bytes"] == sum(len(request) for request, _ in SCRAM)
        assert found["response_bytes"] == sum(len(response) for _, response in SCRAM)
        assert "secret" not in str(found)


def test_a_refused_login() -> None:
    """By an error in place of the authentication, behind its success, or behind the password."""
    error = notice(b'role "bob" does not exist', severity=b"FATAL", code=b"28000")
    shown = 'PostgreSQL Response: FATAL 28000: role "bob" does not exist'
    for response in (error, message(b"R", bytes(4)) + error):
        assert lines((LOGIN, response)) == [("PostgreSQL Login: bob@shop (psql)", shown)]
    assert lines(SCRAM[0], (SCRAM[1][0], error)) == [("PostgreSQL Login: bob@shop (psql)", shown)]


def test_a_login_whose_end_was_lost() -> None:
    """A query shows that it ended: it is reported without its outcome, and does not get the query's."""
    found = rows(turn(*SCRAM[0]), turn(query("SELECT 1"), RESULT + READY, turn=5))
    assert [(one["response"], one["truncated"]) for one in found] == [
        (None, True),
        ("PostgreSQL Response: SELECT 1", False),
    ]


def test_tls_makes_a_connection_opaque() -> None:
    """Once the server agrees; if it does not, the login follows in plain text."""
    slots = make_slots(turn(TLS, b"S"), turn(b"\x16\3\1\0\5hello", b"\x16\3\3"))
    parsed = PROTOCOL().parse(slots)
    assert parsed.opaque == [1]
    assert parsed.request_text.to_list() == ["PostgreSQL SSL Request"]
    assert parsed.response_text.to_list() == ["PostgreSQL Response: Accepted"]
    refused = lines((GSS, b"N"), (TLS, b"N"), (LOGIN, LET_IN))
    assert refused == [
        ("PostgreSQL GSSENC Request", "PostgreSQL Response: Refused"),
        ("PostgreSQL SSL Request", "PostgreSQL Response: Refused"),
        ("PostgreSQL Login: bob@shop (psql)", "PostgreSQL Response: OK"),
    ]


def test_gss_encryption_makes_a_connection_opaque() -> None:
    """Its answer is another letter."""
    assert PROTOCOL().parse(make_slots(turn(GSS, b"G"))).opaque == [1]
    assert PROTOCOL().parse(make_slots(turn(GSS, b"S"))).opaque == []


def test_a_cancellation_is_not_answered() -> None:
    """That is no error, nor is it for a client that says goodbye."""
    for request, shown in ((CANCEL, "Cancel: process 256"), (message(b"X"), "Terminate")):
        (found,) = rows(turn(request, flags=Flag.CLOSED))
        assert (found["request"], found["response"]) == (f"PostgreSQL {shown}", None)
        assert not found["error"]


# Prepared statements


def test_psycopg_parses_and_executes_in_one_turn() -> None:
    """That is one transaction, and none of the messages around the Execute is another."""
    request = parse(SELECT) + bind() + DESCRIBE + execute() + SYNC
    assert lines((request, PARSED + BOUND + RESULT + READY)) == [DONE]


def test_asyncpg_parses_in_a_turn_of_its_own() -> None:
    """Which ends with a Flush, not with a Sync."""
    found = lines(
        (parse(SELECT, b"s") + message(b"D", b"Ss\0") + FLUSH, PARSED + NO_DATA),
        (bind(b"s") + execute() + SYNC, BOUND + row(b"1") + tag(b"SELECT 1") + READY),
    )
    assert found == [("PostgreSQL Prepare: SELECT a FROM t WHERE id = $1", "PostgreSQL Response: OK"), DONE]


@pytest.mark.parametrize("size", [None, 1, 7])
def test_an_execution_shows_the_text_of_its_parse(size: int | None) -> None:
    """However many turns and batches ago that was, and each connection its own."""
    turns = [
        turn(parse(b"SELECT %d" % number, b"s") + SYNC, PARSED + READY, cookie=number) for number in (1, 2)
    ]
    again = bind(b"s") + execute() + SYNC, BOUND + tag(b"SELECT 1") + READY
    turns += [turn(*again, cookie=1 + number % 2) for number in range(50)]
    found = rows(*turns, size=size)[2:]
    assert [one["db.query.text"] for one in found] == ["SELECT 1", "SELECT 2"] * 25


def test_a_statement_that_nobody_saw_is_shown_by_its_name() -> None:
    """As it is on connections older than the agent."""
    found = rows(turn(bind(b"S_1") + execute() + SYNC, BOUND + tag(b"SELECT 1") + READY))
    assert (found[0]["request"], found[0]["db.operation.name"]) == (
        "PostgreSQL Query: EXECUTE S_1",
        "EXECUTE",
    )
    assert (found[0]["db.query.text"], found[0]["truncated"]) == (None, False)
    assert lines((execute(b"p") + SYNC, tag(b"SELECT 1") + READY))[0][0] == "PostgreSQL Query: EXECUTE p"
    assert lines((execute() + SYNC, tag(b"SELECT 1") + READY))[0][0] == "PostgreSQL Query: EXECUTE"


def test_the_statement_without_a_name_lasts_until_the_next() -> None:
    """Over turns, whether they were read as columns or not."""
    once = parse(b"SELECT 1") + bind() + execute() + SYNC, PARSED + BOUND + tag(b"SELECT 1") + READY
    later = bind() + execute() + SYNC, BOUND + tag(b"SELECT 1") + READY
    for size in (None, 1):
        found = lines(once, later, size=size)
        assert [request for request, _ in found] == ["PostgreSQL Query: SELECT 1"] * 2


def test_a_statement_that_fails_to_parse_replaces_none() -> None:
    """A name that is taken is refused: the older statement stays."""
    again = bind(b"s") + execute() + SYNC, BOUND + tag(b"SELECT 1") + READY
    found = lines(
        (parse(b"SELECT 1", b"s") + SYNC, PARSED + READY),
        (parse(b"SELECT 2", b"s") + SYNC, ERROR + READY),
        again,
        (parse(b"SELECT 3", b"new") + SYNC, ERROR + READY),
        (bind(b"new") + execute() + SYNC, ERROR + READY),
    )
    assert found[1] == ("PostgreSQL Prepare: SELECT 2", FAILED)
    assert found[2][0] == "PostgreSQL Query: SELECT 1"
    assert found[4][0] == "PostgreSQL Query: EXECUTE new"


def test_closing_a_statement() -> None:
    """It is a transaction if the turn has no other, and the name is free then."""
    close = message(b"C", b"Ss\0")
    found = lines(
        (parse(b"SELECT 1", b"s") + SYNC, PARSED + READY),
        (
            close + parse(b"SELECT 2", b"u") + bind(b"u") + execute() + SYNC,
            CLOSED + PARSED + BOUND + EMPTY + READY,
        ),
        (bind(b"s") + execute() + SYNC, ERROR + READY),
        (message(b"C", b"Su\0") + SYNC, CLOSED + READY),
    )
    assert [request for request, _ in found[1:]] == [
        "PostgreSQL Query: SELECT 2",
        "PostgreSQL Query: EXECUTE s",
        "PostgreSQL Close: u",
    ]


def test_a_portal_is_fetched_from_in_several_turns() -> None:
    """Each Execute shows the statement that the portal was bound to."""
    found = lines(
        (parse(SELECT, b"s") + FLUSH, PARSED),
        (bind(b"s", b"p") + execute(b"p", 1) + SYNC, BOUND + row(b"1") + SUSPENDED + READY),
        (execute(b"p", 1) + SYNC, tag(b"SELECT 1") + READY),
        (message(b"D", b"Pp\0") + SYNC, described(b"a") + READY),
        (message(b"C", b"Pp\0") + SYNC, CLOSED + READY),
        (execute(b"p", 1) + SYNC, ERROR + READY),
    )
    assert found[1] == (DONE[0], "PostgreSQL Response: Portal suspended")
    assert found[2] == DONE
    assert found[3][0] == "PostgreSQL Describe: SELECT a FROM t WHERE id = $1"
    assert found[5][0] == "PostgreSQL Query: EXECUTE p"


def test_what_is_only_bound_or_described_is_shown() -> None:
    """A turn that asks for something is never without a line; Sync and Flush ask for nothing."""
    assert lines((bind(b"s") + FLUSH, BOUND)) == [("PostgreSQL Bind: s", "PostgreSQL Response: OK")]
    assert lines((message(b"D", b"Ss\0") + SYNC, NO_DATA + READY)) == [
        ("PostgreSQL Describe: s", "PostgreSQL Response: OK")
    ]
    assert lines((SYNC, READY), (FLUSH, b"")) == []


# Pipelines


def test_several_executes_of_a_turn_are_several_transactions() -> None:
    """Bytes are shared among them, and none is lost."""
    request = b"".join(parse(b"SELECT %d" % one) + bind() + execute() for one in (1, 2)) + SYNC
    response = (PARSED + BOUND + tag(b"SELECT 1")) * 2 + READY
    found = rows(turn(request, response))
    assert [one["db.query.text"] for one in found] == ["SELECT 1", "SELECT 2"]
    assert sum(one["request_bytes"] for one in found) == len(request)
    assert sum(one["response_bytes"] for one in found) == len(response)


def test_what_is_behind_an_error_is_skipped() -> None:
    """Up to the Sync: the error is that of the statement that failed."""
    one = bind(b"s") + execute()
    found = lines(
        (one + one + one + SYNC + one + SYNC, BOUND + tag(b"A") + ERROR + READY + BOUND + tag(b"B") + READY)
    )
    assert [response for _, response in found] == [
        "PostgreSQL Response: A",
        FAILED,
        SKIPPED,
        "PostgreSQL Response: B",
    ]


def test_an_error_before_the_execution_is_the_executions() -> None:
    """Whichever of its messages failed."""
    request = parse(SELECT) + bind() + DESCRIBE + execute() + SYNC
    for done in (b"", PARSED, PARSED + BOUND, PARSED + BOUND + described(b"a") + row(b"1")):
        assert lines((request, done + ERROR + READY)) == [(DONE[0], FAILED)]


def test_answers_that_come_in_later_turns() -> None:
    """A client that does not wait has the answers of earlier turns in later ones."""
    one = bind(b"s") + execute()
    found = rows(
        turn(parse(b"SELECT 1", b"s") + one, PARSED),
        turn(one, BOUND + tag(b"A")),
        turn(one + SYNC, BOUND + tag(b"B") + BOUND + tag(b"C") + READY),
    )
    assert [one["response"] for one in found] == [f"PostgreSQL Response: {name}" for name in "ABC"]
    assert [one["row"] for one in found] == [1, 2, 2]
    assert [one["request_first_ns"] for one in found] == [
        START + 10 * MILLISECOND * number for number in range(3)
    ]


def test_a_sync_that_comes_later() -> None:
    """Asyncpg sends it by itself when its Parse failed; it changes nothing for what follows."""
    again = bind(b"s") + execute() + SYNC, BOUND + tag(b"SELECT 1") + READY
    found = lines((parse(SELECT, b"x") + FLUSH, ERROR), (SYNC, READY), again)
    assert found == [
        ("PostgreSQL Prepare: SELECT a FROM t WHERE id = $1", FAILED),
        ("PostgreSQL Query: EXECUTE s", "PostgreSQL Response: SELECT 1"),
    ]


def test_an_error_lasts_until_the_sync() -> None:
    """Whatever a client sends before it, in that turn or a later one, is skipped."""
    one = bind(b"s") + execute()
    found = lines((one + FLUSH, BOUND + ERROR), (one + SYNC, READY), (one + SYNC, BOUND + tag(b"A") + READY))
    assert [response for _, response in found] == [FAILED, SKIPPED, "PostgreSQL Response: A"]


def test_a_lost_turn_does_not_shift_the_answers() -> None:
    """What waited is reported without its answer; the next query gets its own."""
    waits = parse(SELECT) + bind() + execute() + SYNC
    found = rows(turn(waits, PARSED), turn(query("x"), tag(b"X") + READY, turn=9))
    assert [(one["response"], one["truncated"]) for one in found] == [
        (None, True),
        ("PostgreSQL Response: X", False),
    ]
    found = rows(turn(waits, PARSED, flags=Flag.IDLE), turn(query("x"), tag(b"X") + READY))
    assert [one["response"] for one in found] == [None, "PostgreSQL Response: X"]


def test_an_answer_in_pieces() -> None:
    """The rest of a response that paused comes as a continuation: one transaction, once it has ended."""
    begun = notice(b"begun", b"N", b"NOTICE", b"00000")
    found = rows(
        turn(query("DO"), begun, flags=Flag.IDLE),
        turn(b"", tag(b"DO") + READY, turn=1, flags=Flag.CONTINUED, request_first_ns=START),
    )
    assert [(one["row"], one["response"]) for one in found] == [(1, "PostgreSQL Response: DO, NOTICE: begun")]
    assert found[0]["response_bytes"] == len(begun + tag(b"DO") + READY)


# What is beyond the prefix


@pytest.mark.parametrize(("rest", "shown"), [(SYNC, "Prepare"), (message(b"D", b"Ss\0") + SYNC, "Prepare")])
def test_bytes_behind_a_parse_tell_what_they_are(rest: bytes, shown: str) -> None:
    """Too few for a Bind and an Execute: then it was prepared only."""
    text = b"SELECT '" + b"x" * 300 + b"'"
    (found,) = rows(turn(parse(text, b"s") + rest, PARSED + READY))
    assert found["request"].startswith(f"PostgreSQL {shown}: SELECT 'xxx")
    assert found["truncated"]


def test_an_execution_behind_a_long_statement() -> None:
    """Is taken to be there if there is room for it, unless the answer says that there was none."""
    text = b"SELECT '" + b"x" * 300 + b"'"
    request = parse(text) + bind() + DESCRIBE + execute() + SYNC
    (found,) = rows(turn(request, PARSED + BOUND + RESULT + READY))
    assert found["request"].startswith("PostgreSQL Query: SELECT 'xxx")
    assert (found["response"], found["truncated"]) == ("PostgreSQL Response: SELECT 1", True)
    (found,) = rows(turn(parse(text) + parse(text) + SYNC, PARSED + PARSED + READY))
    assert found["request"].startswith("PostgreSQL Prepare: SELECT 'xxx")


def test_an_execution_behind_a_long_value() -> None:
    """The Bind tells the statement; the bytes behind it, that it was executed once."""
    request = bind(b"s", value=b"x" * 300) + DESCRIBE + execute() + SYNC
    (found,) = rows(turn(request, BOUND + RESULT + READY))
    assert (found["request"], found["truncated"]) == ("PostgreSQL Query: EXECUTE s", False)
    found, other = rows(turn(request + request, (BOUND + tag(b"A") + READY) * 2))
    assert (found["request"], found["truncated"]) == ("PostgreSQL Query: EXECUTE s", False)
    assert (other["request"], other["truncated"]) == ("PostgreSQL Query: …", True)
    assert [found["response"], other["response"]] == ["PostgreSQL Response: A"] * 2


def test_a_request_without_payload() -> None:
    """Sendfile and io_uring show no bytes: it is counted, with what its answer says."""
    (found,) = rows(turn(b"", ERROR + READY, request_bytes=70, request_first_ns=START))
    assert (found["request"], found["response"], found["truncated"]) == (None, FAILED, True)


@pytest.mark.parametrize("sizes", [(208, 104), (560, 264), (1328, 520), (2864, 1032)])
def test_payloads_of_any_size(sizes: tuple[int, int]) -> None:
    """--payload-bytes changes what is visible, not what is read."""
    slots = make_slots(turn(parse(SELECT) + bind() + execute() + SYNC, PARSED + BOUND + RESULT + READY))
    wide = cut(cut(slots, 64, 64), 64, 64)
    assert PROTOCOL().parse(cut(slots, *(min(size, 104) for size in sizes))).rows.tolist() == [0]
    assert PROTOCOL().parse(wide).request_text.to_list()[0].startswith("PostgreSQL Query: SELECT")  # type: ignore[union-attr]


# What is repeated beyond the prefix

INSERT = b"INSERT INTO t VALUES ($1)"
PREPARED = turn(parse(INSERT, b"s") + SYNC, PARSED + READY)
AGAIN = bind(b"s") + execute()
INSERTED = BOUND + tag(b"INSERT 0 1")


def executions(*turns: dict[str, object], parser: PostgreSql | None = None) -> list[Row]:
    """Parse turns behind one that prepares the statement; return the transactions of these."""
    return rows(PREPARED, *turns, parser=parser)[1:]


@pytest.mark.parametrize(
    ("one", "answer", "end"), [(AGAIN, INSERTED, (SYNC, READY)), (AGAIN + SYNC, INSERTED + READY, (b"", b""))]
)
def test_a_batch_counts_each_execution(one: bytes, answer: bytes, end: tuple[bytes, bytes]) -> None:
    """What is captured tells what each of the rest takes; their text is marked, and no answer is made up."""
    request, response = one * 500 + end[0], answer * 500 + end[1]
    found = executions(turn(request, response), turn(query("x"), tag(b"X") + READY))
    assert [one["db.query.text"] for one in found] == [INSERT.decode()] * 500 + ["x"]
    visible = len([one for one in found[:-1] if not one["truncated"]])
    assert 2 < visible < 10
    assert {one["request"] for one in found[:visible]} == {"PostgreSQL Query: INSERT INTO t VALUES ($1)"}
    assert {one["request"] for one in found[10:-1]} == {"PostgreSQL Query: INSERT INTO t VALUES ($1)…"}
    assert {one["response"] for one in found[10:-1]} == {None}
    assert sum(one["request_bytes"] for one in found[:-1]) == len(request)
    assert sum(one["response_bytes"] for one in found[:-1]) == len(response)
    assert found[-1]["response"] == "PostgreSQL Response: X"


def test_a_batch_that_a_server_reads_in_pieces() -> None:
    """It answers when its buffer is full: turns begin and end within messages, each execution counts once."""
    request, response = AGAIN * 3000 + SYNC, INSERTED * 3000 + READY
    pieces = [request[at : at + 11 * 1024] for at in range(0, len(request), 11 * 1024)]
    answers = [response[at : at + 8 * 1024] for at in range(0, len(response), 8 * 1024)]
    turns = [turn(piece, answer) for piece, answer in zip(pieces, answers, strict=True)]
    found = executions(*turns, turn(query("x"), tag(b"X") + READY))
    assert len(found) == 3000 + 1
    assert (found[-1]["request"], found[-1]["response"]) == ("PostgreSQL Query: x", "PostgreSQL Response: X")


def test_a_batch_of_long_values_that_a_server_reads_in_pieces() -> None:
    """Where no message begins in what was captured, what the last ones took tells how many there are."""
    request = (bind(b"s", value=b"x" * 700) + execute()) * 200 + SYNC
    pieces = [request[start : start + 8192] for start in range(0, len(request), 8192)]
    found = executions(*(turn(piece, (INSERTED * 300)[:8192]) for piece in pieces))
    assert 195 <= len(found) <= 205
    assert {one["db.query.text"] for one in found} == {INSERT.decode()}


def test_answers_tell_how_many_there_were() -> None:
    """Where values differ in size, and their answers do not."""
    values = [b"x" * (number % 40) for number in range(300)]
    request = b"".join(bind(b"s", value=value) + execute() for value in values) + SYNC
    assert len(executions(turn(request, INSERTED * 300 + READY))) == 300
    (_, *others) = executions(turn(request, INSERTED + ERROR + READY))
    assert [one["response"] for one in others[:2]] == [FAILED, SKIPPED]


def test_an_error_ends_a_batch() -> None:
    """The rest is skipped up to the Sync: none of it is taken for what comes later."""
    after = turn(query("x"), tag(b"X") + READY)
    found = executions(turn(AGAIN * 100 + SYNC, ERROR + READY), after)
    assert [one["response"] for one in found] == [FAILED, *[SKIPPED] * 99, "PostgreSQL Response: X"]
    found = executions(turn((AGAIN + SYNC) * 50, (ERROR + READY) + (INSERTED + READY) * 49), after)
    assert [one["response"] for one in found[:2]] == [FAILED, "PostgreSQL Response: INSERT 0 1"]
    assert len(found) == 51
    assert found[-1]["response"] == "PostgreSQL Response: X"


def test_more_answers_than_executions() -> None:
    """Where the size of the rest was of something else, answers to it are not lost on what comes later."""
    for number in range(5, 12):
        for answers in (0, 1, number, number + 2):
            for end in (READY, b"", ERROR + READY, READY + READY, row(b"x" * 90)):
                odd = turn(AGAIN * number + SYNC, INSERTED * answers + end)
                (*_, after) = executions(odd, turn(query("x"), tag(b"X") + READY, turn=9))
                assert after["response"] == "PostgreSQL Response: X"


def test_answers_of_a_batch_in_pieces() -> None:
    """The last of them are answered in turns that ask nothing; what comes behind those is nobody's."""
    pieces = [INSERTED * 4, INSERTED * 4, b"in the midst of a row"]
    begun = turn(AGAIN * 8 + SYNC, pieces[0], turn=2)
    rest = [turn(b"", piece, turn=2, flags=Flag.CONTINUED, request_first_ns=START) for piece in pieces[1:]]
    found = executions(begun, *rest)
    assert [one["row"] for one in found] == [1] * 4 + [2] * 4
    assert {one["response"] for one in found} == {"PostgreSQL Response: INSERT 0 1"}


def test_a_statement_behind_a_begin_is_no_batch() -> None:
    """JDBC sends both in one turn: however long the statement, it is one."""
    begin = parse(b"BEGIN") + bind() + execute()
    for size in range(100, 700, 7):
        long = parse(b"SELECT '" + b"x" * size) + bind() + DESCRIBE + execute() + SYNC
        answer = (PARSED + BOUND + tag(b"BEGIN")) + PARSED + BOUND + RESULT + READY
        assert [one["db.operation.name"] for one in rows(turn(begin + long, answer))] == ["BEGIN", "SELECT"]


def test_other_statements_are_not_taken_for_the_last() -> None:
    """If those before differ, what follows is counted, and nothing is said of it."""
    texts = [b"INSERT INTO a", b"INSERT INTO b", b"INSERT INTO c", b"INSERT INTO d", b"INSERT INTO e"] * 2
    request = b"".join(parse(text) + bind() + execute() for text in texts) + SYNC
    found = rows(turn(request, (PARSED + INSERTED) * 10 + READY))
    assert len(found) == len(texts)
    assert (found[-1]["request"], found[-1]["db.query.text"]) == ("PostgreSQL Query: …", None)


def test_a_single_execution_is_taken_to_be_repeated_many_times() -> None:
    """Not once or twice: that may be anything."""
    one = bind(b"s", value=b"x" * 200) + execute()
    for number in range(2, 12):
        found = executions(turn(one * number + SYNC, INSERTED * number + READY))
        assert len(found) == number
        assert {one["db.query.text"] for one in found[1:]} == {INSERT.decode() if number > 4 else None}


def test_queries_that_do_not_wait_are_counted() -> None:
    """Nothing is said of those that were not captured; a query before the data of a COPY is one."""
    request = b"".join(query(f"SELECT {number}") for number in range(100, 160))
    found = rows(turn(request, (RESULT + READY) * 60), turn(query("x"), tag(b"X") + READY))
    assert len(found) == 60 + 1
    assert [one["db.query.text"] for one in found[-3:]] == [None, None, "x"]
    assert found[-1]["response"] == "PostgreSQL Response: X"
    copied = query("COPY t (" + ", ".join(f"column_{number}" for number in range(30)) + ") FROM STDIN")
    (one,) = rows(turn(copied + DATA * 500 + DATA_END, COPY_IN + tag(b"COPY 500") + READY))
    assert one["db.operation.name"] == "COPY"


def test_half_a_name_is_none() -> None:
    """A Bind that is cut within its statement's name executes what those before it did."""
    name = b"a_name_of_a_statement_that_is_long"
    one = bind(name) + execute()
    for count in range(2, 12):
        answers = INSERTED * count + READY
        found = rows(turn(parse(INSERT, name) + SYNC, PARSED + READY), turn(one * count + SYNC, answers))[1:]
        shown = {str(execution["request"]).rstrip("…") for execution in found}
        assert shown == {"PostgreSQL Query: INSERT INTO t VALUES ($1)"}
        assert len(found) == count


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn stands for so many executions at most, and a batch of turns for so many."""
    large = turn(AGAIN + AGAIN, INSERTED * 4, request_bytes=10**9, response_bytes=10**9)
    assert len(executions(large)) < 16384 + 10
    monkeypatch.setattr(connection, "BATCH_MOST", 20_000)
    assert len(executions(large, large, large)) < 20_000 + 50


def test_a_batch_in_flight_is_counted_when_it_ends() -> None:
    """Only what was captured of it is shown before."""
    request = AGAIN * 100 + SYNC
    found = executions(turn(request, b"", kind=Kind.OPEN), turn(request, INSERTED * 100 + READY, turn=1))
    assert len([one for one in found if one["row"] == 1]) < 10
    assert len([one for one in found if one["row"] == 2]) == 100


def test_a_second_goodbye_is_none() -> None:
    """pg_basebackup says it twice."""
    assert lines((message(b"X") * 2, b"")) == [("PostgreSQL Terminate", None)]
    (found,) = rows(turn(message(b"X") * 2, b"", flags=Flag.CLOSED))
    assert not found["error"]


# COPY, notifications, replication


def test_what_waits_is_shown_when_its_answer_pauses() -> None:
    """How long it will take, nobody knows; what has ended before it has ended."""
    begun = tag(b"A") + READY + described(b"a") + row(b"1")
    slots = make_slots(turn(query("a") + query("b"), begun, flags=Flag.IDLE))
    parsed = PROTOCOL().parse(slots)
    assert parsed.request_text.to_list() == ["PostgreSQL Query: a", "PostgreSQL Query: b"]
    assert parsed.still_open is not None
    assert parsed.still_open.tolist() == [False, True]
    assert not parsed.error.any()


def test_what_waits_when_its_connection_is_closed_has_no_answer() -> None:
    """An answer had begun and paused: no turn of its own tells of the end, which is an error."""
    parser = PROTOCOL()
    begun = rows(turn(query("a"), described(b"a") + row(b"1"), flags=Flag.IDLE), parser=parser)
    assert begun == []
    cookie = int(make_slots(turn())["cookie"][0])
    assert list(parser.waiting([cookie, cookie + 1])) == [cookie]
    (found,) = rows(turn(turn=1, flags=Flag.IDLE | Flag.CONTINUED | Flag.CLOSED), parser=parser)
    assert (found["request"], found["response"], found["error"]) == ("PostgreSQL Query: a", None, True)
    assert found["response_first_ns"] == found["response_last_ns"] == 0
    assert found["request_first_ns"] == START
    assert list(parser.waiting([cookie])) == []


def test_copy_in_is_one_transaction() -> None:
    """From the statement to the tag behind the client's data."""
    for asked, begun in (
        (query("COPY t FROM STDIN"), COPY_IN),
        (parse(b"COPY t FROM STDIN") + bind() + execute() + SYNC, PARSED + BOUND + COPY_IN),
    ):
        data = DATA * 100 + DATA_END
        found = rows(
            turn(asked, begun, flags=Flag.IDLE),
            turn(data, tag(b"COPY 100") + READY),
            turn(query("x"), tag(b"X") + READY),
        )
        assert [one["response"] for one in found] == [
            "PostgreSQL Response: COPY 100",
            "PostgreSQL Response: X",
        ]
        assert found[0]["request_bytes"] == len(asked + data)
        assert (found[0]["request_first_ns"], found[0]["row"]) == (START, 1)


def test_copy_in_that_fails() -> None:
    """Data that still comes is nobody's."""
    found = lines(
        (query("COPY t FROM STDIN"), COPY_IN),
        (DATA * 10, ERROR + READY),
        (DATA * 10 + DATA_END + query("x"), tag(b"X") + READY),
    )
    assert found == [
        ("PostgreSQL Query: COPY t FROM STDIN", FAILED),
        ("PostgreSQL Query: x", "PostgreSQL Response: X"),
    ]


def test_copy_in_without_waiting() -> None:
    """Asyncpg sends the data with the statement."""
    request = query("COPY t FROM STDIN") + DATA + DATA_END
    assert lines((request, COPY_IN + tag(b"COPY 1") + READY)) == [
        ("PostgreSQL Query: COPY t FROM STDIN", "PostgreSQL Response: COPY 1")
    ]


def test_replication_starts() -> None:
    """What is streamed afterwards, in both directions, is no transaction."""
    found = lines(
        (query("START_REPLICATION"), COPY_BOTH),
        (message(b"d", b"r" + bytes(33)), message(b"d", b"w" + bytes(90))),
    )
    assert found == [("PostgreSQL Query: START_REPLICATION", "PostgreSQL Response: Copy both")]


def test_a_notification_is_pushed() -> None:
    """It has no request: within a response, or by itself, it is a row of its own."""
    found = rows(
        turn(query("NOTIFY news"), tag(b"NOTIFY") + NOTIFICATION + READY),
        turn(
            b"", NOTIFICATION, turn=1, flags=Flag.CONTINUED, request_first_ns=START, response_first_ns=START
        ),
    )
    assert [(one["request"], one["response"]) for one in found] == [
        (None, "PostgreSQL Notification: news"),
        ("PostgreSQL Query: NOTIFY news", "PostgreSQL Response: NOTIFY"),
        (None, "PostgreSQL Notification: news"),
    ]
    assert (found[2]["request_first_ns"], found[2]["request_bytes"]) == (0, 0)
    assert found[2]["response_first_ns"] == found[2]["response_last_ns"] > START
    assert not any(one["error"] for one in found)


def test_bytes_of_a_row_are_no_notification() -> None:
    """What goes on in the midst of a row, or of a stream of changes, may look like a message."""
    for channel in (b"", b"new\x01s", b"n" * 64):
        noise = message(b"A", b"\0\0\1\0" + channel + b"\0hello\0")
        assert rows(turn(b"", noise, turn=1, flags=Flag.CONTINUED, response_first_ns=START)) == []


def test_a_server_that_ends_a_connection_says_why() -> None:
    """Unasked, as an idle client that is terminated gets it."""
    end = notice(b"terminating connection", severity=b"FATAL", code=b"57P01")
    found = rows(
        turn(query("x"), tag(b"X") + READY),
        turn(b"", end, turn=1, flags=Flag.CONTINUED | Flag.CLOSED, request_first_ns=START),
    )
    assert found[1]["response"] == "PostgreSQL Response: FATAL 57P01: terminating connection"
    assert (found[1]["error"], found[1]["request"]) == (True, None)


def test_the_rest_of_a_response_is_no_transaction() -> None:
    """Rows that are streamed with pauses belong to the turn that was shown."""
    assert (
        lines(
            turn(b"", row(b"x" * 60) * 3 + tag(b"SELECT 3") + READY, flags=Flag.CONTINUED),
            turn(b"", b"some text of a row, cut anywhere", flags=Flag.CONTINUED),
        )
        == []
    )


# Turns in flight, closes, bounds


def test_turns_in_flight_change_nothing() -> None:
    """They show what is asked; the same turn comes again when it has ended."""
    asked = parse(SELECT, b"s") + bind(b"s") + execute() + SYNC
    parser = PROTOCOL()
    (found,) = rows(turn(asked, b"", kind=Kind.OPEN), parser=parser)
    assert (found["request"], found["response"], found["error"]) == (DONE[0], None, False)
    assert not parser._connections._known
    assert lines((asked, PARSED + BOUND + RESULT + READY), parser=parser) == [DONE]


def test_an_unanswered_query() -> None:
    """The connection's end is its end, and that is an error."""
    (found,) = rows(turn(query("SELECT 1"), flags=Flag.CLOSED))
    assert (found["response"], found["error"], found["response_first_ns"]) == (None, True, 0)


def test_an_empty_batch() -> None:
    """Gives empty columns."""
    parsed = PROTOCOL().parse(make_slots(turn(query("SELECT 1")))[:0])
    assert len(parsed.rows) == len(parsed.request_text) == 0


def test_forgotten_connections() -> None:
    """Nothing is left of them; what was not answered is counted."""
    parser = PROTOCOL()
    rows(turn(LOGIN, LET_IN), turn(parse(SELECT) + bind() + execute() + SYNC, PARSED), parser=parser)
    parser.forget([1, 2])
    assert not parser._connections._known
    assert parser._connections._size == 0
    assert parser.evicted == 1


def test_statements_and_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and counted."""
    monkeypatch.setattr(connection, "_STATEMENTS", 3)
    parser = PROTOCOL()
    turns = [turn(parse(b"SELECT %d" % one, b"s%d" % one) + FLUSH, PARSED) for one in range(5)]
    turns += [turn(bind(b"s%d" % one) + execute() + SYNC, BOUND + EMPTY + READY) for one in (1, 2)]
    found = rows(*turns, parser=parser, size=5)
    assert [one["request"] for one in found[5:]] == [
        "PostgreSQL Query: EXECUTE s1",
        "PostgreSQL Query: SELECT 2",
    ]
    assert parser.evicted == 2
    rows(turn((bind(b"s2") + execute()) * 3, BOUND), parser=parser)
    assert len(parser._connections.get(1).waiting) == 3  # type: ignore[union-attr]
    assert parser.evicted == 4


@pytest.mark.parametrize("limit", ["_CONNECTIONS", "_ALL_STATEMENTS"])
def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The one that was idle longest is forgotten, and counted."""
    monkeypatch.setattr(connection, limit, 2)
    parser = PROTOCOL()
    prepare = parse(b"SELECT 1", b"s") + SYNC, PARSED + READY
    again = bind(b"s") + execute() + SYNC, BOUND + EMPTY + READY
    rows(turn(*prepare, cookie=1), turn(*prepare, cookie=2), parser=parser)
    rows(turn(*again, cookie=1), parser=parser)
    rows(turn(*prepare, cookie=3), parser=parser)
    found = rows(*(turn(*again, cookie=cookie) for cookie in (1, 2, 3)), parser=parser)
    assert [one["db.query.text"] for one in found] == ["SELECT 1", None, "SELECT 1"]
    assert parser.evicted == 1


def test_plain_queries_keep_no_state() -> None:
    """A connection is remembered only for what its later turns need."""
    parser = PROTOCOL()
    rows(*(turn(query("SELECT 1"), RESULT + READY, cookie=cookie) for cookie in range(100)), parser=parser)
    assert not parser._connections._known


# Recognition


@pytest.mark.parametrize(
    ("request_bytes", "response", "expected"),
    [
        (TLS, b"S", CERTAIN),
        (TLS, b"N", CERTAIN),
        (GSS, b"G", CERTAIN),
        (TLS, b"H", 0),
        (TLS, ERROR, CERTAIN),
        (CANCEL, b"", LIKELY),
        (CANCEL, b"x", 0),
        (LOGIN, LET_IN, CERTAIN),
        (LOGIN, b"", LIKELY),
        (LOGIN, b"HTTP/1.1 400 Bad Request", 0),
        (startup(0x30000, b"user\0bob\0options\0" + b"x" * 300 + b"\0\0"), LET_IN, CERTAIN),
        (startup(0x30000, b"name\0bob\0\0"), LET_IN, 0),
        (query("SELECT 1"), RESULT + READY, LIKELY),
        (query("SELEC 1"), ERROR + READY, LIKELY),
        (query("/* " + "x" * 400 + " */ SELECT 1"), tag(b"SELECT 1") + READY, LIKELY),
        (query("SELECT 1"), described(b"a" * 40, b"b" * 40, b"c" * 40) + READY, LIKELY),
        (query("COPY t FROM STDIN"), COPY_IN, LIKELY),
        (parse(SELECT, b"s") + FLUSH, PARSED, LIKELY),
        (parse(SELECT) + bind() + DESCRIBE + execute() + SYNC, PARSED + BOUND + RESULT + READY, LIKELY),
        (bind(b"s", value=b"x" * 400) + execute() + SYNC, BOUND + tag(b"INSERT 0 1") + READY, LIKELY),
        (SYNC, READY, LIKELY),
        (message(b"C", b"Ss\0") + SYNC, CLOSED + READY, LIKELY),
        (message(b"F", b"\0\0\3\xbd\0\0\0\0\0\1"), message(b"V", b"\0\0\0\1\0") + READY, LIKELY),
        (query("SELECT 1"), b"", POSSIBLE),
        (message(b"X"), b"", POSSIBLE),
        (query("lorem ipsum"), b"", 0),
        (query("SELECT 1") + b"x", RESULT + READY, 0),
        (query("SELECT 1")[:-1] + b"x", RESULT + READY, 0),
        (query("SELECT 1"), RESULT + READY + b"x", 0),
        (query("SELECT 1"), BOUND + READY, 0),
        (query(b"\1\2\3"), RESULT + READY, 0),
        (bind() + execute() + SYNC, PARSED + READY, 0),
        (message(b"B", b"\0\0\0\1\0\7\0\0\0\0"), BOUND, 0),
        (message(b"S", b"x"), READY, 0),
    ],
)
def test_recognition(request_bytes: bytes, response: bytes, expected: int) -> None:
    """Every visible length and body has to fit, both ways; only startups are sure without a response."""
    assert score(request_bytes, response) == expected


OTHERS = {
    "http": (b"GET /index.html HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"$1\r\nb\r\n"),
    "mysql greeting": (
        b"",
        b"\x4a\0\0\0\x0a8.0.36\0\1\0\0\0saltsalt\0\xff\xff\x2d\2\0\xff\xff\x15" + bytes(36),
    ),
    "mysql query": (
        b"\x09\0\0\0\3SELECT 1",
        b"\1\0\0\1\1\x17\0\0\2\3def\0\0\0\0011\0\x0c\x3f\0\1\0\0\0\3\x81\0\0\0\0",
    ),
    "tls": (b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(range(256)) * 2, b"\x16\3\3\0\x7a\2\0\0\x76\3\3"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
    "dns": (
        b"\0\x1d\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1",
        b"\0\x1d\x12\x34\x81\x83\0\1\0\0\0\0\0\0",
    ),
    "mongodb": (
        b"\x3c\0\0\0\3\0\0\0\0\0\0\0\xdd\7\0\0\0\0\0\0\0\x27\0\0\0\x02find\0\2\0\0\0c\0\2$db\0\2\0\0\0d\0\0",
        b"\x26\0\0\0\2\0\0\0\1\0\0\0\xdd\7\0\0\0\0\0\0\0\x11\0\0\0\1ok\0\0\0\0\0\0\0\xf0?\0",
    ),
    "kafka": (b"\0\0\0\x1a\0\x12\0\3\0\0\0\1\0\x0aconsumer-1\0", b"\0\0\0\x10\0\0\0\1\0\0\0\0\0\1\0\0"),
    "cassandra": (b"\4\0\0\0\7\0\0\0\x10\0\0\0\x09SELECT 1;\0\1\0", b"\x84\0\0\0\x08\0\0\0\4\0\0\0\1"),
    "amqp": (b"AMQP\0\0\x09\1", b"\1\0\0\0\0\1\xc1\0\x0a\0\x0a\0\x09"),
    "memcached": (b"get key\r\n", b"END\r\n"),
    "zookeeper": (b"\0\0\0\x2c\0\0\0\0" + bytes(40), b"\0\0\0\x24\0\0\0\0" + bytes(32)),
}


@pytest.mark.parametrize("sides", OTHERS.values(), ids=OTHERS)
def test_other_protocols_are_not_mistaken(sides: tuple[bytes, bytes]) -> None:
    """Other protocols on PostgreSQL's port are not recognised, cut anywhere or whole."""
    request, response = sides
    assert score(request, response) == 0
    assert score(request) == 0
    assert not any(score(request[:end], response[: end // 2]) for end in range(len(request)))


@pytest.mark.parametrize(
    "request_bytes", [LOGIN, query("SELECT 1"), parse(SELECT) + bind() + execute() + SYNC]
)
def test_mysql_does_not_take_it(request_bytes: bytes) -> None:
    """The other protocol of statements keeps away."""
    assert mysql.PROTOCOL().recognise(make_slots(turn(request_bytes, RESULT + READY))).tolist() == [0]


def test_random_bytes_are_not_mistaken() -> None:
    """Neither are random bytes behind heads that fit, in ten thousand turns."""
    random = np.random.default_rng(1)
    slots = np.tile(make_slots(turn(bytes(ROOM), bytes(RESPONSE_ROOM))), 20_000)
    for side, room in (("request", ROOM), ("response", RESPONSE_ROOM)):
        slots[side] = random.integers(0, 256, (len(slots), room), np.uint8)
    framed = slots[::2]
    framed["request"][:, 0] = random.choice(np.frombuffer(b"QPBEDCSF", np.uint8), len(framed))
    framed["request"][:, 1:5] = (0, 0, 0, ROOM - 1)
    framed["response"][:, 0] = random.choice(np.frombuffer(b"TCEDZ12", np.uint8), len(framed))
    framed["response"][:, 1:5] = (0, 0, 0, RESPONSE_ROOM - 1)
    assert not PROTOCOL().recognise(slots).any()


# Columns


VALUES = st.binary(max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, st.sampled_from(range(9))), min_size=1, max_size=30))
def test_values_do_not_matter(turns: list[tuple[bytes, bytes, int]]) -> None:
    """Executions with other values, and results with other rows, read as the reference reads them."""
    tails = (DESCRIBE + execute() + SYNC, execute() + SYNC, DESCRIBE + SYNC)
    slots = make_slots(
        *(
            turn(
                (parse(SELECT) if kind % 2 else b"")
                + bind(b"" if kind % 2 else b"s", value=value)
                + tails[kind % 3],
                (PARSED if kind % 2 else b"")
                + BOUND
                + (described(b"a") if kind < 6 else b"")
                + row(result) * (kind % 4)
                + (tag(b"SELECT %d" % (kind % 3)) if kind != 5 else SUSPENDED)
                + READY,
                cookie=number,
            )
            for number, (value, result, kind) in enumerate(turns)
        )
    )
    check_equal([slots, cut(slots, 64, 40)])


def test_what_differs_is_not_taken_for_the_same() -> None:
    """Executions and results that are alike but for one thing, all in one batch."""
    names = [b"s", b"t", b"n" * 38, b"n" * 39, b"n" * 40, b"n" * 60]
    requests = [bind(name) + execute() + SYNC for name in names]
    # The more of a value, the more of what is behind it is hidden: the whole of it, a part, nothing.
    requests += [bind(b"s", value=b"x" * size) + DESCRIBE + execute() + SYNC for size in range(140, 190)]
    hidden = bind(b"s", value=b"x" * 190)
    requests += [hidden + execute() + b"?" * size for size in range(40)]
    requests += [hidden + (b"" if size < 5 else FLUSH.ljust(size, b"\0")) for size in range(40)]
    requests += [parse(b"SELECT '" + b"x" * 200) + b"?" * size for size in range(60)]
    requests += [parse(b"SELECT %d" % size) + bind() + execute() + SYNC for size in range(3)]
    requests += [bind(b"s", b"p") + execute(b"p") + SYNC, bind(b"s") + execute(b"p") + SYNC]
    results = [described(*[b"a"] * count) + row(b"x" * size) for count in (1, 2, 3) for size in (1, 99)]
    answers = [BOUND + result + end + READY for result in results for end in (b"", tag(b"A"))]
    answers += [
        BOUND + row(b"1") + tag(text) + READY for text in (b"A", b"B", b"A" * 23, b"A" * 24, b"A" * 30)
    ]
    answers += [BOUND + tag(b"A") + tag(b"B") + READY, BOUND + tag(b"A"), BOUND + EMPTY + READY]
    filled = BOUND + row(b"x" * (RESPONSE_ROOM - 23)) + tag(b"A")
    answers += [filled + tag(b"B") + READY, filled]
    turns = [turn(request, answers[number % len(answers)]) for number, request in enumerate(requests)]
    turns += [turn(request, answer) for request in (requests[0], query("x")) for answer in answers]
    slots = make_slots(*turns)
    slots["cookie"] = np.arange(len(slots))
    check_equal([slots, cut(slots, 64, 64)])


def mixed(number: int) -> np.ndarray:
    """Return turns of many connections: common ones, and some of each other kind."""
    random = np.random.default_rng(number)
    kinds = [
        (query("SELECT a FROM t WHERE id = 7"), RESULT + READY),
        (query("INSERT INTO t VALUES (1)"), tag(b"INSERT 0 1") + READY),
        (query("SELEC"), ERROR + READY),
        (bind(b"s1") + DESCRIBE + execute() + SYNC, BOUND + RESULT + READY),
        (parse(SELECT) + bind() + DESCRIBE + execute() + SYNC, PARSED + BOUND + RESULT + READY),
        (parse(b"SELECT 2") + bind() + execute() + SYNC, PARSED + ERROR + READY),
        (parse(b"SELECT '" + b"x" * 300) + bind() + execute() + SYNC, PARSED + BOUND + RESULT + READY),
        (bind(b"s2", value=b"x" * 200) + execute() + SYNC, BOUND + row(b"x" * 200) + tag(b"A") + READY),
        (bind() + execute() + SYNC, BOUND + RESULT + READY),
        (parse(b"SELECT 1", b"s1") + SYNC, PARSED + READY),
        (
            parse(b"UPDATE t SET a = $1", b"s2") + bind(b"s2") + execute() + SYNC,
            PARSED + BOUND + tag(b"A") + READY,
        ),
        (message(b"C", b"Ss1\0") + SYNC, CLOSED + READY),
        (query("COPY t FROM STDIN"), COPY_IN),
        (DATA + DATA_END, tag(b"COPY 1") + READY),
        ((bind(b"s1") + execute()) * 2 + SYNC, (BOUND + tag(b"A")) * 2 + READY),
        (bind(b"s1") + execute(), BOUND),
        (query("NOTIFY x"), tag(b"NOTIFY") + NOTIFICATION + READY),
        (LOGIN, LET_IN),
    ]
    weights = [20, 10, 5, 20, 15, 5, 5, 5] + [1] * (len(kinds) - 8)
    chosen = random.choice(len(kinds), 400, p=np.array(weights) / sum(weights))
    cookies = [int(random.integers(8 if kind > 7 else 40)) for kind in chosen]
    slots = make_slots(
        *(turn(*kinds[kind], cookie=cookie) for kind, cookie in zip(chosen, cookies, strict=True))
    )
    for cookie in set(cookies):
        mine = np.flatnonzero(slots["cookie"] == cookie)
        slots["turn"][mine] = np.arange(len(mine))
        slots["kind"][mine[:-1][random.random(len(mine) - 1) < 0.1]] = Kind.OPEN
    return slots


@pytest.mark.parametrize("number", range(8))
def test_columns_equal_the_reference(number: int) -> None:
    """Common turns, read as columns, and others between them give what one turn after the other gives."""
    slots = mixed(number)
    check_equal([slots[:150], slots[150:]])


def test_most_turns_are_read_as_columns() -> None:
    """As they have to be, for the parser to be quick: the rule above holds something."""
    parser = PROTOCOL()
    slots = mixed(0)
    cookies, owner = np.unique(slots["cookie"], return_inverse=True)
    commons, _, _ = parser._common.read(slots, cookies.tolist(), owner, parser._connections)
    assert len(commons.rows) > len(slots) // 4


def test_drivers_that_parse_and_execute_in_turns_of_their_own() -> None:
    """lib/pq, pg8000 and asyncpg do so with each query: executions have the statement before, on columns."""
    kinds: list[Callable[[bytes], tuple[bytes, bytes]]] = [
        lambda text: (parse(text) + FLUSH + SYNC, PARSED + READY),
        lambda text: (parse(text) + message(b"D", b"S\0") + SYNC, PARSED + described(b"a") + READY),
        lambda _: (message(b"D", b"S\0") + FLUSH + SYNC, described(b"a") + READY),
        lambda _: (bind() + FLUSH + execute() + FLUSH + SYNC, BOUND + tag(b"SELECT 1") + READY),
        # asyncpg without a cache of statements.
        lambda text: (parse(text) + message(b"D", b"S\0") + FLUSH, PARSED + described(b"a")),
        lambda _: (message(b"D", b"Ss1\0") + SYNC, NO_DATA + READY),
        lambda _: (query("SELECT 2"), RESULT + READY),
        # Followed turn by turn, among the others.
        lambda text: (parse(text, b"s1") + SYNC, PARSED + READY),
        lambda text: (parse(text) + SYNC, ERROR + READY),
        lambda text: (parse(text) + FLUSH, ERROR),
        lambda text: (parse(text) + bind() + execute(), PARSED + BOUND + tag(b"A")),
        lambda _: (message(b"D", b"S\0") + execute(b"p") + SYNC, described(b"a") + tag(b"A") + READY),
    ]
    for number in range(40):
        random = np.random.default_rng(number)
        chosen = random.choice(len(kinds), 60, p=[0.12] * 5 + [0.1] * 2 + [0.04] * 5)
        turns = [kinds[kind](b"SELECT %d" % place) for place, kind in enumerate(chosen)]
        slots = make_slots(*(turn(*one, cookie=int(random.integers(3))) for one in turns))
        for cookie in range(3):
            mine = np.flatnonzero(slots["cookie"] == cookie)
            slots["turn"][mine] = np.arange(len(mine))
        check_equal([slots[:25], slots[25:]])
    turns = [kinds[kind % 5](b"SELECT %d" % (kind // 5)) for kind in range(400)]
    parser, slots = PROTOCOL(), make_slots(*(turn(*one) for one in turns))
    found = parser._common.read(slots, [1], np.zeros(len(slots), np.int64), parser._connections)[0]
    assert len(found.rows) == len(slots)


NAMES = [b"s1", b"s2", b"pdo_stmt_00000001", b"n" * 39, b"n" * 40, b"\xc3\xa9", b"\xff", b"a\\xff"]


def prepared(random: np.random.Generator, number: int) -> tuple[bytes, bytes]:
    """Return a turn of a client that gives its statements names: it prepares, uses or drops one of them."""
    name = NAMES[random.integers(len(NAMES))] if random.random() < 0.5 else b"pdo_stmt_%08x" % (number // 3)
    other = NAMES[random.integers(2)]
    text = [b"SELECT %d" % random.integers(3), b"SELECT '" + b"x" * 150, b"UPDATE t"][random.integers(3)]
    about = [name, name, other, b""][random.integers(4)]
    result = row(b"v" * random.integers(4)) * random.integers(2) + tag(b"SELECT %d" % random.integers(2))
    told = message(b"t", b"\0\0") + described(b"a")
    bound = bind(about, value=b"v" * random.integers(5)) + execute()
    turns = [
        (parse(text, name) + SYNC, PARSED + READY),
        (parse(text, name) + SYNC, ERROR + READY),
        (parse(text, name) + message(b"D", b"S" + about + b"\0") + SYNC, PARSED + told + READY),
        (parse(text, name) + message(b"D", b"S" + name + b"\0") + FLUSH, PARSED + told),
        (bind(name) + DESCRIBE + execute() + SYNC, BOUND + NO_DATA + result + READY),
        (bind(name, value=b"1") + execute() + bound + SYNC, (BOUND + result) * 2 + READY),
        (parse(text, name) + bound + SYNC, PARSED + BOUND + result + READY),
        (parse(text, name) + bound + SYNC, PARSED + ERROR + READY),
        (parse(text, name) + parse(b"X", about) + bound + SYNC, PARSED * 2 + BOUND + result + READY),
        (query(b"DEALLOCATE " + name), tag(b"DEALLOCATE") + READY),
        (query(b"DEALLOCATE " + name), ERROR + READY),
        (parse(b"DEALLOCATE " + about) + bind() + execute() + SYNC, PARSED + BOUND + result + READY),
        (message(b"C", b"S" + name + b"\0") + SYNC, CLOSED + READY),
    ]
    return turns[
        random.choice(
            len(turns), p=[0.2, 0.02, 0.05, 0.05, 0.25, 0.05, 0.05, 0.02, 0.02, 0.2, 0.03, 0.03, 0.03]
        )
    ]


@pytest.mark.parametrize("number", range(24))
def test_clients_that_give_their_statements_names(number: int) -> None:
    """PDO and tokio-postgres count them up: as columns they are what they are one by one."""
    random = np.random.default_rng(number)
    turns = [prepared(random, place) for place in range(300)]
    slots = make_slots(*(turn(*one, cookie=int(random.integers(1 + number % 6))) for one in turns))
    for cookie in range(6):
        mine = np.flatnonzero(slots["cookie"] == cookie)
        slots["turn"][mine] = np.arange(len(mine))
    check_equal([slots[:100], slots[100:110], slots[110:]])
    check_equal([cut(slots, 96, 64)])


def test_a_statement_for_each_query() -> None:
    """PDO prepares, executes and deallocates one: all on columns, with its text, and nothing is left."""
    turns = []
    for number in range(300):
        name = b"pdo_stmt_%08x" % number
        turns += [
            (parse(b"SELECT a FROM t%d" % (number % 2), name) + SYNC, PARSED + READY),
            (bind(name, value=b"%d" % number) + DESCRIBE + execute() + SYNC, BOUND + RESULT + READY),
            (query(b"DEALLOCATE " + name), tag(b"DEALLOCATE") + READY),
        ]
    parser, slots = PROTOCOL(), make_slots(*(turn(*one) for one in turns))
    for batch in slots[:400], slots[400:]:
        commons, others, _ = parser._common.read(
            batch, [1], np.zeros(len(batch), np.int64), parser._connections
        )
        assert (len(commons.rows), others) == (len(batch), [])
        texts = commons.commands.strings(attrgetter("query")).to_list()
        shown = [text for text, own in zip(texts, commons.own.tolist(), strict=True) if own == ABSENT]
        assert set(shown) == {"SELECT a FROM t0", "SELECT a FROM t1"}
    assert parser.evicted == 0
    known = parser._connections.get(1)
    assert known is not None
    assert not known.statements


def executed(random: np.random.Generator) -> tuple[bytes, bytes]:
    """Return a turn that executes some statements: parsed in it, before it, never; one or none fails."""
    request, response, failed = b"", b"", False
    number = int(random.integers(1, 5))
    fails = random.integers(12)
    for place in range(number):
        parsed, name = random.random() < 0.3, random.choice([b"", b"s1", b"s2"]).item()
        text = [b"BEGIN", b"SELECT %d" % random.integers(3), b"SELECT '" + b"x" * 150][random.integers(3)]
        value = b"v" * random.integers(6)
        synced = place == number - 1 or random.random() < 0.1
        described_too = random.random() < 0.5
        answer = (PARSED * parsed + BOUND) + (described(b"a", *[b"b"] * parsed) * described_too)
        answer += row(value) * random.integers(3) + tag(b"SELECT %d" % random.integers(2)) * (place < 3)
        answer += random.choice([EMPTY, SUSPENDED]) * (place == 3)
        request += parse(text) * parsed + bind(name, value=value) + DESCRIBE * described_too + execute()
        response += b"" if failed else ERROR if place == fails else answer
        failed |= place == fails
        request, response = request + SYNC * synced, response + READY * synced
        failed &= not synced
    return request, response


@pytest.mark.parametrize("number", range(12))
def test_several_executions_in_a_turn(number: int) -> None:
    """JDBC's BEGIN with the first statement, pipelines: as columns they are what they are one by one."""
    random = np.random.default_rng(number)
    turns = [executed(random) for _ in range(300)]
    slots = make_slots(*(turn(*one, cookie=int(random.integers(5))) for one in turns))
    for cookie in range(5):
        mine = np.flatnonzero(slots["cookie"] == cookie)
        slots["turn"][mine] = np.arange(len(mine))
    check_equal([slots[:100], slots[100:]])
    check_equal([cut(slots, 96, 64)])


def test_the_first_statement_of_a_transaction() -> None:
    """JDBC sends BEGIN along with it: both are read on columns, and each has its bytes."""
    begin = bind(b"S_1") + execute()
    first = bind(b"S_2") + DESCRIBE + execute()
    started = BOUND + tag(b"BEGIN")
    prepared = parse(b"BEGIN", b"S_1") + parse(b"SELECT a FROM t WHERE id = $1", b"S_2") + SYNC
    parsed = parse(b"BEGIN") + bind() + execute()
    together = [
        turn(prepared, PARSED * 2 + READY),
        turn(begin + first + SYNC, started + BOUND + RESULT + READY),
        turn(parsed + first + SYNC, PARSED + started + ERROR + READY),
    ]
    parser, slots = PROTOCOL(), make_slots(*together)
    found = parser._common.read(slots[:1], [1], np.zeros(1, np.int64), parser._connections)
    commons, others, _ = parser._common.read(slots[1:], [1], np.zeros(2, np.int64), parser._connections)
    assert (len(found[1]), len(commons.rows), others) == (2, 4, [])
    lines = [(one["request"], one["response"]) for one in rows(*together)][2:]
    ok = "PostgreSQL Response: SELECT 1"
    query_line = "PostgreSQL Query: SELECT a FROM t WHERE id = $1"
    assert [line for line, _ in lines] == ["PostgreSQL Query: BEGIN", query_line] * 2
    assert [line for _, line in lines[:3]] == ["PostgreSQL Response: BEGIN", ok, "PostgreSQL Response: BEGIN"]
    assert f"{lines[3][1]}".startswith("PostgreSQL Response: ERROR 42P01")
    requests, responses = commons.shares["request_bytes"], commons.shares["response_bytes"]
    assert requests.tolist() == [len(begin), len(first + SYNC), len(parsed), len(first + SYNC)]
    assert responses.tolist()[:2] == [len(started), len(BOUND + RESULT + READY)]


def test_shapes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers that send ever other sequences cost no more memory; theirs are followed turn by turn."""
    monkeypatch.setattr(plain, "_SHAPES", {"QS": plain.QUERY})
    monkeypatch.setattr(plain, "_SHAPES_MOST", 4)
    units = [bind() + execute(), bind() + DESCRIBE + execute(), bind() + execute() + SYNC]
    requests = [b"".join(units[number // 3**place % 3] for place in range(4)) + SYNC for number in range(81)]
    found = [plain.read_plain(request, len(request), 0).shape for request in requests]
    assert sorted({*found}) == [plain.NO_SHAPE, 1, 2, 3]
    check_equal([make_slots(*(turn(request, BOUND + RESULT + READY) for request in requests))])


def test_statements_that_differ_in_digits() -> None:
    """Those of literals do not count; those of names do, and are kept apart."""
    tables = ["t", "t", "t1", "t1", "t22"]
    texts = [f"ALTER TABLE {table} SET (n = {number})" for number, table in enumerate(tables, 98)]
    found = rows(*(turn(query(text), tag(b"ALTER TABLE") + READY) for text in texts))
    assert [one["db.query.text"] for one in found] == texts
    assert [one["db.query.summary"] for one in found] == [f"ALTER TABLE {table}" for table in tables]


def test_statements_with_a_zero_in_them() -> None:
    """They end there, among others that do not."""
    found = rows(turn(query(b"SELECT 1\0x"), RESULT + READY), turn(query("SELECT 2"), RESULT + READY))
    assert [one["db.query.text"] for one in found] == ["SELECT 1", "SELECT 2"]


def test_known_hashes_change_nothing() -> None:
    """Payloads that are known by the kernel's hash are shown as those that are read."""
    slots = mixed(0)
    hashed = slots.copy()
    for side in ("request", "response"):
        hashed[f"{side}_hash"] = row_hash(hashed[side], hashed[f"{side}_length"]) | np.uint64(1)
    parser = PROTOCOL()
    parser.parse(hashed)
    parser.forget(np.unique(slots["cookie"]).tolist())
    again = parser.parse(hashed)
    assert rows_of(hashed, again) == rows_of(slots, PROTOCOL().parse(slots))


SHAPES = ("QS", "BDES", "PDeS", "DS", "PBEBDES", "BESBES", "BEPeS")
pieces = st.lists(st.sampled_from(range(1, len(FRAGMENTS) + 1)), max_size=6).map(bytes)
captured = st.builds(
    lambda numbers, room, beyond: (b"".join(FRAGMENTS[number - 1] for number in numbers)[:room], beyond),
    pieces,
    st.integers(1, 208),
    st.integers(0, 300),
)


def read_request(data: bytes, total: int) -> object:
    """Return all that columns know of a request."""
    return plain.read_plain(data, total, 0)


def read_response(data: bytes, total: int) -> object:
    """Return all that columns know of a response to each of some requests."""
    return [plain.read_reply(data, total, plain._number(shape)) for shape in SHAPES]


@settings(max_examples=500, deadline=None)
@given(captured, st.data())
@pytest.mark.parametrize(("mask_of", "read"), [(request_mask, read_request), (response_mask, read_response)])
def test_bytes_that_do_not_count_change_nothing(
    mask_of: Callable[[bytes, int], bytes | None],
    read: Callable[[bytes, int], object],
    some: tuple[bytes, int],
    data: st.DataObject,
) -> None:
    """What a mask leaves out may be anything: payload and template are read alike."""
    payload, beyond = some
    mask = mask_of(payload, len(payload) + beyond)
    if mask is None:
        return
    assert len(mask) == len(payload)
    other = data.draw(st.binary(min_size=len(payload), max_size=len(payload)))
    changed = bytes(one if counts else two for one, two, counts in zip(payload, other, mask, strict=True))
    assert read(changed, len(payload) + beyond) == read(payload, len(payload) + beyond)


def test_values_and_rows_do_not_count() -> None:
    """Masks leave out what differs from turn to turn, and nothing that is shown."""
    request = bind(b"s", value=b"secret") + execute() + SYNC
    mask = request_mask(request, len(request))
    assert mask is not None
    assert not any(mask[request.index(b"secret") :][: len(b"secret")])
    response = BOUND + row(b"secret") + tag(b"SELECT 1") + READY
    mask = response_mask(response, len(response))
    assert mask is not None
    assert not any(mask[response.index(b"secret") :][: len(b"secret")])
    assert all(mask[response.index(b"SELECT 1") :][: len(b"SELECT 1")])


one_turn = st.tuples(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16, 0x60]), pieces, pieces)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2), st.lists(one_turn, max_size=12))
def test_any_turns_equal_the_reference(start: bytes, turns: list[tuple[int, bytes, bytes]]) -> None:
    """Whatever messages come in whatever order, columns and reference agree."""
    data = b"".join(bytes([what]) + request + b"\0" + response + b"\0" for what, request, response in turns)
    check(start.ljust(2, b"\0") + data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_equal_the_reference(data: bytes) -> None:
    """Whatever the bytes, nothing raises, and columns and reference agree."""
    check(data)
