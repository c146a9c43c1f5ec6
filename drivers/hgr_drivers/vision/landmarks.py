"""Hands in colour images, through MediaPipe Hands (Zhang et al. 2020, arXiv:2006.10214).

MediaPipe gives for each hand 21 points in the image, the same 21 points in metres about the hand's
middle ("world landmarks", of an average hand), and left or right. Five things are put right here:

* It names sides for a mirrored (selfie) image, so on a plain one they are swapped back. In a
  mirrored image the points are flipped instead: what comes out is always as a plain camera sees it.
* It has no ids: hands are followed from image to image by where they are, and a side is voted over
  a hand's last images, because single ones are wrong.
* With two hands asked for and one in view it at times gives that one twice: the worse is dropped.
* It looks for a second hand in every image as long as it has one only, which costs more than
  following the first: here every few images do. The graph in the wheel gets one more gate for it.
* It talks on standard error at the start; that goes to the log, at level debug.

Versions from 0.10.30 on have neither models nor this interface; the extra pins an older one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hgr_stream.skeleton import Float32, Side

from ..base import DeviceError

log = logging.getLogger(__name__)

CURE: Final = 'pip install "hgr-stream[camera]"'
GRAPH: Final = "modules/hand_landmark/hand_landmark_tracking_cpu.binarypb"

#: With a hand in view, others are looked for in every so many images (at 30 Hz, 8 times a second).
SEARCH_EVERY: Final = 4
#: A hand that was not seen for so long is a new one.
MAX_GAP_NS: Final = 300_000_000
#: How far a hand may go between two images, in hand sizes, penalties added.
MAX_COST: Final = 1.2
#: A hand that changes sides is less likely the same one: as if it were so much farther away.
SIDE_PENALTY: Final = 0.35
#: And so is one that was seen only a few times yet: MediaPipe sees ghosts beside a fast hand.
YOUNG_PENALTY: Final = 0.2
YOUNG_SEEN: Final = 5
#: Two hands whose points lie closer than this on average, in hand sizes, are one.
SAME_HAND: Final = 0.2
#: How slowly a hand's side changes: about the last 1 / (1 - SIDE_MEMORY) images have a vote.
SIDE_MEMORY: Final = 0.9


@dataclass(slots=True)
class DetectedHand:
    """One hand in one image, as an unmirrored camera sees it.

    ``id`` stays with the hand while it is followed. ``image_points`` (21, 2) are pixels, whole
    numbers at pixel centres, and may lie outside of the image. ``world`` (21, 3) are metres about
    the hand's middle, x right, y down, z away from the camera.
    """

    id: int
    side: Side
    score: float
    image_points: Float32
    world: Float32


class HandTracker:
    """Detections -> the same without doubles, with ids and steady sides. Pure; time is given."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._tracks: list[_Track] = []

    def push(self, hands: Sequence[DetectedHand], time_ns: int) -> list[DetectedHand]:
        """The hands of one image; changes their ``id`` and ``side``.

        A time before the last one is of another clock: all hands are new."""
        hands = without_doubles(hands)
        self._tracks = [t for t in self._tracks if 0 <= time_ns - t.time_ns <= MAX_GAP_NS]
        pairs = sorted(
            (cost, i, j)
            for i, track in enumerate(self._tracks)
            for j, hand in enumerate(hands)
            if (cost := track.cost(hand)) <= MAX_COST
        )
        taken: dict[int, _Track] = {}
        for _, i, j in pairs:
            track = self._tracks[i]
            if j not in taken and track not in taken.values():
                taken[j] = track
        for j, hand in enumerate(hands):
            if j not in taken:
                taken[j] = _Track(next(self._ids))
                self._tracks.append(taken[j])
            taken[j].update(hand, time_ns)
        return hands


@dataclass(eq=False, slots=True)
class _Track:
    id: int
    time_ns: int = 0
    middle: Float32 | None = None
    size: float = 1.0
    vote: float = 0.0  # positive: right
    seen: int = 0

    def cost(self, hand: DetectedHand) -> float:
        """How unlikely it is that this is the hand, in hand sizes."""
        assert self.middle is not None
        size = max(self.size, hand_size(hand.image_points))
        step = float(np.linalg.norm(hand.image_points.mean(axis=0) - self.middle)) / size
        changed = (self.vote > 0) != (hand.side == "right")
        return step + SIDE_PENALTY * changed + YOUNG_PENALTY * (self.seen < YOUNG_SEEN)

    def update(self, hand: DetectedHand, time_ns: int) -> None:
        vote = hand.score if hand.side == "right" else -hand.score
        self.vote = SIDE_MEMORY * self.vote + vote
        self.seen += 1
        self.time_ns = time_ns
        self.middle = hand.image_points.mean(axis=0)
        self.size = hand_size(hand.image_points)
        hand.id = self.id
        hand.side = "right" if self.vote > 0 else "left"


def hand_size(points: Float32) -> float:
    """The diagonal of the points' box, at least one pixel; (21, 2) pixels."""
    return max(float(np.linalg.norm(np.ptp(points, axis=0))), 1.0)


def without_doubles(hands: Sequence[DetectedHand]) -> list[DetectedHand]:
    """The hands, the surest first, without those that lie upon a surer one."""
    kept: list[DetectedHand] = []
    for hand in sorted(hands, key=lambda h: -h.score):
        size = hand_size(hand.image_points)
        if all(
            np.linalg.norm(hand.image_points - other.image_points, axis=1).mean() > SAME_HAND * size
            for other in kept
        ):
            kept.append(hand)
    return kept


class HandLandmarker:
    """MediaPipe's hand tracking over a video.

    ``complexity`` 0 is the fast model, 1 the exact one; ``min_confidence`` is asked of a hand when
    it is found as well as while it is followed; ``mirrored``: the images are; ``search_every``:
    with a hand in view, others are looked for in every so many images. Raises DeviceError when
    mediapipe is missing or of a version that cannot do it.
    """

    def __init__(
        self,
        max_hands: int = 2,
        complexity: int = 0,
        min_confidence: float = 0.5,
        mirrored: bool = False,
        search_every: int = SEARCH_EVERY,
    ) -> None:
        if (
            max_hands < 1
            or complexity not in (0, 1)
            or not 0 <= min_confidence <= 1
            or search_every < 1
        ):
            raise ValueError(
                f"max_hands {max_hands}, complexity {complexity}, min_confidence {min_confidence}, "
                f"search_every {search_every}: need at least 1, 0 or 1, 0 to 1, at least 1"
            )
        self._search_every = search_every
        self._since_search = 0
        self._followed = 0
        self._mirrored = mirrored
        self._tracker = HandTracker()
        with _quiet_start():
            self._graph: Any = _start(max_hands, complexity, min_confidence)
            # The first image costs several times the others: let it not be a real one.
            self._graph.process({"image": np.zeros((64, 64, 3), np.uint8), "search": True})

    def process(self, rgb: NDArray[np.uint8], time_ns: int) -> list[DetectedHand]:
        """The hands in the next image of the video, the surest first.

        ``rgb`` (H, W, 3); ``time_ns`` on any clock that does not run backwards."""
        if self._graph is None:
            raise DeviceError("the hand landmarker is closed")
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise ValueError(f"needs an (H, W, 3) uint8 image, got {rgb.dtype} {rgb.shape}")
        search = self._followed == 0 or self._since_search + 1 >= self._search_every
        self._since_search = 0 if search else self._since_search + 1
        found = self._graph.process({"image": np.ascontiguousarray(rgb), "search": search})
        if not found.multi_hand_landmarks:
            self._followed = 0
            return self._tracker.push([], time_ns)
        # A hand that was lost is looked for at once, not at the next turn.
        lost = len(found.multi_hand_landmarks) < self._followed
        self._followed = 0 if lost else len(found.multi_hand_landmarks)
        hands = [
            self._hand(image.landmark, world.landmark, handed.classification[0], rgb.shape)
            for image, world, handed in zip(
                found.multi_hand_landmarks,
                found.multi_hand_world_landmarks,
                found.multi_handedness,
                strict=True,
            )
        ]
        return self._tracker.push(hands, time_ns)

    def close(self) -> None:
        """Let go of the models; harmless when done already."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()

    def _hand(self, image: Any, world: Any, handed: Any, shape: Sequence[int]) -> DetectedHand:
        height, width = shape[:2]
        points = _array(image)[:, :2] * np.array([width, height], dtype=np.float32)
        points -= 0.5  # its zero is the first pixel's edge
        metres = _array(world)
        is_right = handed.label == "Right"  # in a mirrored image
        if self._mirrored:
            points[:, 0] = width - 1 - points[:, 0]
            metres[:, 0] *= -1
        else:
            is_right = not is_right
        return DetectedHand(
            id=0,
            side="right" if is_right else "left",
            score=float(handed.score),
            image_points=points,
            world=metres,
        )


def _array(landmarks: Any) -> Float32:
    return np.array([(p.x, p.y, p.z) for p in landmarks], dtype=np.float32)


def _start(max_hands: int, complexity: int, min_confidence: float) -> Any:
    """The graph of the wheel's own hand tracking, running, with the stream ``search`` added: in an
    image where it is False no palm is looked for."""
    try:
        import mediapipe.python.solutions.hands  # also registers the options of the graph's nodes
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import SolutionBase
    except ImportError as error:
        raise _unusable(error) from None
    # Once an image in some versions, and nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=r"SymbolDatabase\.GetPrototype", category=UserWarning)
    config = calculator_pb2.CalculatorGraphConfig()
    config.ParseFromString((Path(mediapipe.__file__).parent / GRAPH).read_bytes())
    for node in config.node:
        for i, name in enumerate(node.input_stream):
            if name.endswith("palm_detection_image"):
                node.input_stream[i] = name.replace("palm_detection_image", "searched_image")
    config.node.add(
        calculator="GateCalculator",
        input_stream=["palm_detection_image", "ALLOW:search"],
        output_stream=["searched_image"],
    )
    config.input_stream.append("SEARCH:search")
    return SolutionBase(
        graph_config=config,
        side_inputs={
            "model_complexity": complexity,
            "num_hands": max_hands,
            "use_prev_landmarks": True,
        },
        calculator_params={
            "palmdetectioncpu__TensorsToDetectionsCalculator.min_score_thresh": min_confidence,
            "handlandmarkcpu__ThresholdingCalculator.threshold": min_confidence,
        },
        outputs=["multi_hand_landmarks", "multi_hand_world_landmarks", "multi_handedness"],
    )


def _unusable(error: ImportError) -> DeviceError:
    text = "hand landmarks need the package mediapipe"
    if error.name not in ("mediapipe", None):
        text = f"this mediapipe cannot be used ({error}): its version must be below 0.10.30"
    return DeviceError(text, CURE, fatal=True)


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """What native code writes to standard error meanwhile goes to the log, at level debug."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            for line in said.read().decode(errors="replace").splitlines():
                log.debug("mediapipe: %s", line)
