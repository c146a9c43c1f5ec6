"""The same recording as another sensor, place or hand would have given it; through the pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import Recording
from hgr_stream.messages import Frame, Truth
from hgr_stream.recognition.bundle import Bundle, load
from hgr_stream.skeleton import WRIST, mirrored
from hgr_stream.training.online_evaluate import evaluate
from hgr_stream.training.perturb import CHANGES, LIMITS, parse, perturbed
from tests.hands import swipe_frames
from tests.models import save_palm_model


@pytest.fixture(scope="module")
def palm(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load(save_palm_model(tmp_path_factory.mktemp("model") / "palm.pt"))


def swipes() -> Recording:
    strokes = [(1.0, 1.4), (7.4, 7.8), (13.8, 14.2)]
    truths = [Truth("test", "right", "RIGHT", int(a * 1e9), int(b * 1e9)) for a, b in strokes]
    return Recording("swipes", Path("x"), swipe_frames(3), truths)


def changed(text: str) -> tuple[list[Frame], Recording]:
    (one,) = perturbed([swipes()], [parse(text)])
    return list(one.frames), one


def joints(frames: list[Frame]) -> np.ndarray:
    return np.stack([f.hands[0].array() for f in frames])


@pytest.mark.parametrize("name", CHANGES)
def test_a_recording_without_frames_stays_one(name: str) -> None:
    assert parse(f"{name}={LIMITS[name][1]}").of(replace(swipes(), frames=[])).frames == []


@pytest.mark.parametrize("hz", [15, 30, 60, 120, 240])
def test_another_rate_is_the_same_movement(hz: int) -> None:
    frames, _ = changed(f"rate={hz}")
    before = swipe_frames(3)
    steps = np.diff([f.time_ns for f in frames])
    assert np.allclose(steps, 1e9 / hz, atol=1)
    times = [f.time_ns for f in before]
    there = np.interp([f.time_ns for f in frames], times, joints(before)[:, WRIST, 0])
    assert np.allclose(joints(frames)[:, WRIST, 0], there, atol=1e-5)


def test_no_line_is_drawn_across_a_gap() -> None:
    one = swipes()
    one.frames = [f for f in one.frames if not 3e9 < f.time_ns < 3.6e9]  # type: ignore[attr-defined]
    (slow,) = perturbed([one], [parse("rate=30")])
    assert not [f for f in slow.frames if 3.05e9 < f.time_ns < 3.55e9]


def test_stamps_frames_and_hands() -> None:
    before = swipe_frames(3)
    frames, _ = changed("jitter=0.4")
    times = np.array([f.time_ns for f in frames])
    assert (np.diff(times) > 0).all()
    assert 1e6 < np.std(times - [f.time_ns for f in before]) < 8e6
    frames, _ = changed("gaps=0.2")
    longest = np.diff([f.time_ns for f in frames])
    assert sum(longest > 0.15e9) >= 5
    frames, _ = changed("lost=0.2")
    away = [f.time_ns for f in frames if not f.hands]
    assert len(away) == pytest.approx(3 * 0.2 * 100, abs=3)
    assert {round((t - 1.2e9) / 6.4e9) for t in away} == {0, 1, 2}, "in the middle of each"
    frames, _ = changed("glitch=0.05")
    far = np.abs(joints(frames)[:, WRIST] - joints(before)[:, WRIST]).max(-1) > 0.8
    assert 0.02 < far.mean() < 0.12
    frames, _ = changed("phantom=0.1")
    seen = [f.hands[1] for f in frames if len(f.hands) == 2]
    assert len(seen) == pytest.approx(0.1 * len(frames), rel=0.2)
    assert {(h.side, h.id == frames[0].hands[0].id) for h in seen} == {("left", False)}
    assert np.array_equal(joints(frames), joints(before)), "the true hand is as it was"
    frames, _ = changed("noise=2")
    assert np.std(joints(frames) - joints(before)) == pytest.approx(0.002, rel=0.05)
    frames, _ = changed("size=1.15")
    reach = np.linalg.norm(joints(frames)[:, 9] - joints(frames)[:, WRIST], axis=-1)
    was = np.linalg.norm(joints(before)[:, 9] - joints(before)[:, WRIST], axis=-1)
    assert np.allclose(reach, 1.15 * was, rtol=1e-4)


def test_turns_are_turns() -> None:
    before = joints(swipe_frames(3))
    after = joints(changed("turned=90")[0])
    assert np.allclose(after[..., 0], before[..., 2], atol=1e-6), "z becomes x about the vertical"
    assert np.allclose(after[..., 1], before[..., 1], atol=1e-6)
    up = joints(changed("raised=90")[0])
    assert np.allclose(up[..., 1], -before[..., 2], atol=1e-6), "what was away from the user is up"


def test_a_left_hand_performs_the_mirror_image(palm: Bundle) -> None:
    frames, one = changed("left")
    assert {h.side for f in frames for h in f.hands} == {"left"}
    assert np.array_equal(joints(frames), mirrored(joints(swipe_frames(3))))
    assert [t.label for t in one.truths] == ["LEFT"] * 3
    palm.metadata.mirror_left = True
    palm.metadata.mirror_labels = {"LEFT": "RIGHT", "RIGHT": "LEFT"}
    _, reports = evaluate(palm, [one], "any")
    assert reports["confirmed"].benchmark.f1 == 1.0


@pytest.mark.parametrize(
    "text",
    ["rate=30", "rate=60", "jitter=0.3", "gaps=0.2", "glitch=0.02", "phantom=0.1", "size=0.8"],
)
def test_the_pipeline_bears_it(palm: Bundle, text: str) -> None:
    _, reports = evaluate(palm, perturbed([swipes()], [parse(text)]), "any")
    assert reports["confirmed"].benchmark.recall == 1.0
    assert reports["confirmed"].benchmark.f1 >= 0.85


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_a_hand_lacks_stays_and_every_frame_has_a_number(name: str) -> None:
    low, high = LIMITS[name]
    one = swipes()
    for f in one.frames:
        f.index = 0  # a device without frame numbers
        f.hands = [msgspec.structs.replace(h, lacks=["depth"], confidence=0.5) for h in f.hands]
    text = name if name == "left" else f"{name}={min(max(low, 0.1), high)}"
    (other,) = perturbed([replace(one, silent=True)], [parse(text)])
    frames = list(other.frames)
    assert [f.seq for f in frames] == list(range(len(frames)))
    assert {(*h.lacks, h.confidence) for f in frames for h in f.hands} == {("depth", 0.5)}
    assert other.silent


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rat=5", "is no perturbation"),
        ("rate", "wants a number"),
        ("rate=fast", "wants a number"),
        ("rate=0", "not between"),
        ("glitch=nan", "not between"),
    ],
)
def test_wrong_words_are_told(text: str, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        parse(text)


def test_every_change_has_limits_and_the_same_seed_gives_the_same() -> None:
    assert set(CHANGES) == set(LIMITS)
    for name, (low, high) in LIMITS.items():
        text = name if name == "left" else f"{name}={min(max(low, 0.1), high)}"
        one, other = changed(text)[0], changed(text)[0]
        assert [f.time_ns for f in one] == [f.time_ns for f in other]
        assert [f.hands for f in one] == [f.hands for f in other]
