"""The tables that flow from parsers to sinks: whole columns, owned (no view into the ring)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint

    _Make = Callable[[], tuple[NDArray[np.int32], list[str]]]
    _Some = Callable[[NDArray[np.integer]], list[str | None]]

__all__ = ["ABSENT", "Attribute", "Encoded", "Events", "Output", "Parsed", "Table", "never_behind"]

T = TypeVar("T")

ABSENT = -1
"""Code of an absent value in an `Encoded` column, and absent value of every integer column."""

_NO_CODES = np.zeros(0, np.int32)


class Encoded:
    """A dictionary-encoded string column.

    codes: int32 (n,), index into `values`, `ABSENT` where the row has no value.
    values: the distinct strings; raw text, not escaped for any output.
    """

    __slots__ = ("_codes", "_index", "_make", "_some", "_texts", "_values")

    def __init__(self, codes: NDArray[np.int32], values: list[str]) -> None:
        self._index: NDArray[np.integer] = codes
        self._codes: NDArray[np.int32] | None = codes
        self._values: list[str] | None = values
        self._make: _Make = lambda: (codes, values)
        self._some: _Some | None = None
        self._texts: Callable[[], list[str]] | None = None

    @classmethod
    def later(cls, index: NDArray[np.integer], make: _Make, some: _Some | None = None) -> Encoded:
        """Return a column (n,) of which nothing is made before somebody asks: few are looked at by any sink.

        index: (n,), into the codes (k,) that `make` gives together with the values, when it is called, once.
        some: gives the strings at a few places (m,) among these codes without making all.
        """
        return cls._unmade(index, _Once(make), some)

    @classmethod
    def _unmade(
        cls,
        index: NDArray[np.integer],
        make: _Make,
        some: _Some | None,
        texts: Callable[[], list[str]] | None = None,
        codes: NDArray[np.int32] | None = None,
    ) -> Encoded:
        """Return a column as `later` does. texts: gives other values than `make`. codes: those of `index`."""
        column = cls(_NO_CODES, [])
        column._index, column._make, column._some, column._texts = index, make, some, texts
        column._codes, column._values = codes, None
        return column

    @classmethod
    def by(cls, index: NDArray[np.integer], table: NDArray[np.int32], values: list[str]) -> Encoded:
        """Return a column (n,) whose codes are `table[index]`. index: (n,), shared with other columns."""
        return cls.later(index, lambda: (table, values))

    @property
    def values(self) -> list[str]:
        """The distinct strings."""
        if self._values is None:
            self._values = self._make()[1] if self._texts is None else self._texts()
        return self._values

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes (n,), int32."""
        if self._codes is None:
            self._codes = self._make()[0][self._index]
        return self._codes

    def __len__(self) -> int:
        return len(self._index)

    def take(self, rows: NDArray[np.intp]) -> Encoded:
        """Return the column for `rows` (m,), sharing `values`."""
        if self._codes is None:
            return Encoded._unmade(self._index[rows], self._make, self._some, self._texts)
        codes = self._codes[rows]
        if self._values is None:
            return Encoded._unmade(codes, lambda: (codes, []), None, lambda: self.values, codes)
        return Encoded(codes, self._values)

    def mapped(self, change: Callable[[str], str]) -> Encoded:
        """Return the column with each text as `change` returns it, called when the texts are asked for."""
        make, some, texts = self._make, self._some, self._texts

        def changed() -> list[str]:
            return list(map(change, make()[1] if texts is None else texts()))

        def few(rows: NDArray[np.integer]) -> list[str | None]:
            return [text if text is None else change(text) for text in some(rows)] if some else []

        return Encoded._unmade(self._index, make, few if some else None, _Once(changed), self._codes)

    def check(self, size: int) -> None:
        """Raise ValueError, with a reason, if this is no column of `size` rows."""
        _check_column(self._index, size, "i")
        table, _ = self._make()
        if table is not self._index:
            _check_column(table, len(table), "i")
            _check_range("its places", self._index, 0, len(table))
        _check_texts(self.values)
        _check_range("its codes", table, ABSENT, len(self.values))

    def to_list(self) -> list[str | None]:
        """Return one Python string (or None) per row: for tests and small tables."""
        return [None if code < 0 else self.values[code] for code in self.codes.tolist()]

    def some(self, rows: NDArray[np.intp]) -> list[str | None]:
        """Return the strings of a few `rows` (m,), None where absent; others are not made, if that can be."""
        if self._codes is None and self._some is not None:
            return self._some(self._index[rows])
        return self.take(rows).to_list()

    @classmethod
    def absent(cls, size: int) -> Encoded:
        """Return a column of `size` absent values."""
        return cls(np.full(size, ABSENT, np.int32), [])

    @classmethod
    def from_list(cls, items: list[str | None]) -> Encoded:
        """Encode one string (or None) per row: scalar paths and tests."""
        values = [item for item in dict.fromkeys(items) if item is not None]
        places: dict[str | None, int] = {value: place for place, value in enumerate(values)}
        places[None] = ABSENT
        return cls(np.fromiter(map(places.__getitem__, items), np.int32, len(items)), values)


class _Once(Generic[T]):
    """What `make` returns, made when it is needed first. `functools.cache` takes ten times as long."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: T | None = None

    def __call__(self) -> T:
        if self._made is None:
            self._made = self._make()
        return self._made


def _check_column(column: object, size: int, kind: str) -> None:
    """Raise ValueError if `column` is no array (size,) whose dtype is of that kind."""
    if not isinstance(column, np.ndarray):
        raise ValueError(f"it is a {type(column).__name__}, no array")  # noqa: TRY004  # all are told alike
    if column.shape != (size,) or column.dtype.kind != kind:
        raise ValueError(f"it is {column.dtype} {column.shape}, where {_KINDS[kind]} ({size},) is due")


def _check_encoded(column: object, size: int) -> None:
    """Raise ValueError, with a reason, if `column` is no `Encoded` one of `size` rows."""
    if not isinstance(column, Encoded):
        raise ValueError(f"it is a {type(column).__name__}, not Encoded")  # noqa: TRY004  # all are told alike
    column.check(size)


def _check_range(what: str, numbers: NDArray[np.integer], low: int, end: int) -> None:
    if len(numbers) and not (int(numbers.min()) >= low and int(numbers.max()) < end):
        raise ValueError(f"{what} are not all in [{low}, {end})")


def _check_texts(values: object) -> None:
    if not isinstance(values, list) or not set(map(type, values)) <= {str}:
        raise ValueError("its values are no list of str")


_KINDS = {"i": "a signed integer", "b": "bool"}
_BASE = frozenset(
    (
        "request_first_ns",
        "queue_ns",
        "request_bytes",
        "response_bytes",
        "response_first_ns",
        "response_last_ns",
        "request_last_ns",
    )
)
_COOKIES = 1 << 64

Attribute = Encoded | np.ndarray
"""A column of transactions: `Encoded` strings, or int64 (m,) where `ABSENT` means no value."""


@dataclass(slots=True)
class Parsed:
    """What a protocol's `parse` makes of n turns: m transactions.

    rows: intp (m,), the turn that each transaction takes its stamps, bytes and connection from. A turn can
        give none (a continuation), one, or several (pipelining).
    request_text, response_text: summary of the log line, such as `HTTP Request: GET / HTTP/1.1` and
        `MySQL Response: OK`; `ABSENT` where there was no request or response, or nothing to show.
    error: bool (m,). truncated: bool (m,), something shown was cut at the payload limit.
    attributes: OpenTelemetry attribute name -> column (m,), names as in `schema.ATTRIBUTES`.
    base: replacements of base columns (m,), int64: any of request_first_ns, queue_ns, request_bytes,
        response_bytes, and response_first_ns and response_last_ns (0 without a response); for transactions
        that began in an earlier turn or share one; and request_last_ns, when one without a response ended.
    still_open: bool (m,), as in `Table`; None where the rows of kind OPEN are, and no others.
    opaque: cookies of connections whose later bytes are no longer this protocol (upgrade, TLS, compression).
    """

    rows: NDArray[np.intp]
    request_text: Encoded
    response_text: Encoded
    error: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    base: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    opaque: list[int] = field(default_factory=list)
    still_open: NDArray[np.bool_] | None = None

    def check(self, turns: int) -> None:
        """Raise ValueError, naming the column and what is wrong with it, unless this fits `turns` turns.

        A few reductions a column: what comes of a stranger's parser is as safe to use as our own's.
        """
        try:
            size = len(self.rows)
        except TypeError:
            raise ValueError("rows: it has no length") from None
        for name, check in self._checks(turns, size):
            try:
                check()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def _checks(self, turns: int, size: int) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "rows", partial(_check_rows, self.rows, size, turns)
        yield "request_text", partial(_check_encoded, self.request_text, size)
        yield "response_text", partial(_check_encoded, self.response_text, size)
        yield "error", partial(_check_column, self.error, size, "b")
        yield "truncated", partial(_check_column, self.truncated, size, "b")
        for name, column in self.attributes.items():
            kind = partial(_check_column, kind="i") if isinstance(column, np.ndarray) else _check_encoded
            yield name, partial(kind, column, size)
        for name, column in self.base.items():
            yield name, partial(_check_base, name, column, size)
        yield "opaque", partial(_check_cookies, self.opaque)
        if self.still_open is not None:
            yield "still_open", partial(_check_column, self.still_open, size, "b")


def _check_rows(rows: NDArray[np.intp], size: int, turns: int) -> None:
    _check_column(rows, size, "i")
    if size and not (int(rows.min()) >= 0 and int(rows.max()) < turns):
        raise ValueError(f"they are not all in [0, {turns})")


def _check_base(name: str, column: NDArray[np.int64], size: int) -> None:
    if name not in _BASE:
        raise ValueError("it is not among what may be replaced")
    _check_column(column, size, "i")


def _check_cookies(cookies: list[int]) -> None:
    if not isinstance(cookies, list):
        raise ValueError(f"it is a {type(cookies).__name__}, no list")  # noqa: TRY004  # all are told alike
    if not all(type(cookie) is int and 0 <= cookie < _COOKIES for cookie in cookies):
        raise ValueError("they are not all int in [0, 2^64)")


@dataclass(slots=True)
class Table:
    """m transactions of one protocol.

    start_ns: int64 (m,), Unix time of the first request byte (of the first response byte where the server
        spoke first). end_ns: int64 (m,), Unix time of the last byte.
    duration_ns: int64 (m,), first request byte to last response byte, `ABSENT` without a response.
    ttfb_ns, queue_ns: int64 (m,), `ABSENT` where unknown.
    request_bytes, response_bytes: int64 (m,).
    error, truncated: bool (m,). still_open: bool (m,), the request waits for its response: shown live,
        counted only when it ends. shown: bool (m,), the request was shown by an earlier `still_open` row.
    endpoint: int32 (m,), index into `endpoints`.
    request_text, response_text, attributes: as in `Parsed`.
    """

    protocol: str
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    ttfb_ns: NDArray[np.int64]
    queue_ns: NDArray[np.int64]
    request_bytes: NDArray[np.int64]
    response_bytes: NDArray[np.int64]
    error: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    still_open: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    endpoint: NDArray[np.int32]
    endpoints: Sequence[Endpoint]
    request_text: Encoded
    response_text: Encoded
    attributes: dict[str, Attribute]

    def __len__(self) -> int:
        return len(self.start_ns)


@dataclass(slots=True)
class Events:
    """Connection events, one row each.

    kind: uint8 (n,), `schema.Kind.CONNECT`, `CONNECT_FAILED`, `ACCEPT` or `CLOSE`.
    time_ns: int64 (n,), Unix time. duration_ns: int64 (n,): connect latency, or the life of a closed
        connection; `ABSENT` for accepts. error: int32 (n,), errno of a failed connect, 0 otherwise.
    request_bytes, response_bytes, srtt_us, retransmits: int64 (n,), totals of a closed connection, `ABSENT`
        otherwise.
    endpoint: int32 (n,), index into `endpoints`.
    """

    kind: NDArray[np.uint8]
    time_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    error: NDArray[np.int32]
    request_bytes: NDArray[np.int64]
    response_bytes: NDArray[np.int64]
    srtt_us: NDArray[np.int64]
    retransmits: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    endpoints: Sequence[Endpoint]

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def none(cls) -> Events:
        """Return no events."""
        kind, error, none = np.zeros(0, np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int64)
        return cls(kind, none, none, error, none, none, none, none, error, [])


def never_behind() -> bool:
    """Return False: where nothing is lost, however long sinks take."""
    return False


@dataclass(slots=True)
class Output:
    """One batch as sinks get it.

    tables: transactions, one table a protocol, never empty ones.
    watermark_ns: Unix time; no later batch holds a row whose line belongs before it.
    records: slots read so far. behind: tells whether the ring fills faster than it is read, now: then sinks
        should save effort, or turns will be lost. To be asked again and again.
    offset_ns: Unix time minus the clock of the stamps, in all times of the batch and in the watermark. It
        changes a little all the time, and much when somebody sets the wall clock.
    """

    tables: list[Table]
    events: Events
    watermark_ns: int
    records: int
    behind: Callable[[], bool] = never_behind
    offset_ns: int = 0
