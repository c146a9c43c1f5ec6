"""A kinematic hand: 20 joint angles and the palm's pose give the 22 canonical joints.

The palm's own axes are, for a right hand, those of the canonical frame when the hand lies flat,
palm down, fingers away from the user: x across towards the little finger, y out of the back of
the hand, z from the fingertips to the wrist. A rotation takes them to the world.

Bone lengths are the medians of SHREC'17 (De Smedt et al. 2017); where the knuckles lie beside each
other, and how much a curled finger leans towards the thumb, follows hand anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hgr_stream.skeleton import N_JOINTS, Float32, with_palm

Float = NDArray[np.float64]

FINGER_NAMES: Final = ("index", "middle", "ring", "pinky")
#: Columns of an angle array. A finger's flexion is positive towards the palm, its abduction
#: positive towards the thumb. The thumb's metacarpal opens ``radial`` in the plane of the palm and
#: ``palmar`` out of it; its two joints bend across the palm.
ANGLES: Final[tuple[str, ...]] = (
    *(f"{finger}_{part}" for finger in FINGER_NAMES for part in ("mcp", "abduction", "pip", "dip")),
    "thumb_radial",
    "thumb_palmar",
    "thumb_mcp",
    "thumb_ip",
)
N_ANGLES: Final = len(ANGLES)  # 20
_FINGER_LIMITS = ((-40.0, 95.0), (-45.0, 30.0), (-5.0, 115.0), (-5.0, 90.0))
#: (20, 2) radians: what a healthy hand can do, hyperextension included.
LIMITS: Final[Float] = np.radians(
    [*_FINGER_LIMITS * 4, (0.0, 65.0), (-5.0, 50.0), (-25.0, 75.0), (-30.0, 85.0)]
)

# Metres, at size 1. Fingers index to pinky: base, first, second bone after the knuckle.
_PALM_LENGTH = 0.101  # wrist to middle base
_KNUCKLES = np.array(  # from the wrist, in the palm's axes
    [
        [-0.0218, -0.0031, -0.1028],
        [0.0, 0.0, -_PALM_LENGTH],
        [0.0206, 0.0, -0.0920],
        [0.0388, -0.0031, -0.0815],
    ]
)
_FINGER_BONES = np.array(
    [
        [0.0436, 0.0206, 0.0186],
        [0.0480, 0.0274, 0.0202],
        [0.0445, 0.0262, 0.0202],
        [0.0390, 0.0181, 0.0158],
    ]
)
_THUMB_BASE = 0.0255 * np.array([-0.58, -0.30, -0.76]) / np.linalg.norm([0.58, 0.30, 0.76])
_THUMB_BONES = np.array([0.0396, 0.0391, 0.0242])
#: Curled fingers point at the root of the thumb: each one's plane of flexion leans by this much.
_LEAN = np.radians([-5.0, 3.0, 6.0, 12.0])
#: The thumb bends across the palm and a little into it.
_THUMB_LEAN = np.radians(10.0)


@dataclass(frozen=True)
class HandShape:
    """One person's hand: ``size`` scales all of it, ``fingers`` each finger (thumb to pinky)."""

    size: float = 1.0
    fingers: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    @classmethod
    def random(cls, rng: np.random.Generator) -> HandShape:
        """A plausible adult's: size within 8 %, single fingers within 3 %."""
        size = float(np.clip(rng.normal(0.92, 0.03), 0.84, 1.0))
        a, b, c, d, e = np.clip(rng.normal(1.0, 0.012, 5), 0.97, 1.03)
        return cls(size, (float(a), float(b), float(c), float(d), float(e)))


def forward(angles: Float, palm: Float, rotation: Float, shape: HandShape | None = None) -> Float32:
    """Forward kinematics of a right hand.

    angles: (T, 20) radians in the order of ``ANGLES``. palm: (T, 3) metres, the palm joint (midway
    from the wrist to the middle base). rotation: (T, 3, 3), palm axes to world. Returns (T, 22, 3)
    float32, canonical. A left hand is ``skeleton.mirrored`` of this.
    """
    shape = shape or HandShape()
    n = len(angles)
    local = np.zeros((n, N_JOINTS, 3))
    fingers = angles[:, :16].reshape(n, 4, 4)
    abduction = fingers[:, :, 1]
    # A finger moves in a plane spanned by its straight direction and the way it flexes.
    straight = np.stack([-np.sin(abduction), np.zeros_like(abduction), -np.cos(abduction)], axis=-1)
    flexed = np.stack([-np.sin(_LEAN), -np.cos(_LEAN), np.zeros(4)], axis=-1)
    bend = np.cumsum(fingers[:, :, [0, 2, 3]], axis=-1)  # (T, 4, 3): angle of each bone
    bones = _direction(straight[:, :, None], flexed[None, :, None], bend)
    bones *= (_FINGER_BONES * np.array(shape.fingers)[1:, None])[None, :, :, None]
    chain = np.cumsum(bones, axis=2)
    joints = local[:, 6:].reshape(n, 4, 4, 3)
    joints[:, :, 0] = _KNUCKLES
    joints[:, :, 1:] = _KNUCKLES[None, :, None] + chain

    radial, palmar, mcp, ip = angles[:, 16:].T
    metacarpal = np.stack(
        [-np.cos(palmar) * np.sin(radial), -np.sin(palmar), -np.cos(palmar) * np.cos(radial)], -1
    )
    across = np.array([np.cos(_THUMB_LEAN), -np.sin(_THUMB_LEAN), 0.0])
    bend = np.stack([np.zeros(n), mcp, mcp + ip], axis=-1)
    thumb = _direction(metacarpal[:, None], across[None, None], bend)
    thumb *= (_THUMB_BONES * shape.fingers[0])[None, :, None]
    local[:, 2] = _THUMB_BASE
    local[:, 3:6] = _THUMB_BASE + np.cumsum(thumb, axis=1)

    local[:, :, 2] += 0.5 * _PALM_LENGTH  # the origin is the palm joint, not the wrist
    world = np.einsum("tij,tkj->tki", rotation, local * shape.size) + palm[:, None]
    return with_palm(world.astype(np.float32))


def _direction(straight: Float, flexed: Float, bend: Float) -> Float:
    """Unit vectors at angle ``bend`` from ``straight``, in the plane that contains ``flexed``."""
    flexed = flexed - np.sum(flexed * straight, axis=-1, keepdims=True) * straight
    flexed = flexed / np.linalg.norm(flexed, axis=-1, keepdims=True)
    out: Float = np.cos(bend)[..., None] * straight + np.sin(bend)[..., None] * flexed
    return out


def orientation(pointing: tuple[float, float, float], back: tuple[float, float, float]) -> Float:
    """(3, 3) rotation of a hand whose fingers point along ``pointing`` and whose back faces
    ``back`` as nearly as that allows."""
    z = -np.asarray(pointing, dtype=float)
    z /= np.linalg.norm(z)
    y = np.asarray(back, dtype=float)
    y = y - (y @ z) * z
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=-1)


def rotation_from_vector(vector: Float) -> Float:
    """Rotation vectors (..., 3), radians -> matrices (..., 3, 3) (Rodrigues)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    axis = vector / np.maximum(angle[..., 0], 1e-12)
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    k = np.stack(
        [np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2
    )
    out: Float = np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k)
    return out


def vector_from_rotation(matrix: Float) -> Float:
    """One rotation matrix (3, 3) -> its rotation vector (3,), the shortest way."""
    angle = float(np.arccos(np.clip((np.trace(matrix) - 1.0) / 2.0, -1.0, 1.0)))
    skew = np.array(
        [
            matrix[2, 1] - matrix[1, 2],
            matrix[0, 2] - matrix[2, 0],
            matrix[1, 0] - matrix[0, 1],
        ]
    )
    if angle < 1e-9:
        return np.zeros(3)
    if np.pi - angle < 1e-6:  # the skew part vanishes at half a turn
        column = int(np.argmax(np.diag(matrix)))
        axis = matrix[:, column] + np.eye(3)[:, column]
        return np.asarray(angle * axis / np.linalg.norm(axis))
    return np.asarray(skew * (angle / (2.0 * np.sin(angle))))
