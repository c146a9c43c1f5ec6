"""A hand of known place as a depth camera would see it: for tests and benchmarks of the lifter."""

from __future__ import annotations

import numpy as np
from hgr_drivers.vision.lifter import Intrinsics
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

#: Half a hand's thickness at MediaPipe's 21 points, in metres.
FLESH_M = np.array(
    [
        *(0.018, 0.013, 0.011, 0.010, 0.009),
        *(0.011, 0.009, 0.008, 0.007),
        *(0.012, 0.009, 0.008, 0.007),
        *(0.011, 0.009, 0.008, 0.007),
        *(0.010, 0.008, 0.007, 0.006),
    ]
)
#: Fingers, then what fills the palm.
_STRANDS = (
    *((0, 1), (1, 2), (2, 3), (3, 4)),
    *((b + i, b + i + 1) for b in (5, 9, 13, 17) for i in range(3)),
    *((0, 5), (0, 9), (0, 13), (0, 17), (1, 5), (2, 5), (5, 9), (9, 13), (13, 17)),
)


def render(points_m: NDArray[np.floating], camera: Intrinsics, thicker_m: float = 0.0) -> Float64:
    """21 points in camera axes (x right, y down, z away) -> depth (H, W) in metres, 0 elsewhere.

    Flesh is made of balls along the bones; a ball is drawn as the disc it nearly is.
    """
    depth = np.full((camera.height, camera.width), np.inf)
    for a, b in _STRANDS:
        for share in np.linspace(0, 1, 12):
            centre = (1 - share) * points_m[a] + share * points_m[b]
            radius = (1 - share) * FLESH_M[a] + share * FLESH_M[b] + thicker_m
            _draw(depth, centre, radius, camera)
    depth[np.isinf(depth)] = 0
    return depth


def _draw(depth: Float64, centre: NDArray[np.floating], radius: float, camera: Intrinsics) -> None:
    (x, y), reach = camera.project(centre[None])[0], camera.fx * radius / centre[2]
    left, right = max(int(x - reach), 0), min(int(x + reach) + 2, camera.width)
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 2, camera.height)
    if left >= right or top >= bottom:
        return
    aside = (np.arange(left, right)[None] - x) / reach
    below = (np.arange(top, bottom)[:, None] - y) / reach
    inside = 1 - aside**2 - below**2
    front = np.where(inside > 0, centre[2] - radius * np.sqrt(np.clip(inside, 0, None)), np.inf)
    window = depth[top:bottom, left:right]
    np.minimum(window, front, out=window)
