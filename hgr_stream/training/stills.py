"""Hands that take up a movement's posture and hold still: no gesture, and often taken for one.

Recordings hold few of these: who is told to perform a gesture performs it. A network then learns
the posture for the movement (a pointing hand for DENY), and tells it of anybody who points. So a
part of what is learnt as none is made of the gestures themselves: the hand comes as it came, stays
where the gesture would begin, and goes back as it came. Poses, whose posture is the gesture, are
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..skeleton import Float32
from . import augment
from .streams import Float64, Gesture, Mark, Stream, resample

#: Joints of a pose that is held move at 0.02 to 0.06 m/s in the mean (SHREC'21 and '22), those of
#: the least movement, PINCH, at 0.14.
HELD_M_S: Final = 0.1
#: When the hand stops, as shares of the gesture: about to begin it.
STOPS: Final = (-0.1, 0.15)


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
    """A hand that comes, holds still where the gesture ``mark`` begins, and goes back.

    ticks: of the way there, the hold and the way back, at ``rate_hz``. Nothing about the hand is
    distorted yet; its speed on the way is.
    """
    before, held, after = ticks
    stop_s = mark.start_s + rng.uniform(*STOPS) * (mark.end_s - mark.start_s)
    stop_s = float(np.clip(stop_s, stream.time_s[0], stream.time_s[-1]))
    speed = augment.speeds(max(before, after, 1), rate_hz, rng, strength)
    away_s = np.maximum(stop_s - np.cumsum(speed) / rate_hz, stream.time_s[0])
    way_s, back_s = away_s[:before][::-1], away_s[:after]
    at_s = np.concatenate([way_s, np.full(held, stop_s), back_s])
    return Still(resample(stream.joints, stream.time_s, at_s), way_s, back_s)
