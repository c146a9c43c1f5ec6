"""Depth images as the colour camera would see them, where depth camera and colour camera are two.

A hand is looked for in the colour image and measured in the depth image. Each depth pixel is a
point in space; the colour camera's lens model tells where it sees that point.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hgr_stream.datasets.azure_calibration import Camera, Float64
from hgr_stream.skeleton import Float32

from ..vision.intrinsics import Intrinsics
from ..vision.rgbd import Box

_NOTHING: Final = np.float32(np.inf)
#: Hands are looked for between these distances when only a part of the image is wanted. The rest
#: of the arm's reach would be 1 m; far away costs nothing, near does: there the two cameras see
#: the same thing at very different places.
_NEAR_M, _FAR_M = 0.2, 20.0


class Alignment:
    """``rotation`` (3, 3), ``translation`` (3,) m: depth camera's axes -> colour camera's."""

    def __init__(
        self, depth: Camera, color: Camera, rotation: Float64, translation: Float64
    ) -> None:
        self.depth_camera, self.color_camera = depth, color
        self._rotation, self._translation = rotation, translation
        rays = depth.rays()
        ahead = np.concatenate((rays, np.ones((*rays.shape[:2], 1))), axis=-1) @ rotation.T
        # The depth camera's pixels are coarser. Its points are collected on a grid that is coarser
        # still, where no gap is left in a surface for what lies behind it to shine through.
        self._step = _spacing(ahead, color)
        self._grid = (-(-color.height // self._step), -(-color.width // self._step))
        self._ahead: Float32 = np.moveaxis(ahead, -1, 0).astype(np.float32)  # (3, h, w)
        self._seen: NDArray[np.bool_] = np.isfinite(self._ahead.sum(axis=0))
        self._color_rays = color.rays(self._step)

    def depth(self, depth_mm: NDArray[np.uint16], boxes: list[Box] | None = None) -> Float32:
        """(h, w) of the depth camera, 0 where it saw nothing -> (H, W) of the colour camera, metres
        along its axis, 0 where nothing is known. Of two surfaces the nearer one is taken.

        With ``boxes`` (in the colour image) only those parts are worth anything, and the rest of
        the work is saved. Raises ValueError for an image of another size."""
        camera = self.depth_camera
        if depth_mm.shape != (camera.height, camera.width):
            raise ValueError(
                f"depth image of {depth_mm.shape[::-1]}, not {(camera.width, camera.height)}"
            )
        rows, columns = self._grid
        out = np.full(rows * columns, _NOTHING, dtype=np.float32)
        if boxes is None:
            self._collect(depth_mm, slice(None), slice(None), out)
        else:
            for box in boxes:
                if (part := self._part(box)) is not None:
                    self._collect(depth_mm, *part, out)
        out[out == _NOTHING] = 0
        full = out.reshape(rows, columns).repeat(self._step, axis=0).repeat(self._step, axis=1)
        return np.ascontiguousarray(full[: self.color_camera.height, : self.color_camera.width])

    def _collect(
        self, depth_mm: NDArray[np.uint16], across: slice, along: slice, out: Float32
    ) -> None:
        z = depth_mm[across, along]
        known = self._seen[across, along] & (z > 0)
        z_m = z[known].astype(np.float32) * np.float32(1e-3)
        shift = self._translation.astype(np.float32)[:, None]
        points = self._ahead[:, across, along][:, known] * z_m + shift
        row, column = self._cells(points)
        rows, columns = self._grid
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        place, ahead = (row * columns + column)[inside], points[2][inside]
        nearer = ahead < out[place]
        place, ahead = place[nearer], ahead[nearer]
        while place.size:  # each pass brings every place at least one point nearer
            out[place] = ahead
            nearer = ahead < out[place]
            place, ahead = place[nearer], ahead[nearer]

    def _cells(self, points: Float32) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """``Camera.project`` in single precision, for many points (3, n): this is the costly part.
        Rows and columns of the grid; -1 for what the camera does not see."""
        camera, step = self.color_camera, np.float32(self._step)
        x, y, z = points
        in_front = z > 0.01
        inverse = 1 / np.where(in_front, z, np.float32(1))
        x, y = x * inverse, y * inverse
        k1, k2, k3, k4, k5, k6 = map(np.float32, camera.radial)
        p1, p2 = map(np.float32, camera.tangential)
        xx, yy, xy = x * x, y * y, 2 * x * y
        r2 = xx + yy
        in_front &= r2 <= camera.max_radius**2
        scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        u = np.float32(camera.fx) * (x * scale + p2 * (r2 + 2 * xx) + p1 * xy)
        v = np.float32(camera.fy) * (y * scale + p1 * (r2 + 2 * yy) + p2 * xy)
        with np.errstate(invalid="ignore"):
            column = np.floor((u + np.float32(camera.cx + 0.5)) / step)
            row = np.floor((v + np.float32(camera.cy + 0.5)) / step)
        limit = 1e6  # far outside; beyond it integers end
        in_front &= (np.abs(column) < limit) & (np.abs(row) < limit)
        column, row = (np.where(in_front, a, -1).astype(np.int32) for a in (column, row))
        return row, column

    def _part(self, box: Box) -> tuple[slice, slice] | None:
        """The depth pixels that may lie in a box of the colour image."""
        rows, columns = self._grid
        left, top, right, bottom = (round(min(max(v, -1e6), 1e6) / self._step) for v in box)
        part = self._color_rays[
            max(top, 0) : min(bottom + 1, rows), max(left, 0) : min(right + 1, columns)
        ]
        if not part.size:
            return None
        edge = np.concatenate((part[0], part[-1], part[:, 0], part[:, -1]))
        edge = np.concatenate((edge, np.ones((len(edge), 1))), axis=1)
        points = np.concatenate([edge * z for z in (_NEAR_M, 1.0, _FAR_M)])
        pixels = self.depth_camera.project((points - self._translation) @ self._rotation)
        if np.isnan(pixels).all():
            return None
        camera = self.depth_camera
        low, high = np.floor(np.nanmin(pixels, axis=0)), np.ceil(np.nanmax(pixels, axis=0)) + 1
        if np.isnan(pixels).any():  # it reaches beyond the lens model: take all there is
            return slice(None), slice(None)
        (x0, y0), (x1, y1) = low.clip(0), np.minimum(high, (camera.width, camera.height))
        if x0 >= x1 or y0 >= y1:
            return None
        return slice(int(y0), int(y1)), slice(int(x0), int(x1))


def _spacing(ahead: Float64, color: Camera) -> int:
    """How far apart in the colour image neighbours of the depth image lie, whole pixels (h, w, 3):
    nearly all of them."""
    pixels = color.project(ahead)
    # Comparisons with NaN are false: what is not seen does not count.
    inside: Any = ((pixels >= 0) & (pixels < (color.width, color.height))).all(axis=-1)
    apart = np.concatenate(
        [
            np.linalg.norm(np.diff(pixels, axis=1), axis=-1)[inside[:, 1:]],
            np.linalg.norm(np.diff(pixels, axis=0), axis=-1)[inside[1:]],
        ]
    )
    apart = apart[np.isfinite(apart)]
    return max(math.ceil(np.percentile(apart, 99)), 1) if apart.size else 1


def intrinsics(camera: Camera) -> Intrinsics:
    """The same camera as the lifter takes it."""
    k1, k2, k3, k4, k5, k6 = camera.radial
    distortion = (k1, k2, *camera.tangential, k3, k4, k5, k6)
    return Intrinsics(
        camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, distortion
    )
