"""The canonical hand: 22 joints, their axes, and the layouts of other sources mapped onto them.

Everything past a driver or an importer speaks this one skeleton (the order of DHG-14/28 and
SHREC'17, De Smedt et al. 2017): wrist, palm, then base, first, second and tip of thumb, index,
middle, ring and pinky. Metres, right-handed: x to the user's right, y up, z from the sensor
towards the user. The palm is always computed here, as the midpoint of wrist and middle base,
because no two sensors agree on what a palm is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Side = Literal["left", "right", "unknown"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
#: What a source could not see of a hand: "depth" (two dimensions only, z is 0), "distance" (the
#: hand has its shape in three dimensions, how far away it is was told from its size), "tips"
#: (fingertips are extrapolated), "thumb_base" (it is estimated), "fingers" (only the wrist and a
#: few points are real, the rest is a resting hand's).
Lack = Literal["depth", "distance", "tips", "thumb_base", "fingers"]
#: The same in words for people.
LACKS: Final[dict[Lack, str]] = {
    "depth": "depth",
    "distance": "a measured distance",
    "tips": "tracked fingertips",
    "thumb_base": "a tracked thumb base",
    "fingers": "tracked fingers",
}


def lacked(each: Iterable[Collection[Lack]]) -> tuple[Lack, ...]:
    """What half of the hands or more lack, by what each does; nothing of none."""
    told = [frozenset(one) for one in each]
    return tuple(lack for lack in LACKS if told and 2 * sum(lack in t for t in told) >= len(told))


Float32 = NDArray[np.float32]

FINGERS: Final = ("thumb", "index", "middle", "ring", "pinky")
JOINTS: Final[tuple[str, ...]] = (
    "wrist",
    "palm",
    *(f"{finger}_{part}" for finger in FINGERS for part in ("base", "first", "second", "tip")),
)
N_JOINTS: Final = len(JOINTS)  # 22
WRIST, PALM = 0, 1
FINGER_BASES: Final = (2, 6, 10, 14, 18)
THUMB_BASE, INDEX_BASE, MIDDLE_BASE, RING_BASE, PINKY_BASE = FINGER_BASES
TIPS: Final = (5, 9, 13, 17, 21)

#: Parent of each joint, -1 for the wrist. Fingers hang from the wrist, the palm is a marker.
PARENTS: Final[tuple[int, ...]] = (
    -1,
    0,
    *(parent for base in FINGER_BASES for parent in (0, base, base + 1, base + 2)),
)
#: (parent, child) pairs, 21 of them, named by the child.
BONES: Final[tuple[tuple[int, int], ...]] = tuple(
    (parent, child) for child, parent in enumerate(PARENTS) if parent >= 0
)

#: Sources that have no fingertips: tip = second + k * (second - first), thumb to pinky. Measured
#: on SHREC'17.
TIP_EXTENSION: Final = (0.62, 0.90, 0.74, 0.92, 0.87)

# Source layouts as index tables into the source's own joints; -1 marks the computed palm.
#: MediaPipe, OpenPose, COCO-WholeBody and Halpe hands: wrist, then four joints a finger.
MEDIAPIPE_21: Final = (0, -1, *range(1, 21))
#: OpenXR and HoloLens, 26 joints, palm 0 and wrist 1.
OPENXR_26: Final = (1, -1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 20, 22, 23, 24, 25)
#: SHREC'22 text files: wrist 0, palm 1, thumb x4, then metacarpal and four joints a finger.
SHREC22_26: Final = (0, -1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 20, 22, 23, 24, 25)

#: Where the thumb's base lies on the way from the wrist to the thumb's first joint, for sources
#: that do not give it (SHREC'17 medians: 25.5 mm of 25.5 + 39.6 mm).
THUMB_BASE_FRACTION: Final = 0.39


@dataclass(slots=True)
class HandSample:
    """One hand as its source saw it: ``joints`` (22, 3) float32, metres, canonical axes and order
    (palm computed); confidence 0 to 1."""

    id: int
    side: Side
    joints: Float32
    confidence: float = 1.0
    lacks: tuple[Lack, ...] = ()  #: what the source could not see of it


def with_palm(joints: Float32) -> Float32:
    """Set joint 1 to the midpoint of wrist and middle base, in place; (..., 22, 3) -> the same."""
    joints[..., PALM, :] = 0.5 * (joints[..., WRIST, :] + joints[..., MIDDLE_BASE, :])
    return joints


def from_layout(points: NDArray[np.floating], layout: tuple[int, ...]) -> Float32:
    """Map a source's joints (..., n, 3) to the canonical (..., 22, 3), palm computed.

    ``layout`` is one of the index tables above. Units and axes are the caller's affair.
    """
    points = np.asarray(points)
    needed = max(layout) + 1
    if points.ndim < 2 or points.shape[-2] < needed or points.shape[-1] != 3:
        raise ValueError(f"layout needs (..., {needed}, 3) points, got {points.shape}")
    with np.errstate(over="ignore"):  # absurd joints become infinite, and are refused as such
        joints = points[..., [max(i, 0) for i in layout], :].astype(np.float32)
    return with_palm(joints)


def from_shrec21(points: NDArray[np.floating]) -> Float32:
    """SHREC'21's 20 joints (..., 20, 3) in metres -> canonical (..., 22, 3).

    Its "palm" sits at the wrist (87 mm from the middle knuckle, measured) and it has no thumb
    base, which is put at a fixed fraction of the way from the wrist to the thumb's first joint.
    """
    points = np.asarray(points, dtype=np.float32)
    if points.shape[-2:] != (20, 3):
        raise ValueError(f"SHREC'21 has (..., 20, 3) points, got {points.shape}")
    out = np.empty((*points.shape[:-2], N_JOINTS, 3), dtype=np.float32)
    out[..., WRIST, :] = points[..., 0, :]
    out[..., THUMB_BASE, :] = points[..., 0, :] + THUMB_BASE_FRACTION * (
        points[..., 1, :] - points[..., 0, :]
    )
    out[..., 3:6, :] = points[..., 1:4, :]
    out[..., 6:22, :] = points[..., 4:20, :]
    return with_palm(out)


def camera_to_canonical(points: NDArray[np.floating]) -> Float32:
    """Camera axes (x right, y down, z away) facing the user -> canonical axes: (-x, -y, z)."""
    out: Float32 = (np.asarray(points) * np.array([-1.0, -1.0, 1.0])).astype(np.float32)
    return out


def mirrored(joints: Float32) -> Float32:
    """The other hand: x negated; (..., 3) -> a copy of the same shape."""
    return joints * np.array([-1.0, 1.0, 1.0], dtype=np.float32)


def extend_tips(joints: Float32) -> Float32:
    """Extrapolate the five tips from the last bones, in place, for sources without fingertips."""
    for tip, k in zip(TIPS, TIP_EXTENSION, strict=True):
        joints[..., tip, :] = joints[..., tip - 1, :] + k * (
            joints[..., tip - 1, :] - joints[..., tip - 2, :]
        )
    return joints


def unshear_shrec17(joints: Float32) -> Float32:
    """Undo the shear of SHREC'17 "world" coordinates; (..., 3) metres -> a copy.

    Their origin lies on the image's top-left pixel ray, not on the optical axis (measured on
    every training frame: the bone lengths' coefficient of variation falls from 0.226 to 0.140).
    """
    out = joints.copy()
    out[..., 0] -= 0.827 * joints[..., 2]
    out[..., 1] += 0.627 * joints[..., 2]
    return out


def bone_lengths(joints: Float32) -> Float32:
    """(..., 22, 3) -> (..., 21) lengths in the input's units, in the order of ``BONES``."""
    parents = [p for p, _ in BONES]
    children = [c for _, c in BONES]
    lengths: Float32 = np.linalg.norm(joints[..., children, :] - joints[..., parents, :], axis=-1)
    return lengths


def chirality(joints: Float32) -> NDArray[np.float32]:
    """Positive for a right hand, negative for a left one; (..., 22, 3) -> (...).

    The sign of the triple product of wrist->index base, wrist->pinky base and the fingers' bend
    (middle base -> middle tip). Unsure near zero (a flat hand): average it over a stretch.
    """
    wrist = joints[..., WRIST, :]
    across = np.cross(
        joints[..., INDEX_BASE, :] - wrist, joints[..., PINKY_BASE, :] - wrist, axis=-1
    )
    bend = joints[..., 13, :] - joints[..., MIDDLE_BASE, :]
    product: Float32 = np.sum(across * bend, axis=-1)
    return product
