"""What the synthetic hand can do: postures, strokes and the seventeen gestures of SHREC'21.

A gesture is a posture to begin in, one or more strokes (each a minimum-jerk movement to another
posture and place, Flash and Hogan 1985), and a way to leave. The figures (angles in degrees,
metres, seconds) are authored to the character of people performing the classes of the SHREC'21
track (Caputo et al. 2021): its medians of posture, extent and duration, rounded; no recorded
trajectory is kept. All of it is for a right hand, canonical axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .hand import Float, orientation

Degrees4 = tuple[float, float, float, float]
Vector = tuple[float, float, float]
#: s in 0..1, shape (n,), -> (n, 6): palm offset in metres and rotation vector in radians, both in
#: world axes, zero at both ends.
Path = Callable[[Float], Float]


@dataclass(frozen=True)
class Posture:
    """Joint angles in degrees (mcp, abduction, pip, dip; thumb: radial, palmar, mcp, ip) and where
    the fingers point and the back of the hand faces."""

    index: Degrees4
    middle: Degrees4
    ring: Degrees4
    pinky: Degrees4
    thumb: Degrees4
    pointing: Vector
    back: Vector

    def angles(self) -> Float:
        """(20,) radians."""
        return np.radians([*self.index, *self.middle, *self.ring, *self.pinky, *self.thumb])

    def rotation(self) -> Float:
        """(3, 3), palm axes to world."""
        return orientation(self.pointing, self.back)


@dataclass(frozen=True)
class Stroke:
    """One movement: in ``duration_s`` to a posture, with the palm going by ``move``."""

    duration_s: float
    to: Posture
    move: Vector = (0.0, 0.0, 0.0)
    path: Path | None = None
    fingers: tuple[float, float] = (0.0, 1.0)  #: the part of the time in which fingers move


@dataclass(frozen=True)
class Gesture:
    """``start`` at ``place`` (from where the hand rests); ``strokes`` are what is labelled;
    ``after`` is done before the hand stays for ``hold_s`` and goes back to rest."""

    label: str
    start: Posture
    strokes: tuple[Stroke, ...]
    place: Vector = (0.0, 0.04, 0.0)
    settle_s: float = 0.12
    after: tuple[Stroke, ...] = ()
    hold_s: float = 0.35
    return_s: float = 0.65  #: the way back; unhurried after a stroke, or it would be one itself


# ------------------------------------------------------------------------------------- postures
REST: Final = Posture(
    index=(10, 2, 17, 10),
    middle=(14, -5, 28, 20),
    ring=(16, -12, 31, 21),
    pinky=(20, -22, 40, 34),
    thumb=(40, 14, 12, 15),
    pointing=(-0.50, 0.42, -0.72),
    back=(0.09, 0.88, 0.45),
)
_FIST_MIDDLE: Final = (79.0, 0.0, 77.0, 50.0)
_FIST_RING: Final = (80.0, 0.0, 77.0, 45.0)
_FIST_PINKY: Final = (75.0, 0.0, 73.0, 46.0)
POINT: Final = Posture(
    index=(-1, 0, 5, 4),
    middle=_FIST_MIDDLE,
    ring=_FIST_RING,
    pinky=_FIST_PINKY,
    thumb=(27, 25, 43, 42),
    pointing=(-0.59, 0.78, -0.14),
    back=(0.48, 0.49, 0.73),
)
FLAT: Final = Posture(
    index=(-4, 6, 9, 6),
    middle=(-4, -3, 11, 7),
    ring=(-1, -15, 12, 8),
    pinky=(5, -28, 19, 20),
    thumb=(38, 17, 6, 2),
    pointing=(0.24, 0.86, -0.42),
    back=(0.76, 0.0, 0.62),
)
FIST: Final = Posture(
    index=(78, 0, 74, 38),
    middle=(77, 0, 75, 42),
    ring=(77, 0, 74, 44),
    pinky=(75, 0, 72, 37),
    thumb=(25, 27, 40, 43),
    pointing=(-0.49, 0.77, -0.33),
    back=(0.43, 0.52, 0.74),
)
SPREAD: Final = Posture(  # ready to grab
    index=(-11, 4, 9, 6),
    middle=(-18, -10, 12, 10),
    ring=(-17, -18, 14, 12),
    pinky=(0, -31, 36, 28),
    thumb=(46, 21, 3, 0),
    pointing=(-0.38, 0.78, -0.47),
    back=(0.20, 0.58, 0.78),
)
BUNCH: Final = Posture(  # all fingertips together
    index=(60, -5, 68, 26),
    middle=(56, 0, 71, 37),
    ring=(53, -1, 62, 41),
    pinky=(68, -4, 58, 27),
    thumb=(15, 29, 27, 10),
    pointing=(-0.44, 0.86, -0.22),
    back=(0.40, 0.36, 0.77),
)
WIDE: Final = replace(
    BUNCH,
    index=(-21, 6, 7, 4),
    middle=(-21, -11, 12, 12),
    ring=(-25, -19, 5, 7),
    pinky=(-26, -39, 11, 9),
    thumb=(49, 17, -4, -11),
    pointing=(-0.39, 0.76, -0.48),
    back=(0.08, 0.58, 0.80),
)
PINCH_OPEN: Final = replace(
    POINT,
    index=(-15, -8, 6, 5),
    thumb=(49, 22, 4, -7),
    pointing=(-0.18, 0.87, -0.43),
    back=(0.36, 0.42, 0.80),
)
PINCH_CLOSED: Final = replace(
    PINCH_OPEN,
    index=(66, 0, 51, 24),
    thumb=(24, 31, 21, 11),
    pointing=(-0.29, 0.93, -0.21),
    back=(0.50, 0.30, 0.81),
)
TAP_UP: Final = replace(
    POINT,
    index=(0, -6, 19, 12),
    middle=(52, 0, 85, 46),
    thumb=(30, 25, 49, 43),
    pointing=(-0.03, 0.99, -0.02),
    back=(0.70, 0.02, 0.70),
)
TAP_DOWN: Final = replace(
    TAP_UP,
    index=(24, -6, 26, 11),
    middle=(70, 0, 75, 58),
    pointing=(-0.39, 0.68, -0.60),
    back=(0.30, 0.71, 0.63),
)
CLAW: Final = Posture(  # round a knob
    index=(4, 1, 52, 32),
    middle=(-5, -8, 66, 43),
    ring=(12, -11, 62, 35),
    pinky=(40, -5, 62, 30),
    thumb=(37, 29, 19, 27),
    pointing=(-0.66, 0.60, -0.45),
    back=(-0.08, 0.53, 0.84),
)
CLAW_TURNED: Final = replace(CLAW, pointing=(-0.05, 0.78, -0.62), back=(0.78, 0.26, 0.56))


def _facing(posture: Posture, pointing: Vector, back: Vector) -> Posture:
    return replace(posture, pointing=pointing, back=back)


# ---------------------------------------------------------------------------------------- paths
def _bow(offset: Vector) -> Path:
    """Half a sine wave: away by ``offset`` in the middle of the movement."""

    def path(s: Float) -> Float:
        out = np.zeros((len(s), 6))
        out[:, :3] = np.sin(np.pi * s)[:, None] * np.array(offset)
        return out

    return path


def _circle(radius_m: float, tilt_deg: float) -> Path:
    """Once round, clockwise as the user sees it, from the lowest point; the pointing finger leans
    the way the hand has gone, so that its tip draws a larger circle than the palm."""

    def path(s: Float) -> Float:
        phase = 2.0 * np.pi * s
        x, y = -np.sin(phase), 1.0 - np.cos(phase)
        out = np.zeros((len(s), 6))
        out[:, 0], out[:, 1], out[:, 2] = radius_m * x, radius_m * y, 0.35 * radius_m * y
        tilt = np.radians(tilt_deg)
        out[:, 3] = tilt * y  # up: about the x axis
        out[:, 4] = -tilt * x  # left and right: about the vertical
        return out

    return path


def _wag(axis: Vector, amplitude_deg: float, cycles: int) -> Path:
    """A turn to and fro about ``axis``, swelling and dying away at the ends."""

    def path(s: Float) -> Float:
        out = np.zeros((len(s), 6))
        envelope = np.clip(np.minimum(s, 1.0 - s) * 2.0 * cycles, 0.0, 1.0)
        envelope = envelope * envelope * (3.0 - 2.0 * envelope)
        turn = np.radians(amplitude_deg) * envelope * np.sin(2.0 * np.pi * cycles * s)
        out[:, 3:] = turn[:, None] * np.array(axis)
        return out

    return path


# ------------------------------------------------------------------------------------- gestures
def _pose(label: str, posture: Posture, hold_s: float = 2.6) -> Gesture:
    return Gesture(label, posture, (Stroke(hold_s, posture),), settle_s=0.0, hold_s=0.0)


_TWO: Final = Posture(
    index=(-6, 12, 9, 5),
    middle=(-6, -14, 7, 4),
    ring=(76, 0, 84, 46),
    pinky=(80, 0, 79, 41),
    thumb=(20, 27, 57, 46),
    pointing=(-0.42, 0.83, -0.37),
    back=(0.21, -0.25, -0.94),
)
_OPEN: Final = Posture(
    index=(-3, 14, 13, 8),
    middle=(-4, -2, 16, 10),
    ring=(-2, -12, 14, 9),
    pinky=(-2, -40, 16, 10),
    thumb=(45, 13, 3, -3),
    pointing=(-0.28, 0.90, -0.33),
    back=(0.09, -0.30, -0.95),
)
_POSES: Final = (
    _pose(
        "ONE",
        Posture(
            index=(86, -4, 88, 38),
            middle=(87, 0, 88, 41),
            ring=(83, 0, 87, 45),
            pinky=(77, 0, 86, 46),
            thumb=(47, 12, -1, -17),
            pointing=(-0.82, 0.37, -0.44),
            back=(0.40, -0.16, -0.90),
        ),
    ),
    _pose("TWO", _TWO),
    _pose(
        "THREE",
        replace(
            _TWO,
            index=(-2, 13, 17, 9),
            middle=(-2, -12, 16, 6),
            thumb=(45, 13, 3, -4),
            pointing=(-0.51, 0.78, -0.35),
            back=(0.16, -0.24, -0.94),
        ),
    ),
    _pose(
        "FOUR",
        replace(
            _OPEN,
            index=(-6, 6, 8, 6),
            middle=(-1, -5, 11, 8),
            ring=(-3, -13, 12, 6),
            pinky=(2, -27, 13, 5),
            thumb=(18, 24, 55, 42),
            pointing=(-0.29, 0.91, -0.27),
            back=(0.13, -0.19, -0.97),
        ),
    ),
    _pose(
        "OK",
        replace(
            _OPEN,
            index=(64, 0, 50, 27),
            middle=(2, -5, 26, 10),
            ring=(-7, -13, 22, 13),
            pinky=(-20, -27, 25, 9),
            thumb=(26, 36, 30, 34),
            pointing=(-0.17, 0.97, -0.05),
            back=(0.92, 0.16, 0.33),
        ),
    ),
    _pose("MENU", _OPEN),
)

_LEFT_END: Final = _facing(FLAT, (-0.83, 0.49, -0.25), (0.24, 0.02, -0.93))
_RIGHT_START: Final = replace(
    _facing(FLAT, (-0.78, 0.43, -0.43), (0.52, 0.05, -0.80)),
    index=(12, 4, 16, 11),
    middle=(16, -3, 18, 13),
    ring=(17, -12, 20, 14),
    pinky=(30, -18, 19, 18),
    thumb=(37, 19, 10, 0),
)
_RIGHT_END: Final = _facing(FLAT, (0.33, 0.88, -0.32), (0.50, 0.08, 0.82))
_V_LOW: Final = _facing(POINT, (-0.62, 0.24, -0.72), (0.04, 0.95, 0.30))
_V_END: Final = _facing(POINT, (-0.09, 0.95, -0.28), (0.43, 0.29, 0.82))
_CROSS_START: Final = _facing(POINT, (-0.61, 0.76, -0.18), (0.36, 0.45, 0.79))
_CROSS_RIGHT: Final = _facing(POINT, (-0.42, 0.38, -0.82), (-0.18, 0.86, 0.48))
_CROSS_LEFT: Final = _facing(POINT, (-0.86, 0.23, -0.46), (0.07, 0.93, 0.30))
_CROSS_END: Final = _facing(POINT, (-0.12, 0.90, -0.40), (0.32, 0.42, 0.80))
_CIRCLE: Final = _facing(POINT, (-0.52, 0.44, -0.72), (0.05, 0.86, 0.50))
_DENY: Final = replace(
    _facing(POINT, (-0.41, 0.86, -0.29), (0.41, 0.44, 0.78)), index=(-9, -5, 3, 3)
)
GESTURES: Final[dict[str, Gesture]] = {
    gesture.label: gesture
    for gesture in (
        *_POSES,
        Gesture(
            "LEFT",
            FLAT,
            (Stroke(0.52, _LEFT_END, (-0.26, -0.03, 0.05), _bow((0.0, -0.02, -0.06))),),
            place=(0.06, 0.04, 0.0),
            hold_s=0.45,
            return_s=1.1,
        ),
        Gesture(
            "RIGHT",
            _RIGHT_START,
            (Stroke(0.45, _RIGHT_END, (0.24, 0.05, -0.03), _bow((0.0, -0.02, -0.06))),),
            place=(-0.09, 0.02, 0.01),
            hold_s=0.45,
            return_s=1.1,
        ),
        Gesture(
            "CIRCLE",
            _CIRCLE,
            (Stroke(1.15, _CIRCLE, path=_circle(0.112, 13.0)),),
            place=(0.01, 0.0, 0.0),
        ),
        Gesture(
            "V",
            POINT,
            (
                Stroke(0.28, _V_LOW, (0.07, -0.08, -0.04)),
                Stroke(0.28, _V_END, (0.05, 0.11, 0.04)),
            ),
            place=(-0.07, 0.08, 0.04),
        ),
        Gesture(
            "CROSS",
            _CROSS_START,
            (
                Stroke(0.30, _CROSS_RIGHT, (0.16, -0.12, -0.06)),
                Stroke(0.30, _CROSS_LEFT, (-0.18, -0.01, 0.03)),
                Stroke(0.30, _CROSS_END, (0.17, 0.13, 0.01)),
            ),
            place=(-0.09, 0.08, 0.04),
        ),
        Gesture(
            "GRAB",
            SPREAD,
            (Stroke(0.50, FIST, (-0.03, 0.02, 0.02), _bow((0.0, 0.0, -0.09)), (0.2, 1.0)),),
            hold_s=0.9,
        ),
        Gesture(
            "PINCH",
            PINCH_OPEN,
            (Stroke(0.48, PINCH_CLOSED, (-0.01, 0.025, 0.0)),),
            hold_s=0.8,
        ),
        Gesture(
            "TAP",
            TAP_UP,
            (Stroke(0.38, TAP_DOWN, (-0.01, -0.01, -0.065)),),
            after=(Stroke(0.26, TAP_UP, (0.01, 0.01, 0.06)),),
            hold_s=0.45,
        ),
        Gesture(
            "DENY",
            _DENY,
            (Stroke(1.5, _DENY, path=_wag((0.42, 0.45, 0.79), 19.0, 4)),),
            hold_s=0.1,
        ),
        Gesture(
            "KNOB",
            CLAW,
            (Stroke(0.45, CLAW_TURNED, (0.02, 0.02, -0.01)),),
            hold_s=0.5,
        ),
        Gesture(
            "EXPAND",
            BUNCH,
            (Stroke(0.34, WIDE, (-0.02, 0.0, -0.07)),),
            settle_s=0.3,
            hold_s=0.9,
        ),
    )
}
LABELS: Final = tuple(GESTURES)
