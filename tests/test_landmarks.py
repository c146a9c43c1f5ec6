"""Hands in images: MediaPipe on real photos and a real video, and what is put right after it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.vision.landmarks import (
    CURE,
    MAX_GAP_NS,
    YOUNG_SEEN,
    DetectedHand,
    HandLandmarker,
    HandTracker,
    without_doubles,
)

from hgr_stream.skeleton import MEDIAPIPE_21, Side, camera_to_canonical, chirality, from_layout
from tools.hand_photos import Image, open_hand, open_hand_points, two_hands

#: MediaPipe of the versions that ship their models has wheels for Python up to 3.12.
needs_mediapipe = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="there is no wheel of mediapipe 0.10.14 for this Python"
)
PERIOD_NS = 33_000_000


def hand(x: float, y: float = 200, side: Side = "right", score: float = 0.9) -> DetectedHand:
    """A hand of 100 pixels across at a place."""
    angles = np.linspace(0, 2 * np.pi, 21)
    ring = 50 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return DetectedHand(
        id=0,
        side=side,
        score=score,
        image_points=(ring + np.array([x, y])).astype(np.float32),
        world=np.zeros((21, 3), dtype=np.float32),
    )


class Video:
    """A tracker and its clock."""

    def __init__(self) -> None:
        self.tracker = HandTracker()
        self.time_ns = 0

    def push(self, *hands: DetectedHand, after_ns: int = PERIOD_NS) -> list[tuple[int, Side]]:
        self.time_ns += after_ns
        return [(h.id, h.side) for h in self.tracker.push(hands, self.time_ns)]


# --- ids and sides


def test_ids_stay_with_hands_that_move() -> None:
    video = Video()
    for i in range(30):
        seen = video.push(hand(100 + 10 * i), hand(700 - 5 * i, side="left"))
        assert sorted(seen) == [(1, "right"), (2, "left")]
    # They are matched by place, in whatever order they are found.
    assert video.push(hand(555, side="left", score=0.99), hand(400)) == [(2, "left"), (1, "right")]


def test_hands_that_come_close_are_told_apart_by_side() -> None:
    video = Video()
    for i in range(9):
        video.push(hand(200 + 15 * i), hand(500 - 15 * i, side="left"))
    # 35 pixels each, which leaves place alone undecided.
    assert sorted(video.push(hand(345), hand(355, y=235, side="left"))) == [
        (1, "right"),
        (2, "left"),
    ]


def test_hand_that_was_away_is_the_same_for_a_while() -> None:
    video = Video()
    assert video.push(hand(100)) == [(1, "right")]
    assert video.push() == []
    assert video.push(hand(130), after_ns=MAX_GAP_NS - PERIOD_NS) == [(1, "right")]
    assert video.push(hand(130), after_ns=MAX_GAP_NS + 1) == [(2, "right")]


def test_clock_that_begins_anew() -> None:
    video = Video()
    assert video.push(hand(100), after_ns=10**12) == [(1, "right")]
    assert video.push(hand(100), after_ns=-(10**11)) == [(2, "right")]
    assert video.push(hand(100)) == [(2, "right")]


def test_hand_elsewhere_is_another() -> None:
    video = Video()
    assert video.push(hand(100)) == [(1, "right")]
    assert video.push(hand(500)) == [(2, "right")]
    assert video.push(hand(110)) == [(1, "right")]


def test_single_wrong_sides_are_outvoted() -> None:
    video = Video()
    sides: list[Side] = ["right"] * 8 + ["left"] * 3 + ["right"] * 4
    assert [video.push(hand(100, side=side))[0] for side in sides] == [(1, "right")] * 15
    # But not for ever: it was wrong from the start.
    assert {video.push(hand(100, side="left"))[0] for _ in range(30)} >= {(1, "left")}
    assert video.push(hand(100, side="left")) == [(1, "left")]


def test_ghost_beside_a_hand_does_not_take_its_id() -> None:
    video = Video()
    for _ in range(YOUNG_SEEN):
        video.push(hand(100))
    assert sorted(video.push(hand(100), hand(140, y=245, score=0.6))) == [
        (1, "right"),
        (2, "right"),
    ]
    # The hand has gone on, and the ghost is nearer now.
    assert video.push(hand(125, y=232)) == [(1, "right")]


def test_a_hand_given_twice_is_one() -> None:
    once, again = hand(100, score=0.7), hand(104, side="left", score=0.8)
    assert without_doubles([once, again]) == [again]
    assert without_doubles([once, hand(160)])[0].score == 0.9
    assert len(without_doubles([once, hand(160)])) == 2
    assert without_doubles([]) == []


# --- MediaPipe itself


@contextmanager
def landmarker(**options: Any) -> Iterator[HandLandmarker]:
    with closing(HandLandmarker(**options)) as out:
        yield out


def watched(running: HandLandmarker, image: Image, times: int = 4) -> list[DetectedHand]:
    """What is seen in the last of so many equal images."""
    for i in range(times):
        hands = running.process(image, i * PERIOD_NS)
    return hands


def right_handed(seen: DetectedHand) -> bool:
    return bool(chirality(camera_to_canonical(from_layout(seen.world, MEDIAPIPE_21))) > 0)


@needs_mediapipe
@pytest.mark.parametrize("complexity", [0, 1])
def test_photo(shared_data: Path, complexity: int) -> None:
    with landmarker(complexity=complexity) as running:
        [seen] = watched(running, open_hand(shared_data))
    assert (seen.id, seen.side) == (1, "right")
    assert seen.score > 0.9
    assert right_handed(seen)
    assert seen.image_points.shape == (21, 2)
    assert seen.image_points.dtype == seen.world.dtype == np.float32
    # As people saw them; they do not agree with MediaPipe on where a wrist or a thumb's base is.
    away = np.linalg.norm(seen.image_points - open_hand_points(shared_data), axis=1)
    assert away[5:].max() < 18
    assert away.mean() < 10
    assert 0.07 < np.linalg.norm(seen.world[9] - seen.world[0]) < 0.11
    assert np.abs(seen.world.mean(axis=0)).max() < 0.05
    # x right, y down: the world's points lie as the image's do.
    for axis in (0, 1):
        assert np.corrcoef(seen.world[:, axis], seen.image_points[:, axis])[0, 1] > 0.97


@needs_mediapipe
def test_mirrored_images_give_what_plain_ones_do(shared_data: Path) -> None:
    image = open_hand(shared_data)
    flipped = np.ascontiguousarray(image[:, ::-1])
    with landmarker() as running:
        [plain] = watched(running, image)
    with landmarker(mirrored=True) as running:
        [mirrored] = watched(running, flipped)
    with landmarker() as running:  # which is what a left hand looks like
        [left] = watched(running, flipped)
    assert (mirrored.side, left.side) == ("right", "left")
    assert right_handed(mirrored)
    assert not right_handed(left)
    np.testing.assert_allclose(mirrored.image_points, plain.image_points, atol=12)
    np.testing.assert_allclose(left.image_points[:, 0], 639 - mirrored.image_points[:, 0], atol=3)


@needs_mediapipe
def test_two_hands_and_one_that_comes_later(shared_data: Path) -> None:
    both = two_hands(shared_data)
    one = both.copy()
    one[:, :330] = 255
    with landmarker(search_every=4) as running:
        [alone] = watched(running, one)
        assert alone.side == "right"
        came = []
        for i in range(10):
            hands = running.process(both, (10 + i) * PERIOD_NS)
            came.append(len(hands))
        assert came.index(2) < 4
        assert {(h.id, h.side) for h in hands} == {(alone.id, "right"), (2, "left")}
        gone = [running.process(one, (20 + i) * PERIOD_NS) for i in range(5)]
        assert [h.id for h in gone[-1]] == [alone.id]
        assert running.process(np.full_like(one, 255), 10**10) == []
    with landmarker(max_hands=1) as running:
        assert len(watched(running, both)) == 1


@needs_mediapipe
def test_waving_video(shared_data: Path) -> None:
    av = pytest.importorskip("av", reason="reading the video needs the package av")
    found = Counter[int]()
    with landmarker() as running, av.open(shared_data / "devices/video/waving_hand.mp4") as video:
        for image in video.decode(video=0):
            hands = running.process(image.to_ndarray(format="rgb24"), round(image.time * 1e9))
            found.update(h.id for h in hands)
    # The hand is in view for some of its 58 images only, and blurred; its id outlasts the blur.
    assert 15 <= found[1] <= 40
    assert sum(found.values()) - found[1] <= 8


@needs_mediapipe
def test_it_starts_in_silence() -> None:
    code = (
        "import numpy as np; from hgr_drivers.vision.landmarks import HandLandmarker as H;"
        "h = H(); assert h.process(np.zeros((48, 64, 3), np.uint8), 0) == []; h.close(); h.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_mediapipe
def test_images_it_refuses() -> None:
    with landmarker() as running:
        for bad in (
            np.zeros((48, 64), dtype=np.uint8),
            np.zeros((48, 64, 4), dtype=np.uint8),
            np.zeros((48, 64, 3), dtype=np.float32),
            np.zeros((0, 64, 3), dtype=np.uint8),
        ):
            with pytest.raises(ValueError, match="needs an"):
                running.process(bad, 0)
        assert running.process(np.zeros((48, 64, 3), dtype=np.uint8), 0) == []
    with pytest.raises(DeviceError, match="closed"):
        running.process(np.zeros((48, 64, 3), dtype=np.uint8), 0)


@pytest.mark.parametrize(
    "options",
    [{"max_hands": 0}, {"complexity": 2}, {"min_confidence": 1.5}, {"search_every": 0}],
)
def test_options_it_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} "):
        HandLandmarker(**options)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("mediapipe", "needs? the package mediapipe"),
        ("mediapipe.python.solutions.hands", "0.10.30"),
    ],
)
def test_without_mediapipe(monkeypatch: pytest.MonkeyPatch, missing: str, says: str) -> None:
    if missing != "mediapipe":
        pytest.importorskip("mediapipe", reason="without it the first case says it all")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DeviceError, match=says) as caught:
        HandLandmarker()
    assert caught.value.fatal
    assert caught.value.cure == CURE == 'pip install "hgr-stream[camera]"'
