"""`mongodb`: CPU time of the pipeline for each record of traffic to MongoDB, both ends watched.

No message is like another: ids, documents and filters are random, only collections repeat. Commands are
laid out as pymongo does it, sessions included; those of a replica set carry its time, too. For the rest see
`stages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson

from bench.key_value import measure_exchanges
from tests.fuzz.fuzz_mongodb import asks, sequence, tells

if TYPE_CHECKING:
    import random

    from bench.key_value import Workload
    from bench.plan import Plan
    from bench.report import Outcome

__all__ = ["measure"]

_COLLECTIONS = [
    f"{noun}{suffix}" for noun in ("user", "order", "item", "event") for suffix in ("s", "_log", "s.old")
]
_SESSIONS = 32
_IDS = 1 << 31
_ERRORS = 0.02


def _command(dice: random.Random, name: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  # any document
    session = {"id": bson.Binary(bytes([dice.randrange(_SESSIONS)]) * 16, 4)}
    return {name: dice.choice(_COLLECTIONS), **fields, "lsid": session, "$db": "shop"}


def _document(dice: random.Random) -> dict[str, Any]:
    word = f"{dice.getrandbits(4 * dice.randrange(1, 24)):x}"
    return {
        "_id": bson.ObjectId(dice.randbytes(12)),
        "email": f"{word}@example.org",
        "age": dice.randrange(99),
    }


def _exchange(
    dice: random.Random, command: dict[str, Any], reply: dict[str, Any], behind: bytes = b""
) -> tuple[bytes, bytes]:
    number = dice.randrange(_IDS)
    return asks(command, number=number, behind=behind), tells(
        reply, number=dice.randrange(_IDS), answers=number
    )


def _found(dice: random.Random, count: int) -> dict[str, Any]:
    batch = [_document(dice) for _ in range(count)]
    return {"cursor": {"firstBatch": batch, "id": bson.Int64(0), "ns": "shop.users"}, "ok": 1.0}


def _find(dice: random.Random) -> tuple[bytes, bytes]:
    wanted = {"email": _document(dice)["email"]}
    command = _command(dice, "find", filter=wanted, limit=1, singleBatch=True)
    return _exchange(dice, command, _found(dice, dice.randrange(2)))


def _insert(dice: random.Random) -> tuple[bytes, bytes]:
    documents = sequence("documents", *(_document(dice) for _ in range(dice.randrange(1, 4))))
    reply: dict[str, Any] = {"n": 1, "ok": 1.0}
    if dice.random() < _ERRORS:
        error = {
            "index": 0,
            "code": 11000,
            "keyValue": _document(dice),
            "errmsg": "E11000 duplicate key error",
        }
        reply = {"n": 0, "writeErrors": [error], "ok": 1.0}
    return _exchange(dice, _command(dice, "insert", ordered=True), reply, documents)


def _update(dice: random.Random) -> tuple[bytes, bytes]:
    updates = sequence("updates", {"q": {"_id": dice.randrange(_IDS)}, "u": {"$set": _document(dice)}})
    return _exchange(
        dice, _command(dice, "update", ordered=True), {"n": 1, "nModified": 1, "ok": 1.0}, updates
    )


def _more(dice: random.Random) -> tuple[bytes, bytes]:
    cursor = bson.Int64(dice.getrandbits(62))
    command = {**_command(dice, "getMore", batchSize=100), "getMore": cursor, "collection": "users"}
    return _exchange(dice, command, _found(dice, 20))


def _mixed(dice: random.Random) -> tuple[bytes, bytes]:
    return dice.choices([_find, _insert, _update, _more], [5, 2, 2, 1])[0](dice)


def _replicated(dice: random.Random) -> tuple[bytes, bytes]:
    """Return a find or an update of a member of a replica set."""
    now = bson.Timestamp(dice.randrange(_IDS), 1)
    time = {"clusterTime": now, "signature": {"hash": dice.randbytes(20), "keyId": bson.Int64(7)}}
    wanted = {"_id": bson.ObjectId(dice.randbytes(12))}
    if dice.random() < 0.5:
        command, reply = _command(dice, "find", filter=wanted), _found(dice, 1)
    else:
        command = _command(dice, "update", updates=[{"q": wanted, "u": {"$inc": {"n": 1}}}])
        reply = {
            "n": 1,
            "electionId": bson.ObjectId(bytes(12)),
            "opTime": {"ts": now, "t": 1},
            "nModified": 1,
            "ok": 1.0,
        }
    clock = {"$clusterTime": time, "operationTime": now}
    return _exchange(dice, {**command, "$clusterTime": time}, reply | clock)


_WORKLOADS: dict[str, Workload] = {
    "find": ("mongodb", 27017, 1, _find),
    "insert": ("mongodb", 27017, 1, _insert),
    "mixed": ("mongodb", 27017, 1, _mixed),
    "replica set": ("mongodb", 27017, 1, _replicated),
}


def measure(plan: Plan) -> Outcome:
    """Measure all workloads."""
    return measure_exchanges("mongodb", _WORKLOADS, plan)
