"""A plain hand for tests of the stream: 22 natural joints, and frames of it along a path."""

from __future__ import annotations

import numpy as np

from hgr_stream.messages import Frame, Hand, joint_bytes
from hgr_stream.skeleton import N_JOINTS, Float32, Side, mirrored, with_palm

MS = 1_000_000


def hand_joints(x: float = 0.0, y: float = 0.2, z: float = 0.0, side: Side = "right") -> Float32:
    """A right hand, palm down, fingers away from the user and slightly bent, wrist at (x, y, z)."""
    joints = np.zeros((N_JOINTS, 3), dtype=np.float32)
    for finger, (spread, base_z, bones) in enumerate(
        (
            (-0.030, -0.025, (0.039, 0.039, 0.024)),
            (-0.022, -0.095, (0.044, 0.021, 0.019)),
            (0.000, -0.101, (0.048, 0.027, 0.020)),
            (0.020, -0.096, (0.043, 0.025, 0.019)),
            (0.038, -0.086, (0.039, 0.018, 0.016)),
        )
    ):
        base = 2 + 4 * finger
        joints[base] = (spread, 0.0, base_z)
        for i, length in enumerate(bones):
            bend = 0.25 * (i + 1)
            step = (0.0, -length * np.sin(bend), -length * np.cos(bend))
            joints[base + i + 1] = joints[base + i] + np.array(step, dtype=np.float32)
    if side == "left":
        joints = mirrored(joints)
    joints += np.array([x, y, z], dtype=np.float32)
    return with_palm(joints)


def frame(
    seq: int,
    time_ns: int,
    joints: Float32 | list[Hand] | None,
    *,
    device: str = "test",
    boot_id: str = "boot",
    hand_id: int = 7,
    side: Side = "right",
    sent_ns: int = 0,
    lossless: bool = True,
) -> Frame:
    """A frame of one hand (or of the given hands, or of none)."""
    if joints is None:
        hands = []
    elif isinstance(joints, list):
        hands = joints
    else:
        hands = [Hand(hand_id, side, joint_bytes(joints))]
    return Frame(
        device=device,
        boot_id=boot_id,
        seq=seq,
        time_ns=time_ns,
        device_ns=time_ns,
        host_ns=time_ns,
        wall_ns=time_ns,
        sent_ns=sent_ns,
        index=seq + 1,
        hands=hands,
        lossless=lossless,
    )


def swipe_frames(
    n_swipes: int = 3, *, rate_hz: float = 100.0, device: str = "test", seed: int = 0
) -> list[Frame]:
    """A hand that rests, swipes right (0.4 m in 0.4 s), rests, and comes slowly back."""
    rng = np.random.default_rng(seed)
    xs: list[float] = []
    for _ in range(n_swipes):
        t = np.linspace(0, 1, round(0.4 * rate_hz))
        stroke = 0.4 * (10 * t**3 - 15 * t**4 + 6 * t**5)
        back = np.linspace(0.4, 0.0, round(4.0 * rate_hz))
        xs += [0.0] * round(rate_hz) + stroke.tolist() + [0.4] * round(rate_hz) + back.tolist()
    step_ns = 1e9 / rate_hz
    return [
        frame(
            i,
            round(i * step_ns + rng.uniform(-0.2, 0.2) * step_ns) + 10_000_000,
            hand_joints(x - 0.2),
            device=device,
        )
        for i, x in enumerate(xs)
    ]


def left_hands(frames: list[Frame]) -> list[Frame]:
    """The same frames with every hand called a left one, its path as it was."""
    for f in frames:
        for hand in f.hands:
            hand.side = "left"
    return frames
