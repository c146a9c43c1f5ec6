"""The lifter against hands of known place, projected and their depth rendered, noise and holes."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hgr_drivers import librealsense
from hgr_drivers.synthetic.hand import (
    LIMITS,
    HandShape,
    forward,
    orientation,
    rotation_from_vector,
)
from hgr_drivers.vision.landmarks import DetectedHand
from hgr_drivers.vision.lifter import (
    ANCHORS,
    Intrinsics,
    Lifted,
    Lifter,
    lift,
    lift_anchored,
    sample,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hgr_stream.skeleton import (
    MEDIAPIPE_21,
    Side,
    bone_lengths,
    camera_to_canonical,
    chirality,
    from_layout,
)
from tools.rendered_hand import render

Float64 = NDArray[np.float64]
CAMERA = Intrinsics(615, 612, 321.5, 238.25, 640, 480)
WRIST_AND_KNUCKLES = [0, 5, 9, 13, 17]


def hand(
    rng: np.random.Generator, at_m: float, open_: bool = False, side: Side = "right"
) -> Float64:
    """21 points in camera axes: a random hand, palm or back to the camera, somewhere in view."""
    low, high = LIMITS.T
    angles = low + (high - low) * rng.beta(2, 2, 20)
    if open_:
        angles = np.radians([*(8, 0, 10, 8) * 4, 35, 20, 10, 10]) + rng.normal(0, 0.1, 20)
    facing = orientation((0, 1, 0), (0, 0, float(rng.choice([-1, 1]))))
    turned = rotation_from_vector(rng.normal(0, 0.4, 3)) @ facing
    joints = forward(
        np.clip(angles, low, high)[None], np.zeros((1, 3)), turned[None], HandShape.random(rng)
    )[0]
    points = joints[[0, *range(2, 22)]] * [-1, -1, 1] * ([-1, 1, 1] if side == "left" else 1)
    middle = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.22, 0.2), 1]) * at_m
    out: Float64 = points - points.mean(axis=0) + middle
    return out


def seen(
    points: Float64,
    rng: np.random.Generator,
    camera: Intrinsics = CAMERA,
    side: Side = "right",
    pixels: float = 1.5,
    turn: float = 0.1,
    shape_m: float = 0.004,
    size: float | None = None,
) -> DetectedHand:
    """What MediaPipe would make of it: noisy pixels, a noisy shape of the average hand's size, as
    seen by a camera turned towards it."""
    size = rng.normal(1, 0.08) if size is None else size
    towards = points.mean(axis=0)
    about = np.cross([0, 0, 1], towards / np.linalg.norm(towards))
    back = rotation_from_vector(about * np.arcsin(np.linalg.norm(about)) / np.linalg.norm(about))
    world = (points - towards) @ back @ rotation_from_vector(rng.normal(0, turn, 3)) / size
    return DetectedHand(
        id=1,
        side=side,
        score=0.9,
        image_points=(camera.project(points) + rng.normal(0, pixels, (21, 2))).astype(np.float32),
        world=(world + rng.normal(0, shape_m, (21, 3))).astype(np.float32),
    )


def noisy(depth: Float64, rng: np.random.Generator) -> Float64:
    """As of a stereo camera: the noise grows with the distance squared."""
    known = depth > 0
    return np.where(known, depth + known * rng.normal(0, 0.002 + 0.004 * depth**2), 0)


def errors(lifted: Lifted, points: Float64) -> Float64:
    """How far off, as a share of the distance: wrist and knuckles (5,)."""
    got = lifted.joints[[0, *range(2, 22)]] * [-1, -1, 1]
    off: Float64 = np.linalg.norm(got - points, axis=1) / points[:, 2].mean()
    return off[WRIST_AND_KNUCKLES]


# --- the fit


@pytest.mark.parametrize(
    ("at_m", "open_", "most"),
    [
        *((0.3, True, 0.016), (0.4, True, 0.014), (0.6, True, 0.01), (0.9, True, 0.01)),
        *((0.3, False, 0.02), (0.4, False, 0.015), (0.6, False, 0.01), (0.9, False, 0.01)),
    ],
)
def test_wrist_and_knuckles_within_2_percent(at_m: float, open_: bool, most: float) -> None:
    rng = np.random.default_rng(round(at_m * 10) + open_)
    off = []
    for _ in range(16):
        points = hand(rng, at_m, open_)
        depth = noisy(render(points, CAMERA), rng).astype(np.float32)
        lifted = lift(seen(points, rng), depth, CAMERA)
        assert lifted.lacks == ()
        off.append(errors(lifted, points))
    assert np.mean(off) < most
    assert np.quantile(np.mean(off, axis=1), 0.9) < 2 * most


@pytest.mark.parametrize("thicker_m", [-0.003, 0.003])
def test_hands_that_are_thinner_or_thicker_than_thought(thicker_m: float) -> None:
    rng = np.random.default_rng(3)
    off = []
    for _ in range(16):
        points = hand(rng, 0.5, open_=True)
        depth = noisy(render(points, CAMERA, thicker_m), rng).astype(np.float32)
        off.append(errors(lift(seen(points, rng), depth, CAMERA), points).mean())
    assert np.mean(off) < 0.013
    assert np.quantile(off, 0.9) < 0.02


def test_exact_input_gives_the_exact_hand() -> None:
    rng = np.random.default_rng(5)
    points = hand(rng, 0.45, open_=True)
    exact = seen(points, rng, pixels=0, turn=0, shape_m=0, size=1.07)
    lifted = lift(exact, render(points, CAMERA).astype(np.float32), CAMERA)
    assert errors(lifted, points).max() < 0.006
    assert lifted.anchors == len(ANCHORS)
    assert lifted.confidence == pytest.approx(0.9)
    assert lifted.size == pytest.approx(1.07, rel=0.02)
    truth = camera_to_canonical(from_layout(points, MEDIAPIPE_21))
    np.testing.assert_allclose(bone_lengths(lifted.joints), bone_lengths(truth), atol=0.003)


@pytest.mark.parametrize("side", ["right", "left"])
def test_chirality_and_axes(side: Side) -> None:
    rng = np.random.default_rng(8)
    for _ in range(10):
        points = hand(rng, 0.5, side=side)
        depth = render(points, CAMERA).astype(np.float32)
        joints = lift(seen(points, rng, side=side), depth, CAMERA).joints
        assert (joints.shape, joints.dtype) == ((22, 3), np.float32)
        truth = camera_to_canonical(from_layout(points, MEDIAPIPE_21))
        if abs(float(chirality(truth))) > 2e-5:  # a flat hand has none
            assert (chirality(joints) > 0) == (side == "right")
        np.testing.assert_allclose(joints[1], (joints[0] + joints[10]) / 2, atol=1e-6)
        np.testing.assert_allclose(joints, truth, atol=0.05)


def test_fingers_before_the_palm() -> None:
    """A fist towards the camera: its knuckles are seen through the fingers, 3 cm before them."""
    rng = np.random.default_rng(21)
    low, high = LIMITS.T
    fist = np.clip(np.radians([*(80, 0, 95, 60) * 4, 20, 25, 40, 40]), low, high)
    off = []
    for _ in range(15):
        turned = rotation_from_vector(rng.normal(0, 0.15, 3)) @ orientation((0, 1, 0), (0, 0, 1))
        joints = forward(fist[None], np.zeros((1, 3)), turned[None], HandShape.random(rng))[0]
        points = joints[[0, *range(2, 22)]] * [-1.0, -1.0, 1.0] + [0.02, 0.01, 0.5]
        depth = render(points, CAMERA)
        hidden = points[[5, 9, 13, 17], 2] - sample(
            depth.astype(np.float32), CAMERA.project(points[[5, 9, 13, 17]])
        )
        assert hidden.max() > 0.02
        off.append(
            errors(lift(seen(points, rng), noisy(depth, rng).astype(np.float32), CAMERA), points)
        )
    assert np.mean(off) < 0.012
    assert np.mean(off, axis=1).max() < 0.025


# --- depth that fails


def test_holes_and_what_is_behind() -> None:
    rng = np.random.default_rng(13)
    off, anchors = [], []
    for _ in range(24):
        points = hand(rng, rng.uniform(0.35, 0.8))
        depth = render(points, CAMERA)
        depth[depth == 0] = points[:, 2].mean() + rng.uniform(0.15, 1.5)
        depth = noisy(depth, rng)
        places = CAMERA.project(points[list(rng.choice(ANCHORS, 2, replace=False))])
        for x, y in places.astype(int):
            depth[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12] = 0
        lifted = lift(seen(points, rng), depth.astype(np.float32), CAMERA)
        off.append(errors(lifted, points).mean())
        anchors.append(lifted.anchors)
        assert lifted.confidence == pytest.approx(0.9 * (0.5 + lifted.anchors / 12))
    assert np.mean(off) < 0.011
    assert np.quantile(off, 0.9) < 0.02
    assert np.mean(anchors) < 4.6


def test_one_anchor_is_enough_for_the_distance() -> None:
    rng = np.random.default_rng(17)
    off = []
    for i in range(20):
        points = hand(rng, 0.5, open_=True)
        depths = np.full(6, np.nan)
        depths[i % 6] = points[ANCHORS[i % 6], 2] - 0.012
        lifted = lift_anchored(seen(points, rng, size=1.0), depths, CAMERA)
        assert (lifted.anchors, lifted.lacks) == (1, ())
        off.append(errors(lifted, points).mean())
    assert np.mean(off) < 0.02


def test_without_any_depth_the_hand_is_where_its_size_puts_it() -> None:
    rng = np.random.default_rng(19)
    points = hand(rng, 0.5, open_=True)
    found = seen(points, rng, size=1.0)
    plain = lift(found, None, CAMERA)
    assert (plain.lacks, plain.anchors, plain.confidence) == (("distance",), 0, 0.9)
    assert errors(plain, points).mean() < 0.08
    empty = lift(found, np.zeros((480, 640), dtype=np.float32), CAMERA)
    assert (empty.lacks, empty.anchors) == (("distance",), 0)
    assert empty.confidence == pytest.approx(0.45)
    np.testing.assert_allclose(empty.joints, plain.joints)
    # Nor does a wall 2 m behind it say anything of the hand.
    wall = lift(found, np.full((480, 640), 2.5, dtype=np.float32), CAMERA)
    assert (wall.lacks, wall.anchors) == (("distance",), 0)
    np.testing.assert_allclose(wall.joints, plain.joints)
    # Twice as large a hand of the same image is twice as far.
    np.testing.assert_allclose(
        lift(found, None, CAMERA, size=2.0).joints, 2 * plain.joints, rtol=1e-4
    )


def test_a_hand_of_known_size_keeps_its_distance_without_depth() -> None:
    rng = np.random.default_rng(23)
    lifter = Lifter(CAMERA, unit_m=0.001)
    assert lifter.size(1) is None
    for i in range(Lifter.KNOWN_AFTER + 10):
        points = hand(rng, 0.4 + 0.01 * i, open_=True)
        depth = (noisy(render(points, CAMERA), rng) * 1000).astype(np.uint16)
        lifter.lift(seen(points, rng, size=1.2), depth)
    size = lifter.size(1)
    assert size == pytest.approx(1.2, rel=0.05)
    off = []
    for _ in range(10):
        points = hand(rng, 0.6, open_=True)
        lifted = lifter.lift(seen(points, rng, size=1.2), np.zeros((480, 640), dtype=np.uint16))
        assert (lifted.lacks, lifted.anchors) == ((), 0)
        assert lifted.confidence < 0.5
        off.append(errors(lifted, points).mean())
    assert np.mean(off) < 0.05
    assert lifter.size(1) == size  # nothing was learnt without depth
    assert lifter.lift(seen(points, rng), None).lacks == ("distance",)


def test_memory_of_sizes_is_bounded() -> None:
    rng = np.random.default_rng(29)
    lifter = Lifter(CAMERA)
    points = hand(rng, 0.5, open_=True)
    found, depth = seen(points, rng), render(points, CAMERA).astype(np.float32)
    for _ in range(Lifter.KNOWN_AFTER):
        lifter.lift(found, depth)
    assert lifter.size(found.id) is not None
    for n in range(Lifter.MOST_HANDS):
        lifter.lift(replace(found, id=100 + n), depth)
    assert lifter.size(found.id) is None


@given(
    depths=st.lists(
        st.one_of(st.just(float("nan")), st.floats(1e-3, 70.0)), min_size=6, max_size=6
    ),
    at_m=st.floats(0.1, 4.0),
    spoilt=st.sampled_from(["no", "one point", "all in one place", "flat shape", "far outside"]),
)
def test_nonsense_gives_finite_joints(depths: list[float], at_m: float, spoilt: str) -> None:
    rng = np.random.default_rng(31)
    found = seen(hand(rng, at_m), rng)
    if spoilt == "one point":
        found.image_points[7] = [-3000, 9000]
    elif spoilt == "all in one place":
        found.image_points[:] = [320, 240]
    elif spoilt == "flat shape":
        found.world[:] = 0
    elif spoilt == "far outside":
        found.image_points += 5000
    lifted = lift_anchored(found, np.array(depths), CAMERA)
    assert np.isfinite(lifted.joints).all()
    assert 0 <= lifted.confidence <= 0.9
    assert 0 <= lifted.anchors <= 6


# --- sampling, and lenses


def test_sample_is_a_median_of_what_is_known() -> None:
    depth = np.zeros((20, 30), dtype=np.uint16)
    depth[5:12, 10:17] = 500
    depth[5:8, 10:17] = 0  # holes
    depth[11, 10:17] = 900  # an edge
    points = np.array([[13, 8], [13.4, 8.4], [25, 15], [-1, 8], [400, 2], [0, 0]])
    depth[0, 0] = 700
    got = sample(depth, points)
    np.testing.assert_array_equal(got, [500, 500, np.nan, np.nan, np.nan, 700])
    bad = np.array([[np.nan, 3], [np.inf, 3], [1e30, -1e30]])
    assert np.isnan(sample(depth, bad)).all()


def test_depth_of_another_size_is_refused() -> None:
    rng = np.random.default_rng(37)
    found = seen(hand(rng, 0.5), rng)
    with pytest.raises(ValueError, match="not aligned to a 640 x 480 camera"):
        lift(found, np.zeros((240, 320), dtype=np.float32), CAMERA)


#: An Azure Kinect's colour lens (rational), and a mild one.
LENSES = [
    (0.0914, -0.0536, 0.0004, -0.0002, 0.0271),
    (0.5232, -2.7143, 0.0006, -0.0003, 1.5677, 0.3992, -2.5303, 1.4919),
]


@pytest.mark.parametrize("lens", LENSES)
def test_rays_undo_a_lens(lens: tuple[float, ...]) -> None:
    camera = replace(CAMERA, distortion=lens)
    rng = np.random.default_rng(41)
    points = np.stack(
        [rng.uniform(-0.45, 0.45, 200), rng.uniform(-0.35, 0.35, 200), np.ones(200)], axis=1
    )
    np.testing.assert_allclose(camera.rays(camera.project(points)), points[:, :2], atol=2e-5)
    assert np.abs(camera.project(points) - CAMERA.project(points)).max() > 1


def test_hand_through_a_lens() -> None:
    camera = replace(CAMERA, distortion=LENSES[0])
    rng = np.random.default_rng(43)
    points = hand(rng, 0.5, open_=True)
    depth = render(points, camera).astype(np.float32)
    assert errors(lift(seen(points, rng, camera), depth, camera), points).mean() < 0.015


@pytest.mark.skipif(
    sys.platform == "darwin", reason="there is no wheel of pyrealsense2 for this system"
)
@pytest.mark.parametrize("model", ["brown_conrady", "inverse_brown_conrady"])
def test_rays_are_librealsense_s(model: str) -> None:
    rs = librealsense.library()
    lens = (-0.0553, 0.0662, -0.0009, 0.0007, -0.0213)  # of a D455
    same = rs.intrinsics()
    same.width, same.height, same.fx, same.fy = 640, 480, CAMERA.fx, CAMERA.fy
    same.ppx, same.ppy, same.coeffs = CAMERA.cx, CAMERA.cy, list(lens)
    same.model = getattr(rs.distortion, model)
    camera = librealsense.intrinsics(same)
    assert camera == replace(CAMERA, distortion=pytest.approx(lens))
    for pixel in ([10.0, 20.0], [320.0, 240.0], [600.0, 77.0]):
        ray = rs.rs2_deproject_pixel_to_point(same, pixel, 1.0)
        np.testing.assert_allclose(camera.rays(np.array([pixel]))[0], ray[:2], atol=2e-5)
