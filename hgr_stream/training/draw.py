"""What the trainings are shown, drawn at random from streams and distorted as sensors and people do
(``augment``): chunks with a label for every tick for the network, whole segments for the verifier,
roughly cut gestures for the dater. All are on the model's clock, by the segmenter's own rule
(linear interpolation at t0 + k / rate).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..recognition.segments import SegmentDater
from ..skeleton import Float32
from . import augment
from .stills import draw_still, movements
from .streams import Float64, Gesture, Mark, Stream, resample

#: Not scored in the loss: a gesture that a cut left without its beginning.
IGNORE: Final = -1
#: So often a stretch without a gesture is looked for.
IDLE_TRIES: Final = 2000


@dataclass(frozen=True)
class Shares:
    """How much of the material is changed in ways that not every data set wants.

    other_sensors: joints are put where another tracker would, see ``augment``. still: a hand takes
    up a movement's posture and holds still, see ``stills``.
    """

    other_sensors: float = 0.0
    still: float = 0.0


NO_SHARES: Final = Shares()


@dataclass(frozen=True)
class Pool:
    """What is drawn from. gestures: rarer classes repeated up to the commonest."""

    streams: Sequence[Stream]
    gestures: Sequence[Gesture]

    @classmethod
    def of(cls, streams: Sequence[Stream], classes: int) -> Pool:
        """Streams whose marks are labelled 1..classes."""
        by_class: list[list[Gesture]] = [[] for _ in range(classes + 1)]
        for i, s in enumerate(streams):
            for m in s.marks:
                by_class[m.label].append((i, m))
        most = max((len(c) for c in by_class), default=0)
        gestures = [g for c in by_class if c for g in (c * math.ceil(most / len(c)))[:most]]
        return cls(streams, gestures)

    @cached_property
    def movements(self) -> list[Gesture]:
        """The gestures that are no poses; looked for only where they are wanted."""
        return movements(self.streams, self.gestures)

    def gesture(self, rng: np.random.Generator) -> tuple[Stream, Mark]:
        """Any gesture, and the stream that it is in."""
        return self._one(self.gestures, rng)

    def movement(self, rng: np.random.Generator) -> tuple[Stream, Mark]:
        """Any movement, and the stream that it is in."""
        return self._one(self.movements, rng)

    def _one(self, of: Sequence[Gesture], rng: np.random.Generator) -> tuple[Stream, Mark]:
        i, mark = of[int(rng.integers(len(of)))]
        return self.streams[i], mark


def _still(pool: Pool, shares: Shares, rng: np.random.Generator) -> bool:
    """Whether it is a still hand's turn."""
    return bool(shares.still and pool.movements and rng.random() < shares.still)


# --- for the network ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """joints (T, 22, 3); label (T,) class or IGNORE; boundary (T, 2) soft start and end, late."""

    joints: Float32
    label: NDArray[np.int64]
    boundary: Float32


@dataclass(frozen=True)
class ChunkRule:
    """How chunks are cut and labelled.

    delay_s: how long after a boundary the network is asked for it.
    """

    rate_hz: float
    frames: int
    delay_s: float
    #: How long after its end a gesture is still the right answer: a short one is over before a
    #: causal network can be sure of it.
    release_s: float = 0.0
    width_s: float = 0.05  #: of the soft boundary targets
    shares: Shares = NO_SHARES


def draw_chunk(
    pool: Pool, rule: ChunkRule, rng: np.random.Generator, strength: float = 1.0
) -> Chunk:
    """One distorted training chunk; three in four hold a gesture drawn from the pool's."""
    if _still(pool, rule.shares, rng):
        return _still_chunk(pool, rule, rng, strength)
    length_s = rule.frames / rule.rate_hz
    if pool.gestures and rng.random() < 0.75:
        stream, mark = pool.gesture(rng)
        start_s = mark.start_s + rng.uniform(-0.75, -0.05) * length_s
    else:
        stream = pool.streams[int(rng.integers(len(pool.streams)))]
        start_s = rng.uniform(-0.1 * length_s, max(stream.seconds - 0.7 * length_s, 0.0))
    start_s = max(start_s, 0.0)
    # Local speed: the model's clock runs through the recording faster or slower.
    speed = augment.speeds(rule.frames, rule.rate_hz, rng, strength)
    source_s = start_s + np.cumsum(speed) / rule.rate_hz
    source_s -= source_s[0] - start_s
    inside = source_s <= stream.time_s[-1]
    lo, hi = np.searchsorted(stream.time_s, [start_s - 0.2, source_s[-1] + 0.2])
    lo, hi = max(lo - 1, 0), min(hi + 1, len(stream.time_s))
    joints, time_s = augment.sensor_rate(stream.joints[lo:hi], stream.time_s[lo:hi], rng, strength)
    joints = resample(joints, time_s, source_s)
    label, boundary = annotate(stream.marks, source_s, rule)
    label[~inside] = IGNORE
    joints = augment.hand(joints, rule.rate_hz, rng, strength, sensor=rule.shares.other_sensors)
    return Chunk(joints, label, boundary)


def _still_chunk(pool: Pool, rule: ChunkRule, rng: np.random.Generator, strength: float) -> Chunk:
    """A hand comes, holds still in a movement's posture, and goes back: none, but for what else is
    performed on the way there. What was is not asked for on the way back, played backwards."""
    stream, mark = pool.movement(rng)
    frames = rule.frames
    held = round(np.exp(rng.uniform(np.log(0.5), np.log(4.0))) * rule.rate_hz)
    before = int(rng.uniform(0.1, 0.7) * frames)
    held = min(held, frames - before)
    ticks = (before, held, frames - before - held)
    still = draw_still(stream, mark, ticks, rule.rate_hz, rng, strength)
    label, boundary = np.zeros(frames, np.int64), np.zeros((frames, 2), np.float32)
    others = [m for m in stream.marks if m is not mark]
    label[:before], boundary[:before] = annotate(others, still.way_s, rule)
    for m in stream.marks:
        on_the_way = (still.back_s >= m.start_s) & (still.back_s <= m.end_s)
        label[before + held :][on_the_way] = IGNORE
    joints = augment.hand(
        still.joints, rule.rate_hz, rng, strength, sensor=rule.shares.other_sensors
    )
    return Chunk(joints, label, boundary)


def annotate(
    marks: Sequence[Mark], source_s: Float64, rule: ChunkRule
) -> tuple[NDArray[np.int64], Float32]:
    """Labels and delayed soft boundaries of ticks that lie at ``source_s`` in the recording."""
    label = np.zeros(len(source_s), np.int64)
    boundary = np.zeros((len(source_s), 2), np.float32)
    ticks = np.arange(len(source_s), dtype=np.float64)
    delay, width = rule.delay_s * rule.rate_hz, rule.width_s * rule.rate_hz
    for m in marks:
        if m.end_s + rule.release_s < source_s[0] or m.start_s > source_s[-1]:
            continue
        within = (source_s >= m.start_s) & (source_s <= m.end_s + rule.release_s)
        missed = (source_s[0] - m.start_s) / max(m.end_s - m.start_s, 1e-6)
        label[within] = m.label if missed < 0.3 else IGNORE
        for side, at_s in enumerate((m.start_s, m.end_s)):
            if source_s[0] <= at_s <= source_s[-1]:
                at = np.interp(at_s, source_s, ticks) + delay
                soft = np.exp(-0.5 * ((ticks - at) / width) ** 2)
                boundary[:, side] = np.maximum(boundary[:, side], soft)
    return label, boundary


# --- for the verifier ---------------------------------------------------------------------------


def draw_segment(
    pool: Pool, rate_hz: float, rng: np.random.Generator, shares: Shares
) -> tuple[Float32, int]:
    """One segment for the verifier, (T, 22, 3) on the model's clock, and its class.

    Most are gestures with boundaries a little wrong; the rest idle stretches, halves of gestures,
    stretches far too long, and hands held still.
    """
    if _still(pool, shares, rng):
        joints = _still_segment(pool, rate_hz, rng)
        return augment.hand(joints, rate_hz, rng, 1.0, sensor=shares.other_sensors), 0
    kind = rng.random()
    if kind < 0.6:
        stream, m = pool.gesture(rng)
        label = m.label
        length = m.end_s - m.start_s
        spread = min(0.12 * length, 0.3) + 0.04
        start_s, end_s = m.start_s + rng.normal(0, spread), m.end_s + rng.normal(0, spread)
    elif kind < 0.78:
        stream, start_s, end_s, label = _idle(pool.streams, rng)
    else:
        stream, m = pool.gesture(rng)
        label = 0
        length = m.end_s - m.start_s
        if length > 1.6:  # half a held pose is still that pose
            stream, start_s, end_s, label = _idle(pool.streams, rng)
        elif rng.random() < 0.6:
            part = rng.uniform(0.15, 0.4) * length
            early = rng.random() < 0.5
            before, after = rng.uniform(0.0, 0.5, 2)
            start_s = m.start_s - before if early else m.end_s - part
            end_s = m.start_s + part if early else m.end_s + after
        else:
            start_s = m.start_s - rng.uniform(1.0, 2.0) * length
            end_s = m.end_s + rng.uniform(1.0, 2.0) * length
    last = float(stream.time_s[-1])
    start_s = min(max(start_s, 0.0), last - 0.12)
    end_s = min(max(end_s, start_s + 0.12), last)
    factor = float(augment.speeds(1, rate_hz, rng, 1.0)[0])
    n = max(int((end_s - start_s) / factor * rate_hz) + 1, 3)
    joints = _cut(stream, np.linspace(start_s, end_s, n))
    return augment.hand(joints, rate_hz, rng, 1.0, sensor=shares.other_sensors), label


def _still_segment(pool: Pool, rate_hz: float, rng: np.random.Generator) -> Float32:
    """A hand held still in a movement's posture, with some of the way there and back or without."""
    stream, mark = pool.movement(rng)
    held = max(round(np.exp(rng.uniform(np.log(0.3), np.log(3.0))) * rate_hz), 3)
    before, after = (rng.uniform(0.0, 0.5, 2) * rate_hz * (rng.random(2) < 0.5)).astype(int)
    return draw_still(stream, mark, (before, held, after), rate_hz, rng).joints


def _cut(stream: Stream, at_s: NDArray[np.float64]) -> Float32:
    """The stream at times that increase; its ends are held."""
    lo, hi = np.searchsorted(stream.time_s, [at_s[0] - 0.1, at_s[-1] + 0.1])
    hi = min(max(hi + 1, 2), len(stream.time_s))
    lo = min(max(lo - 1, 0), hi - 2)
    return resample(stream.joints[lo:hi], stream.time_s[lo:hi], at_s)


def _idle(streams: Sequence[Stream], rng: np.random.Generator) -> tuple[Stream, float, float, int]:
    """A stretch that holds less than a third of any gesture; raises ValueError for none."""
    for _ in range(IDLE_TRIES):
        stream = streams[int(rng.integers(len(streams)))]
        length = float(np.exp(rng.uniform(np.log(0.2), np.log(3.0))))
        start_s = rng.uniform(0.0, max(stream.seconds - length, 0.01))
        end_s = start_s + length
        if all(
            min(end_s, m.end_s) - max(start_s, m.start_s) < 0.3 * (m.end_s - m.start_s)
            and min(end_s, m.end_s) - max(start_s, m.start_s) < 0.3 * length
            for m in stream.marks
        ):
            return stream, start_s, end_s, 0
    raise ValueError("there is next to no time without a gesture: none cannot be learnt from this")


# --- for the dater ------------------------------------------------------------------------------


def draw_roughly(
    pool: Pool, rate_hz: float, rng: np.random.Generator
) -> tuple[Float32, tuple[float, float], float]:
    """A gesture cut about as wrongly as the decoder does, with the dater's margins.

    (T, 22, 3) on the model's clock; the shifts in seconds that would set both ends right; the true
    length in seconds.
    """
    stream, m = pool.gesture(rng)
    factor = float(augment.speeds(1, rate_hz, rng, 1.0)[0])
    length = (m.end_s - m.start_s) / factor
    # Most are right to a tick or two, some quite wrong: what it is given is worth something.
    spread = (min(0.2 * length, 0.3) + 0.08) * factor * (0.35 if rng.random() < 0.6 else 1.0)
    start_s = max(m.start_s + rng.normal(0, spread), 0.0)
    end_s = min(max(m.end_s + rng.normal(0, spread), start_s + 0.12 * factor), stream.time_s[-1])
    frames = max(int((end_s - start_s) / factor * rate_hz + 0.5), 2)
    margin = round(SegmentDater.MARGIN_S * rate_hz)
    at_s = start_s + np.arange(-margin, frames + margin + 1) * (end_s - start_s) / frames
    if rng.random() < 0.2:  # judged at once, or the hand was lost: the last frame is held
        at_s = np.minimum(at_s, end_s + rng.uniform(0.0, 1.0) * SegmentDater.MARGIN_S * factor)
    joints = augment.hand(_cut(stream, at_s), rate_hz, rng, 1.0)
    return joints, ((m.start_s - start_s) / factor, (m.end_s - end_s) / factor), length
