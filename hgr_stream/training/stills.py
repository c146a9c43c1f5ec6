"""Hands that take up a movement's posture and hold still: no gesture, and often taken for one.

Recordings hold few of these: who is told to perform a gesture performs it. A network then learns
the posture for the movement (a pointing hand for DENY), and tells it of anybody who points. So a
part of what is learnt as none is made of the gestures themselves: the hand comes as it came, stays
where it is in a posture of the gesture, and goes back as it came. Neither its palm nor its fingers
perform: a hand that closes and stays closed has grabbed. Poses, whose posture is the gesture, are
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from ..skeleton import (
    INDEX_BASE,
    MIDDLE_BASE,
    PALM,
    PINKY_BASE,
    RING_BASE,
    THUMB_BASE,
    WRIST,
    Float32,
)
from . import augment
from .streams import Float64, Gesture, Mark, Stream, resample

#: Joints of a pose that is held move at 0.02 to 0.06 m/s in the mean (SHREC'21 and '22), those of
#: the least movement, PINCH, at 0.14.
HELD_M_S: Final = 0.1
#: How long the hand takes from the way there to a posture that is of mid-gesture, and back.
GLIDE_S: Final = 0.2
#: Where a joint has moved as far as this beside the palm, the fingers perform: fingertips do by 10
#: to 12 cm in GRAB, PINCH and EXPAND, by 2 to 3 cm in strokes (SHREC'22).
PERFORMED_M: Final = 0.03
_OF_THE_PALM: Final = [WRIST, PALM, THUMB_BASE, INDEX_BASE, MIDDLE_BASE, RING_BASE, PINKY_BASE]


def movements(streams: Sequence[Stream], gestures: Sequence[Gesture]) -> list[Gesture]:
    """Those of the gestures whose class is a movement: no pose that is held."""
    speeds: dict[int, list[float]] = {}
    for i, m in set(gestures):
        speeds.setdefault(m.label, []).append(_speed(streams[i], m))
    moving = {label for label, found in speeds.items() if np.median(found) > HELD_M_S}
    return [(i, m) for i, m in gestures if m.label in moving]


def _speed(stream: Stream, mark: Mark) -> float:
    """Of the joints in the mean, m/s; frames as far apart as a slow sensor's, to see no noise."""
    seconds = max(mark.end_s - mark.start_s, 0.04)
    at_s = mark.start_s + np.linspace(0.0, seconds, max(round(seconds / 0.04), 1) + 1)
    steps = np.diff(resample(stream.joints, stream.time_s, at_s), axis=0)
    return float(np.linalg.norm(steps, axis=-1).sum(0).mean() / seconds)


@dataclass(frozen=True)
class Still:
    """joints (T, 22, 3), and where the way there (seconds of the recording, increasing) and the way
    back (decreasing) lie in the recording; between them the hand is held."""

    joints: Float32
    way_s: Float64
    back_s: Float64


def draw_still(
    stream: Stream,
    mark: Mark,
    ticks: tuple[int, int, int],
    rate_hz: float,
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Still:
    """A hand that comes, holds still in a posture of the gesture ``mark``, and goes back.

    The posture is taken up where the hand is, without the way that the palm goes in the gesture;
    where the fingers would perform the gesture by taking it up, it is that of its beginning.

    ticks: of the way there, the hold and the way back, at ``rate_hz``. Nothing about the hand is
    distorted yet; its speed on the way is.
    """
    before, held, after = ticks
    share = rng.random() if rng.random() < 0.5 else rng.uniform(-0.1, 0.25)
    at_s = mark.start_s + share * (mark.end_s - mark.start_s)
    at_s = float(np.clip(at_s, stream.time_s[0], stream.time_s[-1]))
    turn_s = min(at_s, mark.start_s)  # the gesture itself is not gone through
    speed = augment.speeds(max(before, 1), rate_hz, rng, strength)[:before]
    away_s = np.maximum(turn_s - np.cumsum(speed[::-1]) / rate_hz, stream.time_s[0])
    way_s = away_s[::-1]
    back_s = np.concatenate([away_s, np.full(after, away_s[-1] if before else turn_s)])[:after]
    there, back = (resample(stream.joints, stream.time_s, t) for t in (way_s, back_s))
    here, posture = resample(stream.joints, stream.time_s, np.array([turn_s, at_s]))
    posture = _placed(posture, here)
    if np.linalg.norm(posture - here, axis=-1).max() > PERFORMED_M:
        posture = here
    hold = posture[None].repeat(held, 0)
    if at_s > turn_s:
        glide = round(GLIDE_S * rate_hz)
        share_of = (np.arange(1, glide + 1, dtype=np.float32) / (glide + 1))[:, None, None]
        if before:
            n = min(glide, held)
            hold[:n] = there[-1:] + (posture - there[-1:]) * share_of[:n]
        n = min(glide, after)
        back[:n] = posture + (back[:n] - posture) * share_of[:n]
    return Still(np.concatenate([there, hold, back]), way_s, back_s)


def _placed(hand: Float32, there: Float32) -> Float32:
    """The hand, (22, 3), with its palm where that of the hand ``there`` is."""
    mine, wanted = hand[_OF_THE_PALM], there[_OF_THE_PALM]
    turn, _ = Rotation.align_vectors(wanted - wanted.mean(0), mine - mine.mean(0))
    placed: Float32 = (turn.apply(hand - mine.mean(0)) + wanted.mean(0)).astype(np.float32)
    return placed
