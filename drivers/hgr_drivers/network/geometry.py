"""Axes and a default hand for the senders of bones.

Quaternions are (x, y, z, w) arrays, as Unity, OptiTrack and Manus send them.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.skeleton import (
    MIDDLE_BASE,
    WRIST,
    Float32,
    Side,
    extend_tips,
    mirrored,
    with_palm,
)

from ..synthetic.hand import ANGLES, forward

Float = NDArray[np.float64]

#: Farther from the origin than this no hand is meant: 1 km, in metres.
FAR_M: Final = 1000.0
#: Where the thumb lies in a T-pose, as avatars and suits have it: half way out of the hand.
_T_POSE_THUMB_RAD: Final = np.radians(45.0)

Axes = Literal["unity", "y-up", "z-up"]
Heading = Annotated[float, Meta(ge=-360, le=360)]
#: A sender's axes -> canonical (x = the performer's right, y up, z towards the performer's back),
#: for a performer who faces the sender's own "forward".
_TO_CANONICAL: Final[dict[Axes, tuple[tuple[float, float, float], ...]]] = {
    # Unity and what is built on it: left-handed, y up, z forward.
    "unity": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    # Motive, and MVN with y up: right-handed, y up, z forward, so x is the performer's left.
    "y-up": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    # MVN, ROS: right-handed, z up, x forward.
    "z-up": ((0, -1, 0), (0, 0, 1), (-1, 0, 0)),
}


@cache
def _matrix(axes: Axes, scale: float, heading_deg: float) -> Float:
    heading = np.radians(heading_deg)
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    out: Float = scale * (turn @ np.array(_TO_CANONICAL[axes], dtype=float))
    return out


def to_canonical(
    points: NDArray[np.floating], axes: Axes, *, scale: float = 1.0, heading_deg: float = 0.0
) -> Float32:
    """(..., 3) in a sender's axes and unit -> canonical metres; ``scale`` is metres a unit.

    ``heading_deg`` turns the result about the vertical (counter-clockwise from above): it is the
    way to say that the performer does not face the sender's "forward".
    """
    out: Float32 = (np.asarray(points) @ _matrix(axes, scale, heading_deg).T).astype(np.float32)
    return out


def plausible(points: NDArray[np.floating]) -> bool:
    """All finite, and within 1 km of the origin (in metres)."""
    return bool(np.abs(points).max(initial=0.0) <= FAR_M)  # false for NaN


def without_tips(points: Float32) -> Float32:
    """Canonical (22, 3) whose tips and palm were not given: both are worked out, in place."""
    return extend_tips(with_palm(points))


def collapsed(joints: Float32) -> bool:
    """True when wrist and middle base coincide: a sender that has no data sends zeros."""
    gap = joints[MIDDLE_BASE] - joints[WRIST]
    return float(gap @ gap) < 1e-6


def rotate(quaternion: Float, vector: Float) -> Float:
    """Rotate (..., 3) by (..., 4) unit quaternions."""
    u, w = quaternion[..., :3], quaternion[..., 3:]
    out: Float = vector + 2.0 * np.cross(u, np.cross(u, vector) + w * vector)
    return out


@cache
def t_pose_hand(side: Side) -> Float32:
    """A default hand (22, 3) in metres, wrist at the origin, as it lies in a T-pose: the arm
    stretched out to the side, palm down. Bone lengths are the medians of SHREC'17."""
    angles = np.zeros((1, len(ANGLES)))
    angles[0, ANGLES.index("thumb_radial")] = _T_POSE_THUMB_RAD
    # Fingers point away from the user: turn them to the right.
    turn = np.array([[[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    hand = forward(angles, np.zeros((1, 3)), turn)[0]
    hand -= hand[WRIST]
    hand = without_tips(hand)
    if side == "left":
        hand = mirrored(hand)
    hand.setflags(write=False)
    return hand
