"""Isolated gestures spliced into continuous streams, for training and for judging online models.

Gestures of one person follow one another, joined by what hands do in between: moves to a rest pose
or straight on to the next gesture (minimum jerk, slightly curved, fingers a little ahead or
behind), holds that drift and tremble, aimless moves, and, where continuous recordings are at hand,
true idle stretches of theirs on this person's bones. Moves interpolate bone directions, so that no
bone shrinks on the way; what is made up gets the noise that the person's own recordings have.

No gesture of one person ever meets another's, and ``HandSequence.subject`` says whose it is: held
out people stay held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..datasets.base import DatasetError, HandSequence, Segment
from ..datasets.gestures import Gestures, in_order
from ..datasets.takes import Takes, fingerprints
from ..skeleton import PARENTS, WRIST, Float32, lacked, with_palm
from . import augment
from .streams import resample

_CHILDREN: Final = np.arange(2, len(PARENTS))
_PARENTS: Final = np.array(PARENTS[2:])
#: With fewer people than this, takes are held out instead of people.
MIN_PEOPLE: Final = 3
MOST_GROUPS: Final = 8  #: of takes that stand for people


@dataclass(frozen=True)
class SpliceRule:
    """How streams are made up. Times in seconds."""

    gestures: int = 8  #: in a stream
    rounds: int = 2  #: how often each gesture is used, among other neighbours
    straight: float = 0.2  #: share of gaps without a rest: from one gesture into the next
    idle: float = 0.4  #: share of rests that are a true idle stretch, where there are any
    aimless: float = 0.35  #: share of the other rests with moves that mean nothing
    hold_s: tuple[float, float] = (0.15, 2.5)
    move_s: float = 0.3  #: shortest move; ``s_per_m`` comes on top
    s_per_m: float = 1.2


@dataclass(frozen=True)
class Clip:
    """A stretch of a hand that does nothing of note: joints (T, 22, 3), frames a second."""

    joints: Float32
    rate_hz: float


def idle_clips(
    sequences: Iterable[HandSequence], least_s: float = 0.6, most_s: float = 4.0
) -> list[Clip]:
    """What continuous recordings hold between their gestures, cut to stretches.

    Sequences with a faulty annotation are passed over: their gaps may hold a gesture.
    """
    clips = []
    for q in sequences:
        if any("annotation" in note for note in q.notes):
            continue
        time_s = (q.time_ns - q.time_ns[0]) / 1e9
        busy = [(time_s[s.start] - 0.15, time_s[s.end] + 0.15) for s in q.segments]
        edges = [(-1.0, 0.0), *sorted(busy), (float(time_s[-1]), np.inf)]
        for (_, begin), (end, _) in pairwise(edges):
            at = begin
            while end - at >= least_s:
                inside = (time_s >= at) & (time_s <= min(at + most_s, end))
                joints, at_s = q.joints[inside], time_s[inside]
                if len(joints) >= 8 and _steady(at_s, joints):
                    rate_hz = (len(joints) - 1) / float(at_s[-1] - at_s[0])
                    grid = np.linspace(float(at_s[0]), float(at_s[-1]), len(joints))
                    clips.append(Clip(resample(joints, at_s, grid), rate_hz))
                at += most_s
    return clips


def _steady(time_s: NDArray[np.float64], joints: Float32) -> bool:
    """Neither gaps nor glitches: frames come, and the wrist is no faster than people are."""
    steps_s = np.diff(time_s)
    way_m = np.linalg.norm(np.diff(joints[:, WRIST], axis=0), axis=1)
    return bool(steps_s.max() < 0.25 and (way_m / steps_s).max() < 4.0)


def splice(
    gestures: Gestures,
    rule: SpliceRule | None = None,
    *,
    idle: Sequence[Clip] = (),
    seed: int = 0,
) -> list[HandSequence]:
    """Continuous sequences of isolated gestures, with what is performed when.

    Names are ``PERSON.NN``; the same seed gives the same streams. With fewer than three people
    named, their takes are dealt into groups that stand for people. Raises DatasetError for
    gestures that are no canonical hand, or too few.
    """
    if not gestures.canonical:
        raise DatasetError(
            f"{gestures.data}: {gestures.channels} channels a frame are no canonical hand; streams "
            "need 20, 21, 22 or 26 joints in 3 dimensions"
        )
    rule = rule or SpliceRule()
    rng = np.random.default_rng(seed)
    prints, named = fingerprints(gestures), frozenset(gestures.subjects)
    out = []
    for person, takes in _people(gestures).items():
        hand = _Person.of([gestures.joints(i) for i in takes])
        labels = [gestures.classes[gestures.labels[i]] for i in takes]
        number = 0
        for _ in range(rule.rounds):
            order = rng.permutation(len(takes))
            for at in range(0, len(order), rule.gestures):
                number += 1
                reel = _Reel(gestures.rate_hz, hand, rule, idle, rng)
                some = order[at : at + rule.gestures]
                for i in some:
                    reel.gesture(hand.takes[i], labels[i])
                sequence = reel.sequence(f"{person}.{number:02d}", person)
                # A group of takes stands for a person, but is none.
                people = named & {person}
                sequence.takes = Takes(gestures.data, prints[np.array(takes)[some]], people)
                sequence.lacks = lacked(gestures.take(np.array(takes)[some]).lacks)
                out.append(sequence)
    return out


def _people(gestures: Gestures) -> dict[str, list[int]]:
    """Takes by person, or by groups that stand for people where too few are named: the same groups
    at every call, so that who was held out can be told later."""
    rng = np.random.default_rng(0)
    people = in_order(gestures.subjects)
    if len(people) >= MIN_PEOPLE and "" not in people:
        return {p: [i for i, s in enumerate(gestures.subjects) if s == p] for p in people}
    counts = np.bincount(gestures.labels, minlength=len(gestures.classes))
    groups = int(counts[counts > 0].min(initial=MOST_GROUPS))
    if groups < 2:
        short = gestures.classes[int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))]
        raise DatasetError(
            f"{gestures.data}: {short!r} has a single take; two of each gesture are wanted, to "
            "learn from one and judge by the other"
        )
    dealt: dict[str, list[int]] = {f"takes-{g + 1}": [] for g in range(groups)}
    names = list(dealt)
    for label in range(len(gestures.classes)):
        mine = rng.permutation(np.flatnonzero(gestures.labels == label))
        for k, i in enumerate(mine):
            dealt[names[(k + label) % groups]].append(int(i))
    return {name: takes for name, takes in dealt.items() if takes}


# --- a hand, and what it does between gestures ---------------------------------------------------


@dataclass(frozen=True)
class _Pose:
    """wrist (3,) metres; bones: directions (20, 3), unit length."""

    wrist: NDArray[np.float64]
    bones: NDArray[np.float64]

    @classmethod
    def of(cls, joints: Float32) -> _Pose:
        """Of one frame (22, 3)."""
        return cls(joints[WRIST].astype(np.float64), _unit(joints[_CHILDREN] - joints[_PARENTS]))

    def moved(self, by_m: NDArray[np.float64]) -> _Pose:
        return _Pose(self.wrist + by_m, self.bones)


@dataclass
class _Person:
    """One person's gestures; lengths: (20,) metres of the bones; noise_m: of the tracker."""

    takes: list[Float32]
    ends: list[_Pose]
    lengths: NDArray[np.float64]
    noise_m: float

    @classmethod
    def of(cls, takes: list[Float32]) -> _Person:
        frames = np.concatenate(takes)
        lengths = np.linalg.norm(frames[:, _CHILDREN] - frames[:, _PARENTS], axis=-1)
        # White noise of deviation n makes second differences of n * sqrt(6); true movement adds
        # to them, so the quieter frames tell.
        shakes = [
            np.sqrt((np.diff(t - t[:, :1], 2, axis=0) ** 2).mean((1, 2)))
            for t in takes
            if len(t) > 4
        ]
        quiet = float(np.quantile(np.concatenate(shakes), 0.2)) if shakes else 0.0
        ends = [_Pose.of(t[k]) for t in takes for k in (0, -1)]
        return cls(takes, ends, np.median(lengths, 0), min(quiet / 6**0.5, 0.003))

    def rest(self, rng: np.random.Generator) -> _Pose:
        """A relaxed hand: what is common to how gestures begin and end, somewhat lower."""
        some = [self.ends[i] for i in rng.integers(len(self.ends), size=5)]
        bones = _unit(np.mean([p.bones for p in some], 0))
        wrist = np.mean([p.wrist for p in some], 0)
        aside = rng.normal(0, 0.04, 3) - [0.0, rng.uniform(0, 0.15), 0.0]
        return _Pose(wrist + aside, bones @ augment.rotation(rng, 0.5).T)

    def joints(self, wrist: NDArray, bones: NDArray) -> Float32:
        """wrist (T, 3), directions (T, 20, 3) -> (T, 22, 3) on this person's bones."""
        chains = (bones * self.lengths[:, None]).reshape(len(bones), 5, 4, 3).cumsum(2)
        out = np.empty((len(bones), 22, 3), np.float32)
        out[:, WRIST] = wrist
        out[:, 2:] = (chains + wrist[:, None, None]).reshape(-1, 20, 3)
        return with_palm(out)


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    out: NDArray[np.float64] = vectors / np.maximum(lengths, 1e-6)
    return out


@dataclass
class _Reel:
    """A stream in the making."""

    rate_hz: float
    hand: _Person
    rule: SpliceRule
    idle: Sequence[Clip]
    rng: np.random.Generator
    parts: list[Float32] = field(default_factory=list)
    times: list[NDArray[np.float64]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    frames: int = 0
    now_s: float = 0.0

    def gesture(self, joints: Float32, label: str) -> None:
        """What lies before it, then the gesture as it was recorded."""
        if not self.parts or self.rng.random() >= self.rule.straight:
            self._rest()
        self._move(_Pose.of(joints[0]))
        self.segments.append(Segment(label, self.frames, self.frames + len(joints) - 1))
        self._add(joints, self.rate_hz)

    def sequence(self, name: str, person: str) -> HandSequence:
        """The stream so far, brought to rest."""
        self._rest()
        joints, time_s = np.concatenate(self.parts), np.concatenate(self.times)
        time_ns = np.rint(time_s * 1e9).astype(np.int64)
        index = np.arange(len(joints), dtype=np.int64)
        return HandSequence(
            name, joints, time_ns, index, subject=person, segments=list(self.segments)
        )

    def _add(self, joints: Float32, rate_hz: float, noise_m: float = 0.0) -> None:
        if noise_m:
            shake = self.rng.standard_normal(joints.shape, dtype=np.float32)
            joints = with_palm(joints + shake * np.float32(noise_m))
        self.parts.append(joints)
        self.times.append(self.now_s + np.arange(len(joints)) / rate_hz)
        self.now_s += len(joints) / rate_hz
        self.frames += len(joints)

    def _rest(self) -> None:
        rng, rule = self.rng, self.rule
        rest = self.hand.rest(rng)
        self._move(rest)
        if self.idle and rng.random() < rule.idle:
            self._clip(self.idle[int(rng.integers(len(self.idle)))], rest)
        elif rng.random() < rule.aimless:
            for _ in range(int(rng.integers(1, 4))):
                other = self.hand.rest(rng).moved(rng.normal(0, 0.06, 3))
                self._move(other, slower=rng.uniform(1.0, 2.5))
                self._hold(other, rng.uniform(0, 0.5))
        else:
            self._hold(rest, rng.uniform(*rule.hold_s))

    def _move(self, to: _Pose, slower: float = 1.0) -> None:
        """From where the hand is, which it leaves and reaches at rest; nothing at the start."""
        if not self.parts:
            return
        rng, rule = self.rng, self.rule
        a = _Pose.of(self.parts[-1][-1])
        way_m = float(np.linalg.norm(to.wrist - a.wrist))
        seconds = (rule.move_s + rule.s_per_m * way_m) * slower * rng.uniform(0.7, 1.5)
        t = np.arange(1, max(int(seconds * self.rate_hz), 3)) / max(int(seconds * self.rate_hz), 3)
        bow = 64 * (t * (1 - t)) ** 3 * rng.normal(0, 0.12 * way_m + 0.005)
        aside = _unit(rng.standard_normal(3))
        wrist = a.wrist + _jerkless(t)[:, None] * (to.wrist - a.wrist) + bow[:, None] * aside
        s = _jerkless(t ** np.exp(rng.uniform(-0.4, 0.4)))[:, None, None]
        bones = _unit((1 - s) * a.bones + s * to.bones + 1e-4)
        self._add(self.hand.joints(wrist, bones), self.rate_hz, self.hand.noise_m)

    def _hold(self, pose: _Pose, seconds: float) -> None:
        """Held as people hold: the arm drifts, the fingers tremble."""
        n = int(seconds * self.rate_hz)
        if n < 2:
            return
        ease = np.minimum(np.arange(1, n + 1) / (0.3 * self.rate_hz), 1.0)[:, None]
        drift = augment.waves(n, self.rate_hz, self.rng, 3) * self.rng.uniform(0, 0.006)
        bend = augment.waves(n, self.rate_hz, self.rng, 60).reshape(n, 20, 3)
        bones = _unit(pose.bones + ease[..., None] * bend * self.rng.uniform(0, 0.06))
        wrist = pose.wrist + ease * drift
        self._add(self.hand.joints(wrist, bones), self.rate_hz, self.hand.noise_m)

    def _clip(self, clip: Clip, rest: _Pose) -> None:
        """A true idle stretch, begun where this hand rests and on this person's bones."""
        bones = _unit(clip.joints[:, _CHILDREN] - clip.joints[:, _PARENTS])
        wrist = clip.joints[:, WRIST] - clip.joints[0, WRIST] + rest.wrist
        self._move(_Pose(wrist[0].astype(np.float64), bones[0]))
        self._add(self.hand.joints(wrist, bones), clip.rate_hz)


def _jerkless(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the way at share ``t`` of the time (Flash and Hogan 1985)."""
    return t**3 * (10 - 15 * t + 6 * t**2)
