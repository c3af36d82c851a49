"""`key_value`: CPU time of the pipeline for each record of traffic to Redis and Memcached.

Keys are random unless said otherwise, so hardly a record is like another. A record of a pipeline is 16
transactions: what is measured is given for each of these, too. For the rest see `stages`.
"""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

from bench.report import Detail, Goal, Outcome, Row
from bench.stages import protocol_costs
from masdeepflow.schema import Role
from tests.fuzz.fuzz_memcached import packet
from tests.fuzz.fuzz_redis import command
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan

    Exchange = Callable[[random.Random], tuple[bytes, bytes]]
    Workload = tuple[str, int, int, Exchange]

__all__ = ["measure", "measure_exchanges"]

_RECORDS = 16384
_CONNECTIONS = 16
_BATCH = 8000
_KEYS = 1_000_000
_PIPELINED = 16
_HASHES = 1 << 64
_STAGES = ("recognise (new connections)", "parse", "pipeline", "metrics")


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


def _get(dice: random.Random) -> tuple[bytes, bytes]:
    return command(b"GET", b"user:%d:profile" % dice.randrange(_KEYS)), _bulk(dice.randbytes(20))


def _known_get(dice: random.Random) -> tuple[bytes, bytes]:
    return command(b"GET", b"user:%d:profile" % dice.randrange(200)), _bulk(b"a value")


def _uuid_get(dice: random.Random) -> tuple[bytes, bytes]:
    key = str(uuid.UUID(int=dice.getrandbits(128))).encode()
    return command(b"GET", b"session:" + key), _bulk(dice.randbytes(20))


def _mixed(dice: random.Random) -> tuple[bytes, bytes]:
    key = b"%d" % dice.randrange(_KEYS)
    return dice.choice(
        [
            (command(b"HGETALL", b"user:" + key), b"*4\r\n" + 4 * _bulk(b"ab")),
            (command(b"INCR", b"count:" + key), b":%s\r\n" % key),
            (command(b"ZADD", b"board:" + key, key, b"member"), b":1\r\n"),
            (command(b"SET", b"page:" + key, dice.randbytes(dice.randrange(400)), b"EX", b"60"), b"+OK\r\n"),
            (command(b"GET", b"page:" + key), b"$-1\r\n"),
            (command(b"LPUSH", b"queue:7", dice.randbytes(30)), b":%s\r\n" % key),
        ]
    )


def _pipeline(dice: random.Random) -> tuple[bytes, bytes]:
    keys = [b"key:%012d" % dice.randrange(_KEYS) for _ in range(_PIPELINED)]
    return b"".join(command(b"SET", key, b"VXK") for key in keys), b"+OK\r\n" * _PIPELINED


def _memcached_get(dice: random.Random) -> tuple[bytes, bytes]:
    key = b"user:%d" % dice.randrange(_KEYS)
    hit = b"VALUE %s 0 5\r\nhello\r\nEND\r\n" % key
    return b"get %s\r\n" % key, hit if dice.random() < 0.8 else b"END\r\n"  # hits


def _memcached_set(dice: random.Random) -> tuple[bytes, bytes]:
    size = dice.randrange(300)
    head = b"set user:%d 0 60 %d\r\n" % (dice.randrange(_KEYS), size)
    return head + dice.randbytes(size) + b"\r\n", b"STORED\r\n"


def _memcached_binary(dice: random.Random) -> tuple[bytes, bytes]:
    return packet(0x80, 0, b"user:%d" % dice.randrange(_KEYS)), packet(0x81, 0, extras=bytes(4))


def _inbox(dice: random.Random) -> bytes:
    """Return what nats-py calls the place for one reply: it never repeats."""
    return b"_INBOX.PgfPh2PB8mEiS44JYfm6z4.PgfPh2PB8mEiS44JYfm%x" % dice.randrange(1 << 40)


def _nats_request(dice: random.Random) -> tuple[bytes, bytes]:
    inbox, asked, told = _inbox(dice), dice.randbytes(dice.randrange(100)), dice.randbytes(dice.randrange(40))
    request = b"PUB user.%d.get %s %d\r\n%s\r\n" % (dice.randrange(_KEYS), inbox, len(asked), asked)
    return request, b"MSG %s 1 %d\r\n%s\r\n" % (inbox, len(told), told)


def _nats_service(dice: random.Random) -> tuple[bytes, bytes]:
    """Return the answer to one request, and the next request, which comes to a service as a message."""
    answer = b"PUB %s  5\r\nhello\r\n" % _inbox(dice)
    return answer, b"MSG user.%d.get 1 %s 2\r\nhi\r\n" % (dice.randrange(_KEYS), _inbox(dice))


_WORKLOADS: dict[str, Workload] = {
    "redis, 200 keys": ("redis", 6379, 1, _known_get),
    "redis, GET": ("redis", 6379, 1, _get),
    "redis, GET of UUIDs": ("redis", 6379, 1, _uuid_get),
    "redis, mixed": ("redis", 6379, 1, _mixed),
    "redis, SET by 16": ("redis", 6379, _PIPELINED, _pipeline),
    "memcached, get": ("memcached", 11211, 1, _memcached_get),
    "memcached, set": ("memcached", 11211, 1, _memcached_set),
    "memcached, binary get": ("memcached", 11211, 1, _memcached_binary),
    "nats, request": ("nats", 4222, 1, _nats_request),
    "nats, service": ("nats", 4222, 1, _nats_service),
}


def _turns(port: int, exchange: Exchange) -> Iterator[dict[str, object]]:
    """Yield both ends of each exchange, on a client's and a server's connection."""
    dice = random.Random(1)  # noqa: S311  # not for secrets
    for pair in range(_RECORDS // 2):
        connection = pair % _CONNECTIONS
        request, response = exchange(dice)
        for server in range(2):
            ports = (port, 40000 + connection) if server else (40000 + connection, port)
            yield turn(
                request,
                response,
                request_hash=hash(request) % _HASHES | 1,
                response_hash=hash(response) % _HASHES | 1,
                cookie=1 + 2 * connection + server,
                pid=200 if server else 100,
                comm=b"server" if server else b"client",
                role=Role.SERVER if server else Role.CLIENT,
                local_port=ports[0],
                remote_port=ports[1],
                service=1 + server,
                turn=1 + pair // _CONNECTIONS,
            )


def _costs(workload: Workload, rounds: int) -> list[float]:
    """Return the cost of each of `_STAGES`."""
    protocol, port, _, exchange = workload
    return protocol_costs(protocol, make_slots(*_turns(port, exchange)), _BATCH, rounds)


def measure(plan: Plan) -> Outcome:
    """Measure all workloads."""
    return measure_exchanges("key_value", _WORKLOADS, plan)


def measure_exchanges(title: str, workloads: dict[str, Workload], plan: Plan) -> Outcome:
    """Measure workloads by name: the protocol, its port, transactions a record, and what makes exchanges."""
    costs = {name: _costs(workload, plan.rounds) for name, workload in workloads.items()}
    detail = Detail(
        f"{title}: CPU time in ns a record",
        list(costs),
        [(stage, [costs[name][place] for name in costs]) for place, stage in enumerate(_STAGES)],
    )
    rows = []
    for name, found in costs.items():
        transactions = workloads[name][2]
        cost = sum(found[2:]) / 1e3 / transactions
        rows.append(Row(title, f"pipeline and metrics: {name}", cost, "µs/transaction", Goal(2)))
    return Outcome(rows, [detail])
