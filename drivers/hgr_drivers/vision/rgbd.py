"""Colour, and depth where there is any -> hands: what the camera drivers do with each image.

Hands are found in the colour image (``vision.landmarks``) and put into metres (``vision.lifter``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ..base import HandSample, Options
from .intrinsics import Intrinsics
from .landmarks import DetectedHand, HandLandmarker
from .lifter import Depth, Lifter, lift

Box = tuple[float, float, float, float]  #: left, top, right, bottom, in pixels

#: About a joint the lifter looks at a few pixels; an aligned depth image is coarse by as much.
_MARGIN_PX: Final = 12.0
#: About the vertical axis: from a camera's side of the scene to the user's.
_HALF_TURN: Final = np.array([-1, 1, -1], dtype=np.float32)


class HandOptions(Options):
    """Keys of every camera's config table."""

    max_hands: Annotated[int, Meta(ge=1, le=8)] = 2
    complexity: Annotated[int, Meta(ge=0, le=1)] = 0  #: 1: more exact, three times the work
    min_confidence: Annotated[float, Meta(ge=0, le=1)] = 0.5
    facing: Literal["user", "away"] = "user"  #: "away": it looks where the user looks


class HandFinder:
    """Images of one camera -> hand samples. Times are of any clock that does not run backwards."""

    def __init__(self, options: HandOptions, camera: Intrinsics, *, mirrored: bool = False) -> None:
        self.camera = camera
        self._away = options.facing == "away"
        self._lifter = Lifter(camera)
        self._landmarker = HandLandmarker(
            options.max_hands, options.complexity, options.min_confidence, mirrored
        )

    def find(
        self,
        rgb: NDArray[np.uint8],
        time_ns: int,
        depth: Callable[[list[Box]], Depth | None] | None = None,
    ) -> list[HandSample]:
        """``depth`` gives the depth image in metres, (H, W), aligned to ``rgb``; it is asked only
        when there are hands, and told the boxes where they are."""
        hands = self._landmarker.process(rgb, time_ns)
        image = depth([_box(hand) for hand in hands]) if depth is not None and hands else None
        out = []
        for hand in hands:
            # Without any depth a hand's size cannot be known: it is the average one's.
            lifted = (
                lift(hand, None, self.camera, size=1.0)
                if depth is None
                else self._lifter.lift(hand, image)
            )
            joints = lifted.joints * _HALF_TURN if self._away else lifted.joints
            out.append(HandSample(hand.id, hand.side, joints, lifted.confidence, lifted.lacks))
        return out

    def close(self) -> None:
        """Let go of the models; harmless when done already."""
        self._landmarker.close()


def _box(hand: DetectedHand) -> Box:
    left, top = hand.image_points.min(axis=0) - _MARGIN_PX
    right, bottom = hand.image_points.max(axis=0) + _MARGIN_PX
    return float(left), float(top), float(right), float(bottom)
