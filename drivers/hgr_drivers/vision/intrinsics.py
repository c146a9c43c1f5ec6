"""What a pixel of a camera looks along, its lens included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera and its lens. Pixels are whole numbers at their centres.

    ``distortion`` are Brown's k1 k2 p1 p2 k3 [k4 k5 k6], in OpenCV's order, which Azure Kinect and
    librealsense share (its "inverse" Brown is the same to 0.01 pixels, measured).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    distortion: tuple[float, ...] = ()

    def rays(self, points: NDArray[np.floating]) -> Float64:
        """Pixels (n, 2) -> (n, 2): x/z and y/z in camera axes."""
        distorted = (np.asarray(points, dtype=np.float64) - (self.cx, self.cy)) / (self.fx, self.fy)
        if not any(self.distortion):
            return distorted
        rays = distorted
        for _ in range(10):  # a fixed point: the lens moves points a little only
            factor, shift = self._brown(rays)
            rays = (distorted - shift) / factor
        return rays

    def project(self, points_m: NDArray[np.floating]) -> Float64:
        """Points (n, 3) in camera axes, before it -> pixels (n, 2)."""
        rays = np.asarray(points_m[:, :2] / points_m[:, 2:], dtype=np.float64)
        if any(self.distortion):
            factor, shift = self._brown(rays)
            rays = rays * factor + shift
        return rays * (self.fx, self.fy) + (self.cx, self.cy)

    def _brown(self, rays: Float64) -> tuple[Float64, Float64]:
        """(n, 1) radial factor and (n, 2) tangential shift."""
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * 8)[:8]
        x, y = rays[:, 0], rays[:, 1]
        r2 = x * x + y * y
        factor = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        shift_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        shift_y = 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        return factor[:, None], np.stack([shift_x, shift_y], axis=1)
