"""Hands of people as image keypoints (x, y, confidence), brought to canonical hands.

OpenPose, AlphaPose and MMPose see whole people in pictures: 21 points a hand, a confidence for
each, pixels, no depth. What is decided here, once for all of them and for the live folder:

- **Missing points.** A point of confidence below ``MIN_SEEN`` was not seen (its coordinates are
  0, 0). A hand needs its wrist and all four finger bases. A missing joint between two seen ones
  is put midway, a missing tip is extrapolated (the hand then lacks "tips"), a missing thumb base
  is put on the way from the wrist ("thumb_base"). Two neighbours missing, or a mean confidence
  under ``MIN_CONFIDENCE`` (the value from which OpenPose itself draws a hand), and the hand is
  refused and counted: a made-up finger is worse than a short gap, which the segmenter bridges.
- **Scale.** Pixels become metres so that wrist to middle base is ``PALM_M`` where it is seen at its
  longest (the 90th percentile: a palm at a slant looks short, never long), for each hand of each
  person. One factor for a whole recording (live: for the last ``SCALE_FRAMES``), because a factor
  a frame would take out the hand's own motion.
- **Place.** x and y are relative to the first wrist seen, as the files do not tell the picture's
  size; z is 0 and the hand lacks "depth". A flat hand has no chirality: its side is what the
  detector says.
- **People.** Each is a stream, "person0" and so on, in the order of appearance; followed by the
  detector's own number or else by who stands nearest to where a person was, because the order in
  a file is not kept from frame to frame. Who is gone for ``FORGET_NS`` leaves their number (live:
  their place among the people wanted) to another, but not their size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..skeleton import (
    MEDIAPIPE_21,
    THUMB_BASE_FRACTION,
    TIP_EXTENSION,
    Float32,
    HandSample,
    Lack,
    Side,
    camera_to_canonical,
    from_layout,
)
from .base import IDS, DatasetError, HandFrame, HandFrames
from .files import Faults

Points = NDArray[np.float64]

PALM_M: Final = 0.10
MIN_SEEN: Final = 0.05
MIN_CONFIDENCE: Final = 0.2
LONGEST_PERCENT: Final = 90
SCALE_FRAMES: Final = 300
#: More people than this in one file, or in one frame of it, are refused and counted.
MAX_PEOPLE: Final = 64
#: After so long out of sight a person without a number is somebody new.
FORGET_NS: Final = 1_000_000_000
#: How far a person may move between two frames, in units of their own extent in the picture.
MAX_STEP: Final = 0.5
#: No picture is so large, in pixels.
_MAX_COORDINATE: Final = 1e6
_WRIST, _MIDDLE = 0, 9
_PALM_POINTS: Final = (0, 5, 9, 13, 17)

#: Why a hand was refused, as counted.
LOW_CONFIDENCE: Final = "hands refused: hardly seen (mean confidence under 0.2)"
INCOMPLETE: Final = "hands refused: the wrist, a finger base or two neighbouring joints not seen"
MALFORMED: Final = "hands refused: not 21 finite points"
NO_SIZE: Final = "hands refused: wrist and middle base in one point"


@dataclass(slots=True)
class PointHand:
    """One hand in the picture: ``points`` (21, 2) or (21, 3) in the source's own units."""

    side: Side
    points: Points
    confidence: float
    lacks: tuple[Lack, ...]

    @property
    def palm(self) -> float:
        """Wrist to middle base, in the source's units."""
        return float(np.linalg.norm(self.points[_MIDDLE] - self.points[_WRIST]))


@dataclass(slots=True)
class Person:
    """One person in one frame. id: the detector's number, None if it follows nobody."""

    id: int | None
    points: Points  #: (n, 2) all that was seen of them, for following
    hands: list[PointHand]


@dataclass(slots=True)
class Picture:
    """All people of one frame."""

    time_ns: int
    index: int
    people: list[Person]


def read_hand(values: Points, side: Side, faults: Faults) -> PointHand | None:
    """(21, 3) x, y, confidence or (21, 4) x, y, z, confidence -> a hand with all its points.

    None when there is none (every confidence 0, as for a hand out of sight) or when it was
    refused, which ``faults`` then counts.
    """
    points, confidence = values[:, :-1], values[:, -1]
    if values.shape[0] != 21 or not np.all(np.abs(values) <= _MAX_COORDINATE):
        faults.add(MALFORMED)
        return None
    if not np.any(confidence > 0):
        return None
    # Heatmap and SimCC scores may pass 1 a little.
    confidence = np.clip(confidence, 0.0, 1.0)
    mean = float(confidence.mean())
    if mean < MIN_CONFIDENCE:
        faults.add(LOW_CONFIDENCE)
        return None
    filled = _filled(points, confidence >= MIN_SEEN)
    if filled is None:
        faults.add(INCOMPLETE)
        return None
    points, lacks = filled
    hand = PointHand(side, points, mean, lacks if points.shape[1] == 3 else ("depth", *lacks))
    if hand.palm < 1e-6:
        faults.add(NO_SIZE)
        return None
    return hand


def _filled(points: Points, seen: NDArray[np.bool_]) -> tuple[Points, tuple[Lack, ...]] | None:
    """All 21 points and what of them is estimated, or None for a hand that misses too much."""
    if seen.all():
        return points, ()
    if not seen[list(_PALM_POINTS)].all():
        return None
    points = points.copy()
    lacks: list[Lack] = []
    for finger, extension in enumerate(TIP_EXTENSION):
        base, first, second, tip = range(1 + 4 * finger, 5 + 4 * finger)
        if not seen[base]:  # the thumb's: the others are part of the palm
            if not seen[first]:
                return None
            points[base] = points[0] + THUMB_BASE_FRACTION * (points[first] - points[0])
            lacks.append("thumb_base")
        if not seen[first]:
            if not seen[second]:
                return None
            points[first] = 0.5 * (points[base] + points[second])
        if not seen[second]:
            if not (seen[first] and seen[tip]):
                return None
            points[second] = 0.5 * (points[first] + points[tip])
        if not seen[tip]:
            points[tip] = points[second] + extension * (points[second] - points[first])
            if "tips" not in lacks:
                lacks.append("tips")
    return points, tuple(lacks)


def m_per_unit(palms: Sequence[float]) -> float:
    """Metres for one unit of the source, from a hand's palm lengths over time."""
    return PALM_M / float(np.percentile(palms, LONGEST_PERCENT))


def placed(hand: PointHand, origin: Points, scale: float) -> Float32:
    """The hand in canonical axes and metres, (22, 3), ``origin`` (2,) or (3,) at 0."""
    points = np.zeros((21, 3))
    points[:, : hand.points.shape[1]] = hand.points
    points[:, : len(origin)] -= origin
    return from_layout(camera_to_canonical(points * scale), MEDIAPIPE_21)


@dataclass(slots=True)
class _Followed:
    """Where one person was seen last."""

    time_ns: int
    id: int | None
    centre: Points
    size: float
    arrival: int


class Follow(NamedTuple):
    """Who somebody in the picture is. arrival: how many came before, ever; nobody else has it."""

    number: int
    arrival: int


class Follower:
    """Numbers for people, 0 and up: one person keeps theirs from frame to frame.

    A number whose person has been out of sight for ``FORGET_NS`` goes to the next who comes."""

    def __init__(self) -> None:
        self._last: dict[int, _Followed] = {}
        self._arrivals = 0

    def follow(self, people: Sequence[Person], time_ns: int) -> list[Follow | None]:
        """Who each is; None for those beyond ``MAX_PEOPLE``."""
        here = [_extent(person) for person in people[:MAX_PEOPLE]]
        alive = {n: f for n, f in self._last.items() if time_ns - f.time_ns <= FORGET_NS}
        pairs = [
            (cost, i, number)
            for i, (centre, size) in enumerate(here)
            for number, followed in alive.items()
            if (cost := _cost(people[i].id, centre, size, followed)) < MAX_STEP
        ]
        out: list[Follow | None] = [None] * len(people)
        taken: set[int] = set()
        for _, i, number in sorted(pairs):
            if out[i] is None and number not in taken:
                out[i] = Follow(number, alive[number].arrival)
                taken.add(number)
        free = (n for n in range(MAX_PEOPLE) if n not in alive)
        for i, (centre, size) in enumerate(here):
            if out[i] is None and (new := next(free, None)) is not None:
                out[i] = Follow(new, self._arrivals)
                self._arrivals += 1
            if (mine := out[i]) is not None:
                self._last[mine.number] = _Followed(
                    time_ns, people[i].id, centre, size, mine.arrival
                )
        return out


def _cost(id: int | None, centre: Points, size: float, followed: _Followed) -> float:
    """How unlikely it is that somebody is the followed person; from ``MAX_STEP`` on they are not.

    The detector's own number decides where it gives one."""
    if id is not None or followed.id is not None:
        return -1.0 if id == followed.id else MAX_STEP
    return float(np.linalg.norm(centre - followed.centre)) / max(size, followed.size, 1e-9)


def _extent(person: Person) -> tuple[Points, float]:
    if not len(person.points):
        return np.zeros(2), 0.0
    spread = person.points.max(axis=0) - person.points.min(axis=0)
    return np.median(person.points, axis=0), float(np.linalg.norm(spread))


def recording(name: str, pictures: Sequence[Picture], faults: Faults) -> HandFrames:
    """A whole file: people told apart, one scale for each hand. Raises DatasetError if empty."""
    if not pictures:
        raise DatasetError(f"{name}: holds no frames")
    follower = Follower()
    followed = [(p, follower.follow(p.people, p.time_ns)) for p in pictures]
    palms: dict[tuple[int, Side], list[float]] = {}
    origin: Points | None = None
    for picture, follows in followed:
        for who, person in zip(follows, picture.people, strict=True):
            if who is None:
                faults.add(f"people refused: more than {MAX_PEOPLE} in one recording")
                continue
            for hand in person.hands:
                origin = hand.points[_WRIST] if origin is None else origin
                palms.setdefault((who.arrival, hand.side), []).append(hand.palm)
    scales = {key: m_per_unit(lengths) for key, lengths in palms.items()}
    frames: list[HandFrame] = []
    last: dict[int, int] = {}
    for picture, follows in followed:
        hands: dict[int, list[HandSample]] = {}
        for who, person in zip(follows, picture.people, strict=True):
            if who is not None:
                last[who.number] = picture.time_ns
                hands[who.number] = [
                    _frame_hand(hand, IDS[hand.side], origin, scales[who.arrival, hand.side])
                    for hand in person.hands
                ]
        # Who has left is told as absent for a while, so that their gestures end at once.
        absent = [n for n, t in last.items() if n not in hands and picture.time_ns - t <= FORGET_NS]
        streams = hands | {number: [] for number in absent}
        for number in sorted(streams or {min(last, default=0): []}):
            frames.append(
                HandFrame(
                    picture.time_ns, picture.index, streams.get(number, []), f"person{number}"
                )
            )
    return HandFrames(name, frames, faults.notes())


def _frame_hand(hand: PointHand, id: int, origin: Points | None, scale: float) -> HandSample:
    assert origin is not None  # set by the first hand
    origin = origin[: hand.points.shape[1]]
    return HandSample(id, hand.side, placed(hand, origin, scale), hand.confidence, hand.lacks)


@dataclass(slots=True)
class _Place:
    """One of the people wanted, live: who has the place, seen last when, and how large."""

    arrival: int
    time_ns: int
    palms: dict[Side, deque[float]] = field(default_factory=dict)


@dataclass
class LiveLifter:
    """The same, as frames come: a scale from the last frames, the first wrist as origin.

    The first ``max_people`` to come have a place; it is free for whoever is in view when they have
    been out of sight for ``FORGET_NS``."""

    max_people: int = 1
    faults: Faults = field(default_factory=Faults)
    _follower: Follower = field(default_factory=Follower)
    _places: dict[int, _Place] = field(default_factory=dict)
    _origin: Points | None = None

    def push(self, picture: Picture) -> list[HandSample]:
        """Hands of those who have a place; ids tell places and sides apart."""
        hands = []
        follows = self._follower.follow(picture.people, picture.time_ns)
        places = self._placed({who.arrival for who in follows if who}, picture.time_ns)
        for who, person in zip(follows, picture.people, strict=True):
            if who is None or who.arrival not in places:
                self.faults.add("people not followed")
                continue
            number = places[who.arrival]
            for hand in person.hands:
                if self._origin is None:
                    self._origin = hand.points[_WRIST]
                palms = self._places[number].palms.setdefault(hand.side, deque(maxlen=SCALE_FRAMES))
                palms.append(hand.palm)
                scale = m_per_unit(palms)
                hands.append(_frame_hand(hand, 4 * number + IDS[hand.side], self._origin, scale))
        return hands

    def _placed(self, here: set[int], time_ns: int) -> dict[int, int]:
        """The place of each arrival in view that has one: who waits takes what has become free."""
        for place in self._places.values():
            if place.arrival in here:
                place.time_ns = time_ns
        waiting = sorted(here - {place.arrival for place in self._places.values()})
        for number in range(self.max_people):
            held = self._places.get(number)
            if waiting and (held is None or time_ns - held.time_ns > FORGET_NS):
                self._places[number] = _Place(waiting.pop(0), time_ns)
        return {place.arrival: number for number, place in self._places.items()}
