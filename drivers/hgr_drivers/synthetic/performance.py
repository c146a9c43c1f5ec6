"""A performance: a script of gestures, played by one hand, as a function of time.

``Performance(labels, seed)`` is pure: the same arguments give the same movement, and time is an
argument (``joints(t_s)``). Every repetition differs a little in speed, size, tilt and place; the
resting hand drifts, and it trembles as hands do (physiological tremor, 8-12 Hz). Everything is
periodic in ``duration_s``, so that a performance can be played as a loop without a seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hgr_stream.skeleton import Float32

from .gestures import GESTURES, REST, Path, Posture
from .hand import (
    LIMITS,
    N_ANGLES,
    Float,
    HandShape,
    forward,
    rotation_from_vector,
    vector_from_rotation,
)

#: Where the hand rests: over a sensor that lies on the table.
HOME_M: Final = (0.03, 0.21, 0.02)
#: The time to the first gesture, and from the last one's way back to the end.
LEAD_S: Final = 1.5


@dataclass(frozen=True)
class Act:
    """One gesture as performed; seconds from the start of the performance."""

    label: str
    onset_s: float
    offset_s: float


@dataclass(frozen=True)
class _State:
    palm: Float  # (3,)
    rotation: Float  # (3, 3)
    angles: Float  # (20,)


@dataclass(frozen=True)
class _Move:
    start_s: float
    end_s: float
    a: _State
    b: _State
    path: Path | None
    scale: float  # of the path
    windows: Float  # (20, 2): the part of the time in which each angle moves


def minimum_jerk(u: Float) -> Float:
    """Flash and Hogan (1985): 0..1 -> 0..1 with no velocity or acceleration at the ends."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10.0 + u * (6.0 * u - 15.0))


class Performance:
    """``labels`` performed in order, ``pause_s`` of rest between (drawn from 0.8 to 1.25 of it).

    ``variation`` scales how much repetitions differ (0: all alike). ``home_m`` is where the palm
    rests. Raises ValueError for an unknown label.
    """

    def __init__(
        self,
        labels: Sequence[str],
        seed: int = 0,
        *,
        pause_s: float = 2.0,
        variation: float = 1.0,
        shape: HandShape | None = None,
        home_m: tuple[float, float, float] = HOME_M,
    ) -> None:
        unknown = sorted(set(labels) - set(GESTURES))
        if unknown:
            raise ValueError(f"unknown gesture {unknown[0]!r}; known: {', '.join(GESTURES)}")
        rng = np.random.default_rng(seed)
        self.shape = shape or HandShape.random(rng)
        self.acts: list[Act] = []
        self._rng = rng
        self._variation = variation
        self._home = np.array(home_m)
        self._moves: list[_Move] = []
        self._now = 0.0
        self._state = first = self._rest()
        self._wait(LEAD_S)
        for i, label in enumerate(labels):
            if i:
                self._wait(pause_s * self._spread(0.8, 1.25))
            self._perform(label)
        self._go(0.5, first)
        self._wait(LEAD_S)
        self.duration_s = self._now
        self._idle()

    # -------------------------------------------------------------------------- composing it
    def _normal(self, sigma: float, size: int | None = None) -> Float:
        return np.asarray(
            np.clip(self._rng.normal(0.0, 1.0, size), -2.0, 2.0) * sigma * self._variation
        )

    def _spread(self, low: float, high: float) -> float:
        middle = 0.5 * (low + high)
        return middle + (float(self._rng.uniform(low, high)) - middle) * self._variation

    def _stance(self, posture: Posture, palm: Float, tilt: Float, curl: Float) -> _State:
        angles = np.clip(posture.angles() + curl, LIMITS[:, 0], LIMITS[:, 1])
        return _State(palm, tilt @ posture.rotation(), angles)

    def _rest(self) -> _State:
        tilt = rotation_from_vector(self._normal(np.radians(4.0), 3))
        curl = np.zeros(N_ANGLES)
        curl[:16:4] = self._normal(np.radians(5.0), 1)  # all fingers curl together
        curl[2:16:4] = self._normal(np.radians(6.0), 1)
        return self._stance(REST, self._home + self._normal(0.015, 3), tilt, curl)

    def _go(
        self,
        duration_s: float,
        to: _State,
        path: Path | None = None,
        scale: float = 1.0,
        fingers: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        low, high = fingers
        windows = np.tile([low, high], (N_ANGLES, 1))
        # People do not move five fingers as one: each starts and ends in its own time.
        slack = 0.12 * (high - low) * min(self._variation, 1.0)
        for finger in range(5):
            early, late = self._rng.uniform(0.0, slack, 2)
            windows[4 * finger : 4 * finger + 4] += [early, -late]
        end = self._now + duration_s
        self._moves.append(_Move(self._now, end, self._state, to, path, scale, windows))
        self._now, self._state = end, to

    def _wait(self, duration_s: float) -> None:
        if duration_s > 0.0:
            self._go(duration_s, self._state)

    def _perform(self, label: str) -> None:
        gesture = GESTURES[label]
        tilt = rotation_from_vector(self._normal(np.radians(4.0), 3))
        curl = self._normal(np.radians(2.5), N_ANGLES)
        speed = float(np.exp(self._normal(0.10)))
        size = float(np.exp(self._normal(0.08)))
        palm = self._home + gesture.place + self._normal(0.015, 3)
        self._go(self._spread(0.40, 0.60), self._stance(gesture.start, palm, tilt, curl))
        self._wait(gesture.settle_s * self._spread(0.8, 1.4))
        onset = self._now
        for labelled, strokes in ((True, gesture.strokes), (False, gesture.after)):
            for stroke in strokes:
                palm = palm + size * np.array(stroke.move)
                to = self._stance(stroke.to, palm, tilt, curl)
                self._go(stroke.duration_s / speed, to, stroke.path, size, stroke.fingers)
            if labelled:
                self.acts.append(Act(label, onset, self._now))
        self._wait(gesture.hold_s * self._spread(0.8, 1.4))
        self._go(gesture.return_s * self._spread(0.8, 1.2), self._rest())

    def extend(self, duration_s: float) -> None:
        """Rest at the end until ``duration_s``, so that several performances loop together."""
        self._wait(duration_s - self._now)
        self.duration_s = self._now
        self._idle()

    def _idle(self) -> None:
        self._drift = self._sines(9, 0.08, 0.6)
        self._tremor = self._sines(6, 8.0, 12.0)

    def _sines(self, rows: int, low_hz: float, high_hz: float) -> Float:
        """(rows, 3, 3): three sines a row, each with cycles in the loop, phase and weight."""
        cycles = np.round(self._rng.uniform(low_hz, high_hz, (rows, 3)) * self.duration_s)
        phase = self._rng.uniform(0.0, 2.0 * np.pi, (rows, 3))
        weight = self._rng.uniform(0.5, 1.0, (rows, 3))
        weight /= np.sqrt(0.5 * np.sum(weight**2, axis=1, keepdims=True))  # unit r.m.s.
        return np.stack([np.maximum(cycles, 1.0), phase, weight], axis=1)

    def _wave(self, sines: Float, t_s: Float) -> Float:
        """(T, rows) of unit r.m.s."""
        cycles, phase, weight = sines[:, 0], sines[:, 1], sines[:, 2]
        turn = 2.0 * np.pi * t_s[:, None, None] / self.duration_s
        return np.asarray(np.sum(weight * np.sin(cycles * turn + phase), axis=-1))

    # ---------------------------------------------------------------------------- playing it
    def pose(self, t_s: Float) -> tuple[Float, Float, Float]:
        """Times (T,) -> joint angles (T, 20) radians, palm (T, 3) metres, rotation (T, 3, 3)."""
        t_s = np.mod(np.asarray(t_s, dtype=float), self.duration_s)
        n = len(t_s)
        angles, palm, rotation = np.empty((n, N_ANGLES)), np.empty((n, 3)), np.empty((n, 3, 3))
        ends = np.array([move.end_s for move in self._moves])
        which = np.minimum(np.searchsorted(ends, t_s, side="right"), len(ends) - 1)
        for k in np.unique(which):
            move, here = self._moves[k], which == k
            u = (t_s[here] - move.start_s) / (move.end_s - move.start_s)
            s = minimum_jerk(u)
            low, high = move.windows[:, 0], move.windows[:, 1]
            each = minimum_jerk((u[:, None] - low) / (high - low))
            angles[here] = move.a.angles + (move.b.angles - move.a.angles) * each
            palm[here] = move.a.palm + (move.b.palm - move.a.palm) * s[:, None]
            turn = vector_from_rotation(move.b.rotation @ move.a.rotation.T)
            rotation[here] = rotation_from_vector(s[:, None] * turn) @ move.a.rotation
            if move.path is not None:
                offset = move.scale * move.path(s)
                palm[here] += offset[:, :3]
                rotation[here] = rotation_from_vector(offset[:, 3:]) @ rotation[here]
        drift, tremor = self._wave(self._drift, t_s), self._wave(self._tremor, t_s)
        palm += 0.004 * drift[:, :3] + 0.00015 * tremor[:, :3]
        sway = np.radians(1.5) * drift[:, 3:6] + np.radians(0.12) * tremor[:, 3:6]
        rotation = rotation_from_vector(sway) @ rotation
        angles[:, :16:4] += np.radians(1.2) * drift[:, 6:7]
        angles[:, 2:16:4] += np.radians(1.5) * drift[:, 7:8]
        angles[:, 16:] += np.radians(1.0) * drift[:, 8:9]
        return np.clip(angles, LIMITS[:, 0], LIMITS[:, 1]), palm, rotation

    def joints(self, t_s: Float) -> Float32:
        """Times (T,) in seconds (any; the performance repeats) -> joints (T, 22, 3) of a right
        hand, float32, metres, canonical, without sensor noise."""
        return forward(*self.pose(t_s), self.shape)

    def at(self, t_s: float) -> Float32:
        """The joints (22, 3) at one time."""
        joints: Float32 = self.joints(np.array([t_s]))[0]
        return joints


def sensor_noise(n: int, rate_hz: float, rms_m: float, rng: np.random.Generator) -> Float32:
    """(n, 22, 3) of noise as a hand tracker has it, with the r.m.s. ``rms_m`` a joint (over its
    three axes together): two thirds of the power drift over some 50 ms (the tracker's own
    smoothing), and are half shared by the whole hand; the rest is white. Periodic in n."""
    shape = (n, 22, 3)
    slow = 0.5**0.5 * (rng.normal(size=shape) + rng.normal(size=(n, 1, 3)))
    spectrum = np.fft.rfft(slow, axis=0)
    low_pass = 1.0 / (1.0 + 1j * np.fft.rfftfreq(n, 1.0 / rate_hz) / 3.0)
    slow = np.fft.irfft(spectrum * low_pass[:, None, None], n, axis=0)
    slow /= max(float(slow.std()), 1e-12)
    noise = (2.0 / 3.0) ** 0.5 * slow + (1.0 / 3.0) ** 0.5 * rng.normal(size=shape)
    return np.asarray(noise * (rms_m / 3.0**0.5), dtype=np.float32)
