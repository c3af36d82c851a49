"""What a command and a reply say, without the user's data: names, key patterns, error codes.

Source: Redis command reference (https://redis.io/docs/latest/commands/), as `COMMAND` of Redis 7 prints
it, and the newer commands of Redis 8 and Valkey.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from masdeepflow.keys import VARIABLE, key_pattern
from masdeepflow.protocols.redis.resp import read_arguments
from masdeepflow.redact import redact_message

__all__ = [
    "HIDDEN_COMMAND",
    "HIDDEN_REPLY",
    "NIL",
    "OK",
    "PUBSUB",
    "PUSH",
    "Command",
    "Reply",
    "are_commands",
    "read_command",
    "read_reply",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMES = _words("""
ACL APPEND ASKING AUTH BGREWRITEAOF BGSAVE BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS BLMOVE BLMPOP BLPOP
BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN CLIENT CLUSTER COMMAND COMMANDLOG CONFIG COPY DBSIZE DEBUG DECR
DECRBY DEL DELEX DELIFEQ DIGEST DISCARD DUMP ECHO EVAL EVALSHA EVALSHA_RO EVAL_RO EXEC EXISTS EXPIRE
EXPIREAT EXPIRETIME FAILOVER FCALL FCALL_RO FLUSHALL FLUSHDB FUNCTION GEOADD GEODIST GEOHASH GEOPOS
GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE GET GETBIT GETDEL
GETEX GETRANGE GETSET HDEL HELLO HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HINCRBY
HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET
HSETEX HSETNX HSTRLEN HTTL HVALS INCR INCRBY INCRBYFLOAT INFO KEYS LASTSAVE LATENCY LCS LINDEX LINSERT LLEN
LMOVE LMPOP LOLWUT LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM MEMORY MGET MIGRATE MODULE MONITOR MOVE
MSET MSETEX MSETNX MULTI OBJECT PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PFADD PFCOUNT PFDEBUG PFMERGE
PFSELFTEST PING PSETEX PSUBSCRIBE PSYNC PTTL PUBLISH PUBSUB PUNSUBSCRIBE QUIT RANDOMKEY READONLY READWRITE
RENAME RENAMENX REPLCONF REPLICAOF RESET RESTORE RESTORE-ASKING ROLE RPOP RPOPLPUSH RPUSH RPUSHX SADD SAVE
SCAN SCARD SCRIPT SDIFF SDIFFSTORE SELECT SENTINEL SET SETBIT SETEX SETNX SETRANGE SHUTDOWN SINTER
SINTERCARD SINTERSTORE SISMEMBER SLAVEOF SLOWLOG SMEMBERS SMISMEMBER SMOVE SORT SORT_RO SPOP SPUBLISH
SRANDMEMBER SREM SSCAN SSUBSCRIBE STRLEN SUBSCRIBE SUBSTR SUNION SUNIONSTORE SUNSUBSCRIBE SWAPDB SYNC TIME
TOUCH TTL TYPE UNLINK UNSUBSCRIBE UNWATCH VADD VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER
VRANGE VREM VSETATTR VSIM WAIT WAITAOF WATCH XACK XACKDEL XADD XAUTOCLAIM XCLAIM XDEL XDELEX XGROUP XINFO
XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID XTRIM ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY
ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX
ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE
ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE
""")
_MODULE = re.compile(r"(?:BF|CF|CMS|FT|GRAPH|JSON|TDIGEST|TOPK|TS)\.[A-Z]{2,20}\Z")
_SUBCOMMANDS = _words("""
ADDSLOTS ADDSLOTSRANGE BUMPEPOCH CACHING CAPA CAT CHANNELS CKQUORUM CONSUMERS COUNT COUNT-FAILURE-REPORTS
COUNTKEYSINSLOT CREATE CREATECONSUMER DEBUG DELCONSUMER DELETE DELSLOTS DELSLOTSRANGE DELUSER DESTROY DOCS
DOCTOR DRYRUN DUMP ENCODING EXISTS FAILOVER FLUSH FLUSHSLOTS FORGET FREQ GENPASS GET GET-MASTER-ADDR-BY-NAME
GETKEYS GETKEYSANDFLAGS GETKEYSINSLOT GETNAME GETREDIR GETUSER GRAPH GROUPS HELP HISTOGRAM HISTORY ID
IDLETIME IMPORT-SOURCE INFO KEYSLOT KILL LATEST LEN LINKS LIST LOAD LOADEX LOG MAINT_NOTIFICATIONS
MALLOC-STATS MASTER MASTERS MEET MONITOR MYID MYSHARDID NO-EVICT NO-TOUCH NODES NUMPAT NUMSUB PAUSE PURGE
REFCOUNT REPLICAS REPLICATE REPLY RESET RESETSTAT RESTORE REWRITE SAVE SAVECONFIG SENTINELS SET
SET-CONFIG-EPOCH SETID SETINFO SETNAME SETSLOT SETUSER SHARDCHANNELS SHARDNUMSUB SHARDS SLAVES SLOT-STATS
SLOTS STATS STREAM TRACKING TRACKINGINFO UNBLOCK UNLOAD UNPAUSE USAGE USERS WHOAMI
""")
_CONTAINERS = _words("""
ACL CLIENT CLUSTER COMMAND COMMANDLOG CONFIG DEBUG FUNCTION LATENCY MEMORY MODULE OBJECT PUBSUB SCRIPT
SENTINEL SLOWLOG XGROUP XINFO
""")
_NO_KEY = _words("""
AUTH ECHO FAILOVER FLUSHALL FLUSHDB HELLO INFO LOLWUT PING PSYNC REPLCONF REPLICAOF SCAN SELECT SHUTDOWN
SLAVEOF SWAPDB SYNC WAIT WAITAOF
""")
_STREAMS = {"XREAD", "XREADGROUP"}
_NUMBERED = dict.fromkeys(("EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO"), 3)
_KEY_AT = {
    **_NUMBERED,
    **dict.fromkeys(("BLMPOP", "BZMPOP", "MIGRATE"), 3),
    **dict.fromkeys(
        ("BITOP", "LMPOP", "MEMORY", "MSETEX", "OBJECT", "PFDEBUG", "SINTERCARD", "XGROUP", "XINFO"), 2
    ),
    **dict.fromkeys(("ZDIFF", "ZINTER", "ZINTERCARD", "ZMPOP", "ZUNION"), 2),
}
"""Where the first key is if it is not the first argument."""
_BLOCKING = _words("BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF")
_FOLLOWED = _words("""
CLIENT DISCARD EXEC MONITOR PSUBSCRIBE PSYNC PUNSUBSCRIBE RESET SELECT SHUTDOWN SSUBSCRIBE SUBSCRIBE
SUNSUBSCRIBE SYNC UNSUBSCRIBE
""")
"""Commands that change what comes on their connection, or what it means."""
_ARGUMENT_MOST = 16  # bytes of an argument that a session looks at

_LABEL, _ANSWER = "Redis Command: ", "Redis Response: "
_ELLIPSIS = "…"
_STATUSES = {"OK", "PONG", "QUEUED", "RESET"}
_CODE = re.compile(r"([A-Z][A-Z0-9_]{1,23})(?: +|\Z)")
_ARGUMENTS = ", with args beginning with:"


class Command(NamedTuple):
    """A command as it is shown.

    name: its first word, in capitals, if it is known. arguments: the next ones, for a session. followed: it
    has to be looked at in the order of its connection. whole: what was read is enough to show its key.
    blocking: `true` if it waits as long as it was asked to.
    """

    text: str | None = None
    query: str | None = None
    operation: str | None = None
    name: str = ""
    arguments: tuple[bytes, ...] = ()
    followed: bool = False
    whole: bool = True
    blocking: str | None = None
    truncated: bool = False


class Reply(NamedTuple):
    """A reply as it is shown. word: first element of a push, or of an array that may be one.

    status: a simple string that tells what happened. push: it answers nothing.
    """

    text: str | None = None
    error: bool = False
    code: str | None = None
    message: str | None = None
    word: bytes = b""
    status: str = ""
    push: bool = False
    truncated: bool = False


HIDDEN_COMMAND = Command(truncated=True)
"""Beyond what was captured."""
HIDDEN_REPLY = Reply(truncated=True)
"""Beyond what was captured."""
OK = Reply(_ANSWER + "OK")
"""Anything that is no error: values are not shown."""
NIL = Reply(_ANSWER + "(nil)")
"""What was asked for does not exist."""

PUSH = Reply(push=True)
"""A message that was not asked for."""
PUBSUB = frozenset(
    word.encode()
    for word in _words("""
message pmessage smessage subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe
""")
)
"""First elements of what pub/sub sends; RESP2 has no type of its own for it."""


def read_command(data: bytes, *, complete: bool = False) -> Command:
    """Return the command that `data` starts with.

    complete: `data` is all that was captured of it; else only its first argument may be there.
    """
    arguments, cut = read_arguments(data)
    if not arguments or (cut and len(arguments) == 1):
        return Command(_LABEL + _ELLIPSIS, truncated=True, followed=data.startswith(b"*0"))
    count = _count(data, arguments)
    name = arguments[0].decode("latin-1").upper()
    if name not in _NAMES and not _MODULE.match(name):
        # A line that is no command may be the rest of a value.
        shown = key_pattern(arguments[0]) if data.startswith(b"*") else VARIABLE
        return Command(_LABEL + shown, shown)
    whole = complete or not (name in _STREAMS or name in _KEY_AT or name in _FOLLOWED)
    operation = _operation(name, arguments)
    key = _key(name, arguments, count, cut=cut) if whole else ""
    query = f"{operation} {key}" if key else operation
    followed = name in _FOLLOWED and (name != "CLIENT" or operation == "CLIENT REPLY")
    blocking = name in _BLOCKING or operation.endswith(" BLOCK")
    return Command(
        _LABEL + query,
        query,
        operation,
        name,
        tuple(argument[:_ARGUMENT_MOST] for argument in arguments[1:3]) if followed else (),
        followed,
        whole,
        "true" if blocking else None,
        key.endswith(_ELLIPSIS),
    )


def are_commands(data: bytes) -> bool:
    """Return whether all lines of `data` begin with a command's name, or its start where they are cut."""
    *lines, rest = data.upper().split(b"\n")
    names = [line.split(maxsplit=1)[0].decode("latin-1") for line in lines if line.strip()]
    if not all(name in _NAMES or _MODULE.match(name) for name in names):
        return False
    name, space, _ = rest.decode("latin-1").partition(" ")
    return name in _NAMES if space else any(known.startswith(name.strip()) for known in _NAMES)


def _count(data: bytes, arguments: list[bytes]) -> int:
    """Return how many arguments there are, captured or not."""
    return int(data[1 : data.index(b"\r")]) if data.startswith(b"*") else len(arguments)


def _operation(name: str, arguments: list[bytes]) -> str:
    """Return the name, with the word that makes a difference: a subcommand, or BLOCK."""
    if name in _CONTAINERS and len(arguments) > 1:
        word = arguments[1].decode("latin-1").upper()
        return f"{name} {word}" if word in _SUBCOMMANDS else name
    if name in _STREAMS and b"BLOCK" in (word.upper() for word in _options(arguments)):
        return f"{name} BLOCK"
    return name


def _options(arguments: list[bytes]) -> list[bytes]:
    """Return what stands before STREAMS."""
    words = [argument.upper() for argument in arguments]
    return arguments[: words.index(b"STREAMS")] if b"STREAMS" in words else arguments


def _key(name: str, arguments: list[bytes], count: int, *, cut: bool) -> str:
    """Return the pattern of the first key, an ellipsis if it was not captured, nothing if there is none."""
    place = _place(name, arguments)
    if place == 0 or place >= count:
        return ""
    if place >= len(arguments):
        return _ELLIPSIS
    return key_pattern(arguments[place], cut=cut and place == len(arguments) - 1)


def _place(name: str, arguments: list[bytes]) -> int:
    if name in _STREAMS:
        return len(_options(arguments)) + 1
    if name in _NUMBERED and arguments[2:3] == [b"0"]:
        return 0
    if name in _CONTAINERS and name not in _KEY_AT:
        return 0
    return 0 if name in _NO_KEY else _KEY_AT.get(name, 1)


def read_reply(data: bytes) -> Reply:
    """Return the reply that `data` starts with; of a long one the first line is enough."""
    line, _, rest = data.partition(b"\r\n")
    kind = line[:1]
    if kind == b"-":
        return _error(line[1:], cut=len(line) == len(data))
    if kind == b"!":
        return _error(rest.partition(b"\r\n")[0], cut=b"\r\n" not in rest)
    if kind == b"_" or (line[1:2] == b"-" and kind in {b"$", b"*"}):
        return NIL
    if kind == b"+":
        status = line[1:].decode("latin-1")
        return Reply(_ANSWER + status, status=status) if status in _STATUSES - {"OK"} else OK
    if kind in {b"*", b">"}:
        arguments, _ = read_arguments(b"*" + data[1:])
        word = arguments[0].lower()[:_ARGUMENT_MOST] if arguments else b""
        return (PUSH if kind == b">" else OK)._replace(word=word)
    return OK


def _error(line: bytes, *, cut: bool) -> Reply:
    """Return an error; what it quotes is the user's."""
    text = line.decode("utf-8", "surrogateescape")
    found = _CODE.match(text)
    code, message = (found[1], text[found.end() :]) if found else (None, text)
    message = redact_message(message.partition(_ARGUMENTS)[0] + _ELLIPSIS * cut)
    shown = f"{code} {message}".rstrip() if code else message
    return Reply(f"{_ANSWER}(error) {shown}", True, code, message or None, truncated=cut)  # noqa: FBT003  # error
