"""Requests: command, collection and database, and what will come of them; never a value.

The command is the first field of the body; the database, `$db`, may be anywhere behind it, also beyond what
was captured. No text is looked at but these three, and the collection only where it can't be anything else:
the first value of createUser is a user.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from masdeepflow.columns import Memo
from masdeepflow.keys import key_pattern
from masdeepflow.protocols.mongodb.bodies import FIELDS, FORCED, Bodies, Texts
from masdeepflow.protocols.mongodb.commands import COMMANDS, OF_COLLECTIONS
from masdeepflow.recall import renumber

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mongodb.documents import Bytes
    from masdeepflow.protocols.mongodb.wire import Frames

__all__ = ["HIDDEN", "Request", "RequestReader", "Requests", "distinct"]

_LABEL, _ELLIPSIS = "MongoDB Command: ", "…"
_NAME_MOST = 40  # bytes that the names of all commands fit in
_NEAR = 32  # bytes that most names of collections and databases fit in
_FEW = 1 << 19

_BIT = {name: 1 << place for place, name in enumerate(FIELDS)}
_BLOCKS = dict.fromkeys(
    ("hello", "isMaster", "ismaster"), _BIT[b"topologyVersion"] | _BIT[b"maxAwaitTimeMS"]
) | {"getMore": _BIT[b"maxTimeMS"]}
"""Commands that wait for something to happen, by design, if they have all these fields."""
_OPENS = {"find": _BIT[b"tailable"] | _BIT[b"awaitData"], "aggregate": _BIT[b"pipeline"]}
"""Commands whose cursor waits for what comes if they have all these fields."""
_SILENT, _BLOCKING, _CUT, _SOUND, _OPENING, _NO_COLLECTION, _NO_NAMESPACE = (1 << place for place in range(7))
_MARKS = 7  # bits

T = TypeVar("T")


class Request(NamedTuple):
    """What a request shows.

    text: the summary. operation, collection, namespace (the database): None where it has none or it was not
    captured. silent: no reply will come. blocking: it waits by design. truncated: what it shows was cut.
    sound: all that there is of it fits. opens: its cursor waits for what comes. number: the request id, None
    where it is not told.
    """

    text: str | None = None
    operation: str | None = None
    collection: str | None = None
    namespace: str | None = None
    silent: bool = False
    blocking: bool = False
    truncated: bool = False
    sound: bool = False
    opens: bool = False
    number: int | None = None


HIDDEN = Request(truncated=True)
"""Stands for a request that was not captured."""


class Requests(NamedTuple):
    """Requests (m,) of n sides of turns: codes (m,), and the values they index.

    cursor: int64 (m,), the number in the first field, which is the cursor of a getMore, 0 elsewhere.
    """

    frames: Frames
    codes: NDArray[np.int32]
    values: list[Request]
    cursor: NDArray[np.int64]


class _Name(NamedTuple):
    """A command's name: as shown, and as an operation, None where it is not known."""

    shown: str
    operation: str | None


_FORCED = [_Name(*names) for names in FORCED]


def _read_name(data: bytes) -> _Name:
    name = data.decode("latin-1")
    if name in COMMANDS:
        return _Name(name, name)
    return _Name(key_pattern(data, cut=len(data) > _NAME_MOST) if data else "", None)


def _read_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@functools.lru_cache(4096)
def _request(name: _Name, collection: str, namespace: str, marks: int) -> Request:
    cut = marks & (_NO_COLLECTION | _NO_NAMESPACE)
    target = ".".join(filter(None, (namespace, collection))) + _ELLIPSIS * bool(cut)
    return Request(
        f"{_LABEL}{name.shown or _ELLIPSIS} {target}".rstrip(),
        name.operation,
        None if marks & _NO_COLLECTION else collection or None,
        None if marks & _NO_NAMESPACE else namespace or None,
        silent=bool(marks & _SILENT),
        blocking=bool(marks & _BLOCKING),
        truncated=bool(marks & _CUT or cut or not name.shown),
        sound=bool(marks & _SOUND),
        opens=bool(marks & _OPENING),
    )


def distinct(keys: NDArray[np.int64], size: int) -> tuple[NDArray[np.int32], list[int]]:
    """Return codes (m,) of keys (m,) in [0, size), and the distinct keys that they index."""
    if size <= _FEW:
        return renumber(keys, size)
    found, codes = np.unique(keys, return_inverse=True)
    return codes.astype(np.int32), found.tolist()


class RequestReader:
    """Reads requests, each distinct name once."""

    def __init__(self) -> None:
        self._names, self._texts = Memo(_read_name), Memo(_read_text)

    def read(self, frames: Frames) -> Requests:
        """Return what messages (m,) ask for."""
        bodies = Bodies(frames)
        np.minimum(bodies.name.length, _NAME_MOST + 1, out=bodies.name.length)
        name, names = _encode(self._names, bodies.data, bodies.name)
        name = np.where(bodies.forced < 0, name, len(names) + bodies.forced)
        names = [*names, *_FORCED]
        self._choose_collections(bodies, name, names)
        collection, collections = _encode(self._texts, bodies.data, bodies.collection)
        namespace, namespaces = _encode(self._texts, bodies.data, bodies.namespace)
        keys = (name * len(collections) + collection) * len(namespaces) + namespace
        keys = (keys << _MARKS) + _marks(bodies, name, names)
        codes, present = distinct(keys, len(names) * len(collections) * len(namespaces) << _MARKS)
        values = []
        for key in present:
            which, place = divmod(key >> _MARKS, len(namespaces))
            first, second = divmod(which, len(collections))
            marks = key & ((1 << _MARKS) - 1)
            values.append(_request(names[first], collections[second], namespaces[place], marks))
        return Requests(frames, codes, values, bodies.cursor)

    @staticmethod
    def _choose_collections(bodies: Bodies, name: NDArray[np.int64], names: list[_Name]) -> None:
        """Leave only those names of collections that are some."""
        takes = np.array([one.operation in OF_COLLECTIONS for one in names], bool)[name]
        asks = np.array([one.operation == "getMore" for one in names], bool)[name]
        chosen, other = bodies.collection, bodies.field
        chosen.length[~takes], chosen.cut[~takes] = 0, False
        rows = np.flatnonzero(asks & (other.at > 0))
        chosen.put(rows, other.at[rows], other.length[rows])
        chosen.cut[rows] = other.cut[rows]


def _encode(memo: Memo[T], data: Bytes, texts: Texts) -> tuple[NDArray[np.int64], list[T]]:
    """Return codes (m,) and values of texts (m,)."""
    codes = np.zeros(len(texts.at), np.int64)
    values: list[T] = []
    near = texts.length <= _NEAR
    for rows in (np.flatnonzero(near), np.flatnonzero(~near)):
        if len(rows):
            lengths = texts.length[rows]
            found, read = memo.encode(data.texts(texts.at[rows], lengths), lengths)
            codes[rows] = found + len(values)
            values += read
    return codes, values


def _has(
    wanted: dict[str, int], seen: NDArray[np.int64], name: NDArray[np.int64], names: list[_Name]
) -> NDArray[np.bool_]:
    """Return which messages (m,) have all fields that are wanted of their command."""
    need = np.array([wanted.get(one.operation or "", 0) for one in names], np.int64)[name]
    has: NDArray[np.bool_] = (need > 0) & (seen & need == need)
    return has


def _marks(bodies: Bodies, name: NDArray[np.int64], names: list[_Name]) -> NDArray[np.int64]:
    marks = np.zeros(len(name), np.int64)
    nameless = bodies.namespace.length == 0
    for mark, chosen in (
        (_SILENT, bodies.silent),
        (_BLOCKING, _has(_BLOCKS, bodies.seen, name, names)),
        (_CUT, bodies.cut & nameless),
        (_SOUND, bodies.sound),
        (_OPENING, _has(_OPENS, bodies.seen, name, names)),
        (_NO_COLLECTION, bodies.collection.cut),
        (_NO_NAMESPACE, bodies.namespace.cut),
    ):
        marks[chosen] |= mark
    return marks
