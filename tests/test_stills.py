"""Hands that are held still in a movement's posture."""

from __future__ import annotations

import numpy as np
import pytest

from hgr_stream.skeleton import TIPS, with_palm
from hgr_stream.training.draw import IGNORE, ChunkRule, Pool, Shares, draw_chunk, draw_segment
from hgr_stream.training.stills import GLIDE_S, PERFORMED_M, draw_still, movements
from hgr_stream.training.streams import Mark, Stream
from tests.hands import hand_joints

RATE = 25.0
POSE, SWEEP = 1, 2


def stream(bend_m: float = 0.0) -> Stream:
    """20 s at 50 Hz; at 4 and 14 s a pose is held for 2 s, at 9 s the hand sweeps 30 cm in 1 s and
    its fingertips sink by ``bend_m``."""
    time_s = np.arange(1000) / 50.0
    share = np.clip(time_s - 9.0, 0.0, 1.0)
    at = np.stack([0.3 * share, 0.2 + 0.002 * np.sin(time_s), 0 * share], 1)[:, None]
    joints = with_palm((hand_joints(0.0, 0.0) + at).astype(np.float32))
    joints[:, TIPS, 1] -= (bend_m * share[:, None]).astype(np.float32)
    marks = (Mark(POSE, 4.0, 6.0), Mark(SWEEP, 9.0, 10.0), Mark(POSE, 14.0, 16.0))
    return Stream("a", joints, time_s, marks)


def test_a_pose_is_no_movement() -> None:
    pool = Pool.of([stream()], 2)
    assert {m.label for _, m in pool.gestures} == {POSE, SWEEP}
    assert {m.label for _, m in pool.movements} == {SWEEP}
    assert movements([stream()], []) == []


@pytest.mark.parametrize("ticks", [(40, 30, 20), (0, 30, 20), (40, 30, 0), (5, 4, 60)])
def test_the_hand_comes_stays_and_goes_back(ticks: tuple[int, int, int]) -> None:
    source = stream()
    sweep = source.marks[1]
    rng = np.random.default_rng(1)
    before, held, after = ticks
    for _ in range(60):
        still = draw_still(source, sweep, ticks, RATE, rng)
        assert still.joints.shape == (sum(ticks), 22, 3)
        assert (len(still.way_s), len(still.back_s)) == (before, after)
        assert (np.diff(still.way_s) >= 0).all()
        assert (np.diff(still.back_s) <= 0).all()
        assert not len(still.way_s) or still.way_s[-1] <= sweep.start_s
        x = still.joints[:, 0, 0]
        hold = x[before : before + held]
        assert np.ptp(hold) < 1e-4
        assert x.max() < 1e-3, "the way that the palm goes in the gesture is not gone"


def test_the_posture_is_of_all_of_the_gesture_unless_the_fingers_perform() -> None:
    """Of a stroke the fingers' small changes are taken up; a grab's closing is the gesture."""
    rng = np.random.default_rng(1)
    ticks = (40, 30, 20)
    glide = round(GLIDE_S * RATE)
    for bend_m, least, most in ((0.02, 0.015, 0.0201), (0.1, 0.0, PERFORMED_M + 1e-4)):
        source = stream(bend_m)
        bent = []
        for _ in range(60):
            joints = draw_still(source, source.marks[1], ticks, RATE, rng).joints
            high = (joints[:, TIPS, 1] - joints[:, :1, 1]).mean(1)
            assert np.abs(np.diff(high)).max() < PERFORMED_M / glide, "without a jump"
            assert np.ptp(high[40 + glide : 70]) < 1e-6
            bent.append(high[0] - high[60])
        assert least <= max(bent) <= most


def test_it_is_learnt_as_none() -> None:
    always = Shares(still=1.0)
    rng = np.random.default_rng(2)
    pool = Pool.of([stream()], 2)
    found = set()
    for _ in range(40):
        chunk = draw_chunk(pool, ChunkRule(RATE, 224, 0.24, shares=always), rng)
        assert chunk.joints.shape == (224, 22, 3)
        assert np.isfinite(chunk.joints).all()
        found |= set(chunk.label.tolist())
        joints, label = draw_segment(pool, RATE, rng, always)
        assert label == 0
        assert len(joints) >= 3
    # The pose performed on the way there is a gesture; backwards it is not asked for.
    assert found == {IGNORE, 0, POSE}


def test_poses_alone_have_none() -> None:
    one = stream()
    only_poses = Stream("b", one.joints, one.time_s, (one.marks[0], one.marks[2]))
    pool = Pool.of([only_poses], 2)
    assert pool.movements == []
    rng = np.random.default_rng(0)
    rule = ChunkRule(RATE, 64, 0.2, shares=Shares(still=1.0))
    assert {int(v) for _ in range(30) for v in draw_chunk(pool, rule, rng).label} >= {0, POSE}
    assert POSE in {draw_segment(pool, RATE, rng, rule.shares)[1] for _ in range(30)}
