"""Turns that are no protocol's, or not the one's that they look like: to count mistakes of recognition."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.recording import Recording
from masdeepflow.schema import Kind, Transport
from tests.support.slots import DTYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from masdeepflow.protocols.registry import Registry

__all__ = ["KINDS", "Noise", "Real", "mistakes", "real_turns"]

_GOLDEN = Path(__file__).resolve().parent.parent / "golden"
_NOBODYS = ""
_SIDES = ("request", "response")
_HEAD_MOST = 4
"""Bytes of a real head in front of noise: more of them tell what it is."""
_CHANGES_MOST = 16
_BYTES_MOST = 4096
_WORDS = b"GET SET get set STORED VALUE END HTTP/1.1 OK +OK -ERR $5 *2 :1 SELECT PING 0 42 user:1".split()
_PRINTABLE = np.frombuffer(bytes(range(0x20, 0x7F)) + b"\r\n" * 8, np.uint8)
_UDP_SHARE = 4  # one in so many
_CUT_SHARE = 0.1


class Real(NamedTuple):
    """Turns (n,) of golden captures, and the protocol (n,) of each as an index into `names`."""

    slots: np.ndarray
    protocol: NDArray[np.int64]
    names: list[str]


class Noise(NamedTuple):
    """Turns (n,), and the protocols (n, 2), indices into `Real.names`, that are no mistake in them."""

    slots: np.ndarray
    allowed: NDArray[np.int64]


def mistakes(known: Registry, real: Real, noise: Noise) -> tuple[Counter[str], int]:
    """Return how many turns were recognised by mistake, by protocol, and how many decided a connection."""
    chosen, sticky = known.choose(noise.slots)
    names = np.array([known.name(number) for number in range(known.unrecognised + 1)])
    allowed = np.array(real.names)[noise.allowed]
    found = names[chosen]
    wrong = (chosen != known.unrecognised) & (found[:, None] != allowed).all(axis=1)
    return Counter(found[wrong].tolist()), int(sticky[wrong].sum())


def real_turns() -> Real:
    """Return the turns of all golden captures. What nobody should recognise (TLS, noise) has the name ""."""
    protocols = sorted(path.name for path in _GOLDEN.iterdir() if any(path.glob("*.rec")))
    names = [_NOBODYS, *protocols]
    slots, numbers = [], []
    for path in sorted(_GOLDEN.glob("*/*.rec")):
        spoken, on, _ = path.stem.partition("-on-")
        name = path.parent.name if not on else spoken if spoken in protocols else _NOBODYS
        for turns in _turns(path):
            slots.append(turns)
            numbers.append(np.full(len(turns), names.index(name)))
    return Real(np.concatenate(slots), np.concatenate(numbers), names)


def _turns(path: Path) -> Iterator[np.ndarray]:
    for frame in Recording(path).frames():
        kinds = frame.slots["kind"]
        turns = np.zeros(int(((kinds == Kind.TURN) | (kinds == Kind.DATAGRAM)).sum()), DTYPE)
        turns[:] = frame.slots[(kinds == Kind.TURN) | (kinds == Kind.DATAGRAM)]
        yield turns


def _blank(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Return copies of real turns, each on a connection of its own, and what they are."""
    rows = random.integers(0, len(real.slots), count)
    own, slots = real.protocol[rows], real.slots[rows]
    slots["cookie"] = np.arange(1, count + 1)
    return Noise(slots, np.stack([own, own], axis=1))


def _fill(slots: np.ndarray, side: str, payload: NDArray[np.uint8], random: np.random.Generator) -> None:
    """Make `payload` (n, w) that of one side, of random lengths up to w; some go on beyond the prefix."""
    count, room = payload.shape
    lengths = random.integers(0, room + 1, count)
    slots[side] = payload
    slots[f"{side}_length"] = lengths
    longer = (lengths == room) | (random.random(count) < _CUT_SHARE)
    slots[f"{side}_bytes"] = lengths + np.where(longer, random.integers(0, _BYTES_MOST, count), 0)


def _as_noise(noise: Noise, random: np.random.Generator) -> Noise:
    """Leave nothing of what the turns were; some are datagrams."""
    slots = noise.slots
    udp = random.integers(0, _UDP_SHARE, len(slots)) == 0
    slots["kind"] = np.where(udp, Kind.DATAGRAM, Kind.TURN)
    slots["transport"] = np.where(udp, Transport.UDP, Transport.TCP)
    slots["response_bytes"][udp] = 0
    slots["response_length"][udp] = 0
    return Noise(slots, np.zeros_like(noise.allowed))


def _random(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Uniform bytes."""
    noise = _blank(real, count, random)
    for side in _SIDES:
        payload = random.integers(0, 256, noise.slots[side].shape, np.uint8)
        _fill(noise.slots, side, payload, random)
    return _as_noise(noise, random)


def _headed(real: Real, count: int, random: np.random.Generator) -> Noise:
    """The first bytes of real messages, their lengths left as they were, and noise behind them."""
    noise = _blank(real, count, random)
    heads = random.integers(1, _HEAD_MOST + 1, count)
    for side in _SIDES:
        payload = noise.slots[side]
        # Of a short message half, or it would be there as a whole.
        left = np.minimum(heads, noise.slots[f"{side}_length"] // 2)
        behind = np.arange(payload.shape[1]) >= left[:, None]
        noise.slots[side] = np.where(behind, random.integers(0, 256, payload.shape, np.uint8), payload)
    return Noise(noise.slots, np.zeros_like(noise.allowed))


def _text(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Lines of printable bytes that begin with a word which means something to some protocol."""
    noise = _blank(real, count, random)
    for side in _SIDES:
        payload = _PRINTABLE[random.integers(0, len(_PRINTABLE), noise.slots[side].shape)]
        chosen = random.integers(0, len(_WORDS), count)
        for number, word in enumerate(_WORDS):
            payload[chosen == number, : len(word)] = np.frombuffer(word, np.uint8)
        _fill(noise.slots, side, payload, random)
    return _as_noise(noise, random)


def _mutated(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Real turns in which some bytes are others: they may still be recognised as what they were."""
    noise = _blank(real, count, random)
    for side in _SIDES:
        payload = noise.slots[side].copy()
        width = payload.shape[1]
        for change in range(_CHANGES_MOST):
            chosen = np.flatnonzero(random.integers(0, _CHANGES_MOST, count) >= change)
            near = np.minimum(random.geometric(1 / 12, len(chosen)) - 1, width - 1)
            payload[chosen, near] = random.integers(0, 256, len(chosen), np.uint8)
        noise.slots[side] = payload
    return noise


def _cut(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Real turns of which one side, or both, are cut anywhere, with a byte or two changed."""
    noise = _blank(real, count, random)
    for side in _SIDES:
        lengths = (noise.slots[f"{side}_length"] * random.random(count)).astype(np.int64)
        cut = (random.random(count) < 0.7) & (noise.slots["kind"] == Kind.TURN)
        for name in f"{side}_length", f"{side}_bytes":
            noise.slots[name] = np.where(cut, lengths, noise.slots[name])
        payload = noise.slots[side].copy()
        place = np.minimum(random.geometric(1 / 12, count) - 1, payload.shape[1] - 1)
        payload[np.arange(count), place] = random.integers(0, 256, count, np.uint8)
        noise.slots[side] = payload
    return noise


def _crossed(real: Real, count: int, random: np.random.Generator) -> Noise:
    """Requests of one protocol with responses of another: they may be taken for either."""
    noise, other = _blank(real, count, random), _blank(real, count, random)
    for name in "response", "response_length", "response_bytes", "response_hash":
        noise.slots[name] = other.slots[name]
    return Noise(noise.slots, np.stack([noise.allowed[:, 0], other.allowed[:, 0]], axis=1))


KINDS: dict[str, Callable[[Real, int, np.random.Generator], Noise]] = {
    "random bytes": _random,
    "a real head, then random bytes": _headed,
    "lines of text": _text,
    "real turns, changed": _mutated,
    "real turns, cut and changed": _cut,
    "requests of one protocol, responses of another": _crossed,
}
"""What makes turns: of real ones, so many, by chance."""
