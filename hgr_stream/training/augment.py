"""Distortions of a hand's recording: other hands, other seats, other sensors.

All take and give canonical joints (T, 22, 3) in metres and draw from the given generator.
``strength`` scales the spread: 1 for training, 0 for none, a little more for the validation
proxy. Spreads are those that carried over best to unseen sensors in trials.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..skeleton import (
    FINGER_BASES,
    INDEX_BASE,
    MIDDLE_BASE,
    N_JOINTS,
    PARENTS,
    PINKY_BASE,
    WRIST,
    Float32,
    with_palm,
)

_CHILDREN = np.arange(2, N_JOINTS)  # of the bones: neither wrist nor palm
_PARENTS = np.array(PARENTS[2:])
_FINGERS = np.array([[base, base + 1, base + 2, base + 3] for base in FINGER_BASES])
#: How far each finger turns sideways when all are spread, the thumb not.
_SPREAD = np.array([0.0, -1.5, -0.5, 0.5, 1.5])

#: Share of the training material that is played far slower or faster, and the factors. People do
#: the same stroke in 0.3 s for one sensor's recordings and in 2.4 s for another's.
WIDE = 0.5
SLOWEST, FASTEST = 0.4, 2.4


def speeds(
    frames: int, rate_hz: float, rng: np.random.Generator, strength: float, wide: float = WIDE
) -> NDArray:
    """(frames,) factors of the local speed: one overall (x0.75-1.3, or with the chance ``wide``
    x0.4-2.4), and slow waves about it."""
    slow, fast = (SLOWEST, FASTEST) if rng.random() < wide else (0.75, 1.3)
    overall = rng.uniform(np.log(slow), np.log(fast)) * strength
    return np.exp(overall + 0.15 * strength * waves(frames, rate_hz, rng, 1)[:, 0])


def waves(frames: int, rate_hz: float, rng: np.random.Generator, channels: int) -> NDArray:
    """(frames, channels) smooth noise of about unit deviation, knots every 0.4 s."""
    knots = max(int(frames / rate_hz / 0.4) + 2, 4)
    values = rng.standard_normal((knots, channels)) * 1.2
    at = np.linspace(0, knots - 1.001, frames)
    i = at.astype(int)
    w = (at - i)[:, None]
    w = w * w * (3 - 2 * w)
    smooth: NDArray = values[i] * (1 - w) + values[i + 1] * w
    return smooth


def sensor_rate(
    joints: Float32, time_s: NDArray, rng: np.random.Generator, strength: float
) -> tuple[Float32, NDArray]:
    """Drop frames and shake stamps, as slower or less regular sensors do."""
    if strength == 0 or len(time_s) < 8 or rng.random() < 0.5:
        return joints, time_s
    period = float(np.median(np.diff(time_s)))
    wanted = rng.uniform(0.9, 3.0) * period  # 50 Hz becomes 55 to 17
    steps = wanted * rng.uniform(0.6, 1.4, size=int((time_s[-1] - time_s[0]) / wanted) + 2)
    picks = np.unique(np.searchsorted(time_s, time_s[0] + np.cumsum(steps) - steps[0]))
    picks = picks[picks < len(time_s)]
    if len(picks) < 4:
        return joints, time_s
    stamps = time_s[picks] + rng.normal(0, 0.1 * period, len(picks))
    stamps = np.maximum.accumulate(stamps) + 1e-6 * np.arange(len(stamps))
    return joints[picks], stamps


def rotation(rng: np.random.Generator, strength: float) -> NDArray[np.float32]:
    """(3, 3): yaw to +-0.6 rad about gravity, pitch and roll to about +-0.3."""
    yaw = rng.uniform(-0.6, 0.6) * strength
    pitch, roll = np.clip(rng.normal(0, 0.17, 2), -0.35, 0.35) * strength
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turned: NDArray[np.float32] = (about_y @ about_x @ about_z).astype(np.float32)
    return turned


def proportions(joints: Float32, rng: np.random.Generator, strength: float) -> Float32:
    """Another hand: every bone its own length (10 %), fingers (6 %) and size (12 %) besides."""
    bones = joints[:, _CHILDREN] - joints[:, _PARENTS]
    scale = rng.normal(1, 0.06, (5, 1)) * rng.normal(1, 0.10, (5, 4))
    scale = 1 + (np.clip(scale * rng.normal(1, 0.12), 0.6, 1.5) - 1) * strength
    bones = bones * scale.reshape(1, 20, 1).astype(np.float32)
    out = np.empty_like(joints)
    out[:, WRIST] = joints[:, WRIST]
    chains = np.cumsum(bones.reshape(len(joints), 5, 4, 3), axis=2)
    out[:, 2:] = (chains + joints[:, None, None, WRIST]).reshape(len(joints), 20, 3)
    return with_palm(out)


def straightened(joints: Float32, rng: np.random.Generator, strength: float) -> Float32:
    """Fingers as another tracker guesses them: each drawn towards straight, by 0.45 at most, or a
    little further bent, for as long as the recording lasts. One sensor's THREE has a ring finger
    in the palm, another's one half open."""
    chains = np.concatenate([joints[:, None, None, WRIST].repeat(5, 1), joints[:, _FINGERS]], 2)
    bones = np.diff(chains, axis=2)
    lengths = np.linalg.norm(bones, axis=-1, keepdims=True) + np.float32(1e-6)
    ways = bones / lengths
    ahead = ways[:, 2:3, :1].repeat(5, 1)  # fingers: along the palm; the thumb: along itself
    ahead[:, 0] = ways[:, 0, :1]
    share = (rng.uniform(-0.15, 0.45, (1, 5, 1, 1)) * min(strength, 1.0)).astype(np.float32)
    turned = ways[:, :, 1:] * (1 - share) + ahead * share
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True) + np.float32(1e-6)
    bones[:, :, 1:] = turned * lengths[:, :, 1:]
    out = joints.copy()
    out[:, 2:] = (np.cumsum(bones, 2) + joints[:, None, None, WRIST]).reshape(-1, 20, 3)
    return out


def palm_axes(joints: Float32) -> Float32:
    """(T, 3, 3), rows of unit length: sideways, along the palm to the middle knuckle, and the
    palm's normal."""
    wrist = joints[:, WRIST]
    along = _unit(joints[:, MIDDLE_BASE] - wrist)
    normal = np.cross(joints[:, INDEX_BASE] - wrist, joints[:, PINKY_BASE] - wrist)
    side = _unit(np.cross(along, normal))
    return np.stack([side, along, np.cross(side, along)], 1)


def _unit(vectors: Float32) -> Float32:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Float32 = vectors / np.maximum(lengths, np.float32(1e-6))
    return unit


def other_sensor(joints: Float32, rng: np.random.Generator, strength: float) -> Float32:
    """Joints where another tracker's model of the hand has them, for the whole recording: the
    wrist up or down the arm, knuckles deeper or further apart, all fingers longer or shorter than
    the palm tells, and turned aside. HoloLens 2's fingers are a quarter longer beside its palm than
    Leap's."""
    spread = min(strength, 1.0)
    axes = palm_axes(joints)
    palm_m = float(np.median(np.linalg.norm(joints[:, MIDDLE_BASE] - joints[:, WRIST], axis=-1)))
    wrist_m = rng.normal(0, (0.05, 0.12, 0.06)) * spread * palm_m
    knuckles = rng.normal(0, 0.04, (5, 3))
    knuckles[:, 2] += rng.normal(0, 0.03)
    knuckles_m = knuckles * spread * palm_m - wrist_m
    scale = np.exp((rng.normal(0, 0.12) + rng.normal(0, 0.06, 3)) * spread)
    aside = rng.normal(0, 0.06, 5) + rng.normal(0, 0.06) * _SPREAD
    aside[0] += rng.normal(0, 0.1)
    c, s = np.cos(aside * spread), np.sin(aside * spread)
    turn = np.zeros((5, 3, 3))
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, s, -s, c
    turn[:, 2, 2] = 1.0
    chains = np.concatenate([joints[:, None, None, WRIST].repeat(5, 1), joints[:, _FINGERS]], 2)
    bones = np.diff(chains, axis=2).reshape(-1, 20, 3) @ axes.transpose(0, 2, 1)
    bones = bones.reshape(-1, 5, 4, 3)
    bones[:, :, 0] += knuckles_m.astype(np.float32)
    bones[:, :, 1:] @= turn.astype(np.float32)
    bones[:, :, 1:] *= scale.astype(np.float32)[:, None]
    chains = np.cumsum((bones.reshape(-1, 20, 3) @ axes).reshape(-1, 5, 4, 3), 2)
    out = joints.copy()
    out[:, WRIST] += wrist_m.astype(np.float32) @ axes
    out[:, 2:] = (chains + out[:, None, None, WRIST]).reshape(-1, 20, 3)
    return with_palm(out)


def hand(
    joints: Float32,
    rate_hz: float,
    rng: np.random.Generator,
    strength: float,
    guess: float = WIDE,
    sensor: float = 0.0,
) -> Float32:
    """Everything about the hand and its seat, then the tracker's own faults.

    guess: the chance that fingers are ``straightened``; sensor: that the joints are those of an
    ``other_sensor``.
    """
    if strength == 0:
        return joints
    frames = len(joints)
    if sensor and rng.random() < sensor:
        joints = other_sensor(joints, rng, strength)
    if rng.random() < guess:
        joints = straightened(joints, rng, strength)
    joints = proportions(joints, rng, strength)
    palm = 0.5 * (joints[:, WRIST] + joints[:, MIDDLE_BASE])
    centre = palm.mean(0)
    local = joints - palm[:, None]
    travel = np.exp(rng.uniform(np.log(0.65), np.log(1.45)) * min(strength, 1.2))
    drift = 0.012 * strength * waves(frames, rate_hz, rng, 3)
    palm = (palm - centre) * travel + drift
    joints = (local + palm[:, None]).astype(np.float32) @ rotation(rng, strength).T
    # Fingers tremble slowly as well as frame by frame: trackers guess what they do not see.
    wobble = waves(frames, rate_hz, rng, 60).reshape(frames, 20, 3) * rng.uniform(0, 0.004)
    joints[:, 2:] += (wobble * strength).astype(np.float32)
    noise = rng.uniform(0, 0.0018) * strength
    joints += rng.standard_normal(joints.shape, dtype=np.float32) * np.float32(noise)
    return with_palm(faults(joints, rate_hz, rng, strength) + centre)


def faults(joints: Float32, rate_hz: float, rng: np.random.Generator, strength: float) -> Float32:
    """Short losses that the segmenter bridges by a line, frames held, a finger lost for a while."""
    frames = len(joints)
    for _ in range(rng.poisson(0.15 * strength * frames / rate_hz)):
        n = int(rng.uniform(0.05, 0.25) * rate_hz) + 1
        at = int(rng.integers(1, max(frames - n - 1, 2)))
        if at + n >= frames:
            continue
        kind = rng.random()
        if kind < 0.5:
            w = np.linspace(0, 1, n + 2, dtype=np.float32)[1:-1, None, None]
            joints[at : at + n] = joints[at - 1] * (1 - w) + joints[at + n] * w
        elif kind < 0.75:
            joints[at : at + n] = joints[at - 1]
        else:
            finger = _FINGERS[rng.integers(5)]
            joints[at : at + n, finger] += rng.normal(0, 0.012, (1, 4, 3)).astype(np.float32)
    return joints
