"""The Azure Kinect's factory calibration, and depth images seen from its colour camera.

The device gives its calibration as JSON (``k4a_device_get_raw_calibration``; recordings carry the
same text), in units of the whole sensor. A mode reads a binned and cropped part of it: the table
below. Pixels are OpenCV's: (0, 0) is the middle of the first one. Lens model and modes as the
Sensor SDK has them (github.com/microsoft/Azure-Kinect-Sensor-SDK, ``src/transformation``).

Early prototypes' "Rational6KT" lenses are refused, as the SDK warns of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from .base import DatasetError

Float64 = NDArray[np.float64]

#: The device's own is 8 KB.
MAX_CALIBRATION_BYTES: Final = 1 << 20
#: Where the calibration tells no radius up to which its lens model holds (tangent of the angle).
_DEFAULT_RADIUS: Final = 1.7
_MODEL: Final = "CALIBRATION_LensDistortionModelBrownConrady"


@dataclass(frozen=True, slots=True)
class Mode:
    """How a camera mode reads its sensor: binned to a size, then cropped; all in pixels."""

    binned: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]


DEPTH_MODES: Final = {
    "NFOV_2X2BINNED": Mode((512, 512), (96, 90), (320, 288)),
    "NFOV_UNBINNED": Mode((1024, 1024), (192, 180), (640, 576)),
    "WFOV_2X2BINNED": Mode((512, 512), (0, 0), (512, 512)),
    "WFOV_UNBINNED": Mode((1024, 1024), (0, 0), (1024, 1024)),
}
COLOR_MODES: Final = {
    "720P": Mode((1280, 960), (0, 120), (1280, 720)),
    "1080P": Mode((1920, 1440), (0, 180), (1920, 1080)),
    "1440P": Mode((2560, 1920), (0, 240), (2560, 1440)),
    "1536P": Mode((2048, 1536), (0, 0), (2048, 1536)),
    "2160P": Mode((3840, 2880), (0, 360), (3840, 2160)),
    "3072P": Mode((4096, 3072), (0, 0), (4096, 3072)),
}


@dataclass(frozen=True)
class Camera:
    """A camera with a lens, in one mode. Its axes: x right, y down, z away; metres."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    radial: tuple[float, ...]  #: k1..k6 of the rational Brown-Conrady model
    tangential: tuple[float, float]  #: p1, p2
    max_radius: float  #: of x/z, y/z: beyond it the model says nothing

    def scaled(self, width: int) -> Camera:
        """The camera whose images are this one's, made ``width`` pixels wide."""
        scale = width / self.width
        return replace(
            self,
            width=width,
            height=round(self.height * scale),
            fx=self.fx * scale,
            fy=self.fy * scale,
            cx=(self.cx + 0.5) * scale - 0.5,
            cy=(self.cy + 0.5) * scale - 0.5,
        )

    def project(self, points: Float64) -> Float64:
        """Points (..., 3) in metres -> pixels (..., 2); NaN where this camera does not see."""
        x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            normal = np.stack((x / z, y / z), axis=-1)
            normal[~(z > 0)] = np.nan
        return self._distort(normal)

    def rays(self, every: int = 1) -> Float64:
        """x/z and y/z of each pixel, (height, width, 2); NaN where the lens model has no answer.
        With ``every`` n, those of every nth row and column.

        By Newton's method: it gains digits by squares, so six rounds are plenty where it has an
        answer at all."""
        v, u = np.mgrid[0 : self.height : every, 0 : self.width : every].astype(np.float64)
        to_x, to_y = (u - self.cx) / self.fx, (v - self.cy) / self.fy
        x, y = to_x, to_y
        k1, k2, k3, k4, k5, k6 = self.radial
        p1, p2 = self.tangential
        with np.errstate(all="ignore"):
            for _ in range(6):
                xx, yy, xy = x * x, y * y, x * y
                r2 = xx + yy
                above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
                below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
                scale = above / below
                slope = (
                    k1 + r2 * (2 * k2 + 3 * r2 * k3) - scale * (k4 + r2 * (2 * k5 + 3 * r2 * k6))
                )
                slope *= 2 / below
                off_x = to_x - x * scale - p2 * (r2 + 2 * xx) - 2 * p1 * xy
                off_y = to_y - y * scale - p1 * (r2 + 2 * yy) - 2 * p2 * xy
                # The Jacobian [[a, b], [b, d]] is symmetric.
                a = scale + slope * xx + 6 * p2 * x + 2 * p1 * y
                b = slope * xy + 2 * p2 * y + 2 * p1 * x
                d = scale + slope * yy + 6 * p1 * y + 2 * p2 * x
                det = a * d - b * b
                x, y = x + (d * off_x - b * off_y) / det, y + (a * off_y - b * off_x) / det
            found = np.stack((x, y), axis=-1)
            # A root outside of the model's reach is none, and a model may fold back to one.
            off = np.abs(self._distort(found) - np.stack((u, v), axis=-1)).max(axis=-1)
        found[~(off < 1e-2)] = np.nan
        return found

    def _distort(self, normal: Float64) -> Float64:
        x, y = normal[..., 0], normal[..., 1]
        r2 = x * x + y * y
        k1, k2, k3, k4, k5, k6 = self.radial
        p1, p2 = self.tangential
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
            xy = 2 * x * y
            u = self.cx + self.fx * (x * scale + p2 * (r2 + 2 * x * x) + p1 * xy)
            v = self.cy + self.fy * (y * scale + p1 * (r2 + 2 * y * y) + p2 * xy)
        out = np.stack((u, v), axis=-1)
        out[~(r2 <= self.max_radius**2)] = np.nan
        return out


@dataclass(frozen=True)
class Calibration:
    """A device's calibration. ``rotation`` (3, 3) and ``translation`` (3,) metres take a point of
    the depth camera's axes to the colour camera's: ``rotation @ p + translation``."""

    rotation: Float64
    translation: Float64
    _depth: _Lens
    _color: _Lens

    def depth_camera(self, mode: str) -> Camera:
        """The depth camera in a mode of ``DEPTH_MODES``; raises DatasetError for another."""
        return self._depth.camera(_mode(DEPTH_MODES, mode, "depth"))

    def color_camera(self, mode: str) -> Camera:
        """The colour camera in a mode of ``COLOR_MODES``; raises DatasetError for another."""
        return self._color.camera(_mode(COLOR_MODES, mode, "colour"))


@dataclass(frozen=True)
class _Lens:
    """In units of the whole sensor, (0, 0) its corner."""

    cx: float
    cy: float
    fx: float
    fy: float
    radial: tuple[float, ...]
    tangential: tuple[float, float]
    max_radius: float

    def camera(self, mode: Mode) -> Camera:
        width, height = mode.binned
        return Camera(
            *mode.size,
            fx=self.fx * width,
            fy=self.fy * height,
            cx=self.cx * width - mode.crop[0] - 0.5,
            cy=self.cy * height - mode.crop[1] - 0.5,
            radial=self.radial,
            tangential=self.tangential,
            max_radius=self.max_radius,
        )


# --- the JSON


class _Intrinsics(msgspec.Struct, rename="pascal"):
    model_type: str
    model_parameters: list[float]


class _Rt(msgspec.Struct, rename="pascal"):
    rotation: list[float]
    translation: list[float]


class _Camera(msgspec.Struct, rename="pascal"):
    intrinsics: _Intrinsics
    location: str
    rt: _Rt
    sensor_width: int
    sensor_height: int
    metric_radius: float = 0.0


class _Information(msgspec.Struct, rename="pascal"):
    cameras: list[_Camera]


class _File(msgspec.Struct, rename="pascal"):
    calibration_information: _Information


_DECODER: Final = msgspec.json.Decoder(_File)


def parse_calibration(data: bytes) -> Calibration:
    """The device's JSON (a closing NUL is allowed); raises DatasetError naming what is wrong."""
    if len(data) > MAX_CALIBRATION_BYTES:
        raise DatasetError(f"calibration of {len(data)} bytes; a device's has about 8,000")
    try:
        cameras = _DECODER.decode(data.rstrip(b"\0 \r\n")).calibration_information.cameras
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"no Azure Kinect calibration: {error}") from None
    depth = _find(cameras, "CALIBRATION_CameraLocationD0", "depth")
    color = _find(cameras, "CALIBRATION_CameraLocationPV0", "colour")
    if (depth.sensor_width, depth.sensor_height) != (1024, 1024):
        raise DatasetError(
            f"calibration of a {depth.sensor_width}x{depth.sensor_height} depth sensor; "
            "only 1024x1024 is known"
        )
    wide = color.sensor_width * 9 == color.sensor_height * 16
    if not wide and color.sensor_width * 3 != color.sensor_height * 4:
        raise DatasetError(
            f"calibration of a {color.sensor_width}x{color.sensor_height} colour sensor; "
            "only 4:3 and 16:9 are known"
        )
    depth_r, depth_t = _pose(depth)
    color_r, color_t = _pose(color)
    rotation = color_r @ depth_r.T
    return Calibration(rotation, color_t - rotation @ depth_t, _lens(depth), _lens(color, wide))


def _find(cameras: list[_Camera], location: str, name: str) -> _Camera:
    found = [camera for camera in cameras if camera.location == location]
    if len(found) != 1:
        raise DatasetError(f"calibration of {len(found)} {name} cameras instead of one")
    return found[0]


def _lens(camera: _Camera, wide: bool = False) -> _Lens:
    given = camera.intrinsics
    if given.model_type != _MODEL:
        raise DatasetError(f"calibration with an unknown lens model {given.model_type[:60]!r}")
    values = given.model_parameters
    # Large numbers are refused because their squares would not be finite.
    if len(values) != 14 or not all(math.isfinite(v) and abs(v) < 1e6 for v in values):
        raise DatasetError(f"{camera.location}: needs 14 finite lens parameters")
    cx, cy, fx, fy = values[:4]
    if not (0 < cx < 1 and 0 < cy < 1 and 0.05 < fx < 20 and 0.05 < fy < 20):
        raise DatasetError(f"{camera.location}: impossible centre or focal length")
    if values[10] or values[11]:
        raise DatasetError(f"{camera.location}: a centre of distortion is not supported")
    if wide:  # early devices: 4096 x 2304 in the middle of the 4096 x 3072 sensor
        cy, fy = (cy * 2304 + 384) / 3072, fy * 2304 / 3072
    radius = camera.metric_radius
    if not (math.isfinite(radius) and radius > 1e-4):
        radius = _DEFAULT_RADIUS
    return _Lens(
        cx, cy, fx, fy,
        radial=tuple(values[4:10]),
        tangential=(values[13], values[12]),  # the file has p2 before p1
        max_radius=min(radius, 20.0),
    )  # fmt: skip


def _pose(camera: _Camera) -> tuple[Float64, Float64]:
    rt = camera.rt
    if len(rt.rotation) != 9 or len(rt.translation) != 3:
        raise DatasetError(f"{camera.location}: needs 9 numbers of rotation, 3 of translation")
    rotation = np.array(rt.rotation).reshape(3, 3)
    translation = np.array(rt.translation)
    with np.errstate(all="ignore"):
        orthogonal = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    if not orthogonal or np.linalg.det(rotation) < 0:
        raise DatasetError(f"{camera.location}: its rotation is none")
    if not np.all(np.abs(translation) < 1.0):
        raise DatasetError(f"{camera.location}: its translation is not that of one device")
    return rotation, translation


def _mode(modes: dict[str, Mode], name: str, kind: str) -> Mode:
    if name not in modes:
        raise DatasetError(f"{kind} mode {name[:60]!r}; known: {', '.join(modes)}")
    return modes[name]
