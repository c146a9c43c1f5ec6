"""Continuous recordings as training material: a ``Stream`` is one hand's recording with its
gestures in seconds. What is cut from them to be learnt is in ``draw``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..datasets.base import HandSequence
from ..recognition.options import mirror_pairs
from ..skeleton import Float32, mirrored
from . import augment

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Mark:
    """One gesture: class number (1..C) and times in seconds of its stream, both included."""

    label: int
    start_s: float
    end_s: float


#: A gesture with its stream's number.
Gesture = tuple[int, Mark]


@dataclass(frozen=True)
class Stream:
    """joints (T, 22, 3) metres of a right hand, time_s (T,) increasing, what is performed.

    group: streams of one group are held out together, or not at all; empty: it stands alone.
    """

    name: str
    joints: Float32
    time_s: Float64
    marks: tuple[Mark, ...]
    group: str = ""

    @property
    def seconds(self) -> float:
        return float(self.time_s[-1] - self.time_s[0])


def labels_of(sequences: Sequence[HandSequence]) -> list[str]:
    """The gesture names in the data, sorted: the order of a model's outputs."""
    return sorted({s.label for q in sequences for s in q.segments})


def to_streams(sequences: Sequence[HandSequence], labels: Sequence[str]) -> list[Stream]:
    """Sequences -> streams, left hands mirrored: what moved to the left then moves to the right,
    and is called so; the engine calls it back.

    A sequence whose importer had to drop an annotation is left out: a gesture without a label
    would be taught as none. Gestures not in ``labels`` are left unlabelled.
    """
    number = {label: i + 1 for i, label in enumerate(labels)}
    exchanged = mirror_pairs(labels)
    streams = []
    for q in sequences:
        if any("annotation" in note for note in q.notes):
            continue
        time_s = (q.time_ns - q.time_ns[0]) / 1e9
        left = q.side == "left"
        joints = mirrored(q.joints) if left else q.joints
        marks = tuple(
            Mark(
                number[exchanged.get(s.label, s.label) if left else s.label],
                float(time_s[s.start]),
                float(time_s[s.end]),
            )
            for s in q.segments
            if s.label in number
        )
        streams.append(Stream(q.name, joints, time_s, marks, q.subject))
    return streams


def split(
    streams: Sequence[Stream], held_out: float, seed: int
) -> tuple[list[Stream], list[Stream]]:
    """(training, held-out): whole groups of sequences, so that every class keeps its share.

    Groups are taken greedily: the next one is that which brings the held-out counts of all classes
    nearest to ``held_out`` of their total. Groups without gestures are shared out apart from the
    others, at random: no settings can be chosen on them alone. A group that alone performs some
    gesture is not held out, so that every gesture is learnt; nor is a single one.
    """
    if held_out <= 0:
        return list(streams), []
    rng = np.random.default_rng(seed)
    classes = max((m.label for s in streams for m in s.marks), default=0) + 1
    members: dict[tuple[str, int], list[int]] = {}
    for i, s in enumerate(streams):
        members.setdefault((s.group, 0) if s.group else ("", i), []).append(i)
    groups = list(members.values())
    counts = np.zeros((len(groups), classes))
    for k, group in enumerate(groups):
        for m in (m for i in group for m in streams[i].marks):
            counts[k, m.label] += 1
    wanted = counts.sum(0) * held_out
    told = np.flatnonzero(counts.any(1)).tolist()
    if len(told) < 2:
        return list(streams), []
    chosen: list[int] = []
    have = np.zeros(classes)
    for _ in range(max(round(held_out * len(told)), 1)):
        rest = counts.sum(0) - have
        able = [k for k in told if k not in chosen and (rest - counts[k])[rest > 0].all()]
        if not able:
            break
        left = rng.permutation(able)
        best = min(left, key=lambda k: float(((have + counts[k] - wanted) ** 2).sum()))
        chosen.append(int(best))
        have += counts[best]
    if not chosen:
        return list(streams), []
    silent = rng.permutation(np.flatnonzero(~counts.any(1)))
    chosen += silent[: round(held_out * len(silent))].tolist()
    out = {i for k in chosen for i in groups[k]}
    return (
        [s for i, s in enumerate(streams) if i not in out],
        [streams[i] for i in sorted(out)],
    )


def splits(sequences: Sequence[HandSequence], held_out: float, seed: int) -> bool:
    """Whether anything would be held out of them."""
    return bool(split(to_streams(sequences, labels_of(sequences)), held_out, seed)[1])


def resample(joints: Float32, time_s: Float64, at_s: Float64) -> Float32:
    """Linear interpolation of (T, 22, 3) at the given times; ends are held."""
    at_s = np.clip(at_s, time_s[0], time_s[-1])
    right = np.clip(np.searchsorted(time_s, at_s), 1, len(time_s) - 1)
    left = right - 1
    share = (at_s - time_s[left]) / (time_s[right] - time_s[left])
    weight = share.astype(np.float32)[:, None, None]
    between: Float32 = joints[left] * (1 - weight) + joints[right] * weight
    return between


def on_grid(stream: Stream, rate_hz: float) -> Float32:
    """The whole stream on the model's clock: ticks at time_s[0] + k / rate."""
    ticks = stream.time_s[0] + np.arange(int(stream.seconds * rate_hz) + 1) / rate_hz
    return resample(stream.joints, stream.time_s, ticks)


def distorted(stream: Stream, rng: np.random.Generator, wide: float = 0.0) -> Stream:
    """A whole stream as another person at another seat might have performed it: the proxy.

    Other bone lengths and size, travel x0.6-1.5, rotation, local speed, drift, noise, holds.
    Marks move with the time. Harsher than what is trained on, and drawn apart from it. wide: how
    likely it is also played far slower or faster, or with fingers guessed, as other sensors'. Two
    frames at least, however short the stream.
    """
    rate_hz = 50.0
    n = int(stream.seconds * rate_hz)
    speed = augment.speeds(n, rate_hz, rng, 1.2, wide)
    source_s = np.cumsum(speed) / rate_hz
    source_s = source_s[source_s <= stream.seconds] + stream.time_s[0]
    if len(source_s) < 2:  # played faster than it lasts
        source_s = stream.time_s[[0, -1]]
    # What is left of a gesture that the slower copy has no time for is no idle time.
    cut = [m.start_s for m in stream.marks if m.end_s > source_s[-1]]
    source_s = source_s[source_s < max(min(cut, default=np.inf) - 0.3, 1.0)]
    joints = resample(stream.joints, stream.time_s, source_s)
    joints = augment.hand(joints, rate_hz, rng, 1.2, wide)
    time_s = np.arange(len(source_s)) / rate_hz
    marks = tuple(
        replace(
            m,
            start_s=float(np.interp(m.start_s, source_s, time_s)),
            end_s=float(np.interp(m.end_s, source_s, time_s)),
        )
        for m in stream.marks
        if m.end_s <= source_s[-1]
    )
    return Stream(stream.name + "~", joints, time_s, marks)
