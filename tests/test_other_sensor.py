"""Joints put where another tracker's model of the hand would have them."""

from __future__ import annotations

import numpy as np
import pytest

from hgr_stream.skeleton import Float32, bone_lengths, with_palm
from hgr_stream.training import augment
from hgr_stream.training.draw import ChunkRule, Pool, Shares, draw_chunk, draw_segment
from hgr_stream.training.streams import distorted, to_streams
from tests.hands import hand_joints
from tests.test_training import RATE, sequence


def waving() -> Float32:
    """A hand that turns and bends, (60, 22, 3)."""
    rng = np.random.default_rng(1)
    still = hand_joints()
    turned = [
        (still - still[0]) @ augment.rotation(rng, 1.0).T + still[0] + [0.01 * i, 0, 0]
        for i in range(60)
    ]
    return with_palm(np.stack(turned).astype(np.float32))


def test_another_sensors_joints_keep_to_one_model_of_the_hand() -> None:
    joints = waving()
    out = augment.other_sensor(joints, np.random.default_rng(3), 1.0)
    ratio = bone_lengths(out)[:, 1:] / bone_lengths(joints)[:, 1:]
    assert ratio.std(0).max() < 1e-3, "the same for the whole recording"
    fingers = np.delete(np.arange(20), [0, 4, 8, 12, 16])  # all but wrist to knuckle
    by_level = ratio[0][fingers].reshape(5, 3)
    assert np.allclose(by_level, by_level[0], atol=1e-3), "all fingers are longer, or shorter"
    assert np.abs(out - joints).max() > 2e-3
    moved = np.einsum("tij,tj->ti", augment.palm_axes(joints), out[:, 0] - joints[:, 0])
    assert np.allclose(moved, moved[0], atol=1e-5), "the wrist is elsewhere on the arm"


def test_another_sensor_sees_a_turned_hand_turned() -> None:
    joints, turn = waving(), augment.rotation(np.random.default_rng(9), 1.0)
    one = augment.other_sensor(joints, np.random.default_rng(3), 1.0) @ turn.T
    other = augment.other_sensor(joints @ turn.T, np.random.default_rng(3), 1.0)
    assert np.allclose(one, other, atol=1e-5)
    same = augment.other_sensor(joints, np.random.default_rng(3), 1e-9)
    assert np.allclose(same, joints, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_so_much_of_the_material_is_another_sensors(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    asked = []

    def other_sensor(joints: Float32, *_: object) -> Float32:
        asked.append(len(joints))
        return joints

    monkeypatch.setattr(augment, "other_sensor", other_sensor)
    rng = np.random.default_rng(0)
    streams = to_streams([sequence("1", 1, 12.0)], ["LEFT", "OPEN"])
    pool, shares = Pool.of(streams, 2), Shares(other_sensors=share)
    rule = ChunkRule(RATE, 64, 0.24, shares=shares)
    for _ in range(100):
        draw_segment(pool, RATE, rng, shares)
    for _ in range(100):
        draw_chunk(pool, rule, rng)
    assert 200 * share - 40 <= len(asked) <= 200 * share + 40 * bool(share)
    asked.clear()
    distorted(streams[0], rng, 1.0)
    assert asked == [], "the proxy stays what it was"
