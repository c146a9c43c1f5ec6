"""What is needed of librealsense: importing it, its cameras, its images, and its errors in words.

Its Python package brings all but libusb. Where the system has none, as in small containers, the
package libusb-package does; it must be loaded for everybody before pyrealsense2 is.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .base import DeviceError
from .vision.intrinsics import Float64, Intrinsics
from .vision.lifter import RADIUS_PX, sample

#: Depths searched for a point of the colour image.
NEAREST_M, FARTHEST_M = 0.1, 4.0

RULES_CURE: Final = (
    "install librealsense's udev rules (99-realsense-libusb.rules into /etc/udev/rules.d), "
    "then plug the camera in again"
)
PLUG: Final = "plug it in, at best into a USB 3 port of its own"
REPLUG: Final = "plug the camera in again, into a USB 3 port without a hub"
INSTALL: Final = 'pip install "hgr-stream[realsense]"'
RULES: Final = (
    "/etc/udev/rules.d",
    "/run/udev/rules.d",
    "/usr/lib/udev/rules.d",
    "/lib/udev/rules.d",
)

#: What librealsense says (in lower case), what that means, and what helps. The first one counts.
_MEANINGS: Final[tuple[tuple[tuple[str, ...], str, str], ...]] = (
    (("no device connected",), "is not connected", PLUG),
    (
        ("usb_status_access", "permission denied", "access denied", "insufficient permissions"),
        "may not be opened",
        RULES_CURE,
    ),
    (
        ("failed to set power state", "busy", "already opened", "in use"),
        "is held by another program, or asleep",
        "close the other program (realsense-viewer, a browser), or plug the camera in again",
    ),
    (
        ("disconnected", "no such device", "no_device", "removed", "device not found"),
        "is unplugged",
        PLUG,
    ),
    (
        ("didn't arrive", "timeout", "timed out", "time out"),
        "sends no frames",
        REPLUG,
    ),
)


@cache
def library() -> Any:
    """The module pyrealsense2; DeviceError with its cure when it cannot be had."""
    try:
        try:
            import pyrealsense2
        except ImportError as error:
            if "libusb" not in str(error):
                raise
            _load_libusb()
            import pyrealsense2
    except ImportError as error:
        said = str(error).splitlines()[0]
        if "libusb" in said:
            raise DeviceError(
                "pyrealsense2 finds no libusb-1.0",
                "pip install libusb-package, or install the system's libusb-1.0",
                fatal=True,
            ) from None
        text = "RealSense cameras need the package pyrealsense2"
        if error.name != "pyrealsense2":
            text = f"pyrealsense2 cannot be imported: {said}"
        raise DeviceError(text, INSTALL, fatal=True) from None
    # It reports on standard error what we report better.
    pyrealsense2.log_to_console(pyrealsense2.log_severity.fatal)
    return pyrealsense2


def _load_libusb() -> None:
    """Make the wheel's libusb known to every library loaded from now on."""
    try:
        import libusb_package

        path = libusb_package.get_library_path()
        if path is not None:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except (ImportError, OSError):
        pass  # the import that follows tells what is missing


@cache
def context() -> Any:
    """The process's one context, kept: it is what notices plugging and unplugging."""
    return library().context()


class Seen(NamedTuple):
    """A camera on this machine."""

    serial: str
    text: str
    has_color: bool


def cameras() -> list[Seen]:
    """Those that the library can see and may open."""
    out = []
    devices = context().query_devices()
    for i in range(devices.size()):
        # It may go while we ask; and a broken recording that was opened here is in the list, too.
        with contextlib.suppress(RuntimeError):
            device = devices[i]
            # First of all, its serial: to ask one that is going for its streams can crash.
            if serial := _info(device, "serial_number"):
                rates = _color_rates(device)
                text = f"{_described(device)}, {rates or 'no colour, which hands are found in'}"
                out.append(Seen(serial, text, bool(rates)))
    return out


def reset(serial: str) -> bool:
    """Restart a camera, as if it were plugged in again; whether it could be told to."""
    devices = context().query_devices()
    for i in range(devices.size()):
        with contextlib.suppress(RuntimeError):
            device = devices[i]
            if _info(device, "serial_number") == serial:
                device.hardware_reset()
                return True
    return False


def _info(device: Any, name: str) -> str:
    key = getattr(library().camera_info, name)
    return str(device.get_info(key)) if device.supports(key) else ""


def _described(device: Any) -> str:
    parts = [_info(device, "name") or "RealSense"]
    if usb := _info(device, "usb_type_descriptor"):
        parts.append(f"USB {usb}" + (" (a USB 3 port allows more)" if usb.startswith("2") else ""))
    if firmware := _info(device, "firmware_version"):
        parts.append(f"firmware {firmware}")
    return ", ".join(parts)


def _color_rates(device: Any) -> str:
    """Its colour streams in words; empty for a device without (a tracking camera, a recovery)."""
    rs = library()
    rates: dict[tuple[int, int], int] = {}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() == rs.stream.color:
                video = profile.as_video_stream_profile()
                size = (video.width(), video.height())
                rates[size] = max(rates.get(size, 0), profile.fps())
    sizes = sorted(rates, key=lambda size: abs(size[0] - 640))[:3]
    return "colour " + ", ".join(f"{w}x{h} to {rates[w, h]} Hz" for w, h in sizes) if sizes else ""


def on_usb(root: Path = Path("/sys/bus/usb/devices")) -> bool:
    """Linux knows of a RealSense camera on USB, whether or not this user may open it."""
    for product in root.glob("*/product"):
        with contextlib.suppress(OSError):
            if "realsense" in product.read_text(errors="replace").lower():
                return True
    return False


def checks(rules: Iterable[str] = RULES) -> list[tuple[str, bool, str]]:
    """(what, whether it is well, its cure) for ``hgr doctor``."""
    try:
        library()
        out = [("pyrealsense2 and libusb", True, "")]
    except DeviceError as error:
        out = [("pyrealsense2 and libusb", False, error.cure)]
    if sys.platform == "linux":
        found = any(
            "realsense" in path.name.lower()
            for folder in rules
            if Path(folder).is_dir()
            for path in Path(folder).glob("*.rules")
        )
        out.append(("RealSense udev rules", found, "" if found else RULES_CURE))
    return out


def explained(error: RuntimeError, camera: str, wanted: str, *, is_file: bool) -> DeviceError:
    """librealsense's words about a camera -> one line with its cure."""
    said = (str(error).strip().splitlines() or ["unknown error"])[0]
    low = said.lower()
    if is_file:
        return DeviceError(
            f"{camera} cannot be played: {said}",
            "it must be a whole recording of librealsense's (.db3, .bag)",
            fatal=True,
        )
    if "resolve requests" in low:
        return DeviceError(
            f"{camera} has no {wanted}",
            "choose width, height and fps that it has (hgr devices); a USB 2 port allows few",
        )
    for texts, meaning, cure in _MEANINGS:
        if any(text in low for text in texts):
            return DeviceError(f"{camera} {meaning} ({said})", cure)
    return DeviceError(f"{camera}: {said}", "plug the camera in again")


class DepthAtPixels:
    """Depths at a few pixels of the colour image, without aligning all of it."""

    def __init__(self, color: Any, depth: Any, unit_m: float) -> None:
        self.unit_m = unit_m
        self.color, self.depth = color.intrinsics, depth.intrinsics
        self.to_depth = color.get_extrinsics_to(depth)
        self.to_color = depth.get_extrinsics_to(color)

    def of(self, frame: Any, pixels: NDArray[np.floating]) -> Float64:
        """(n, 2) pixels of the colour image -> (n,) metres along its axis, NaN where unknown."""
        rs = library()
        data = frame.get_data()
        found = np.array([self._place(data, pixel) for pixel in pixels.tolist()])
        depths = sample(np.asanyarray(data), found) * self.unit_m
        for i, (pixel, place) in enumerate(zip(pixels.tolist(), found.tolist(), strict=True)):
            if not depths[i] > 0:
                continue
            point = rs.rs2_deproject_pixel_to_point(self.depth, place, float(depths[i]))
            point = rs.rs2_transform_point_to_point(self.to_color, point)
            # Beside a hole or an edge it finds the nearest that there is, which may be elsewhere.
            away = np.subtract(rs.rs2_project_point_to_pixel(self.color, point), pixel)
            depths[i] = point[2] if np.abs(away).max() <= RADIUS_PX + 1 else np.nan
        return depths

    def _place(self, data: Any, pixel: list[float]) -> list[float]:
        """The depth pixel that shows what the colour pixel does."""
        rs = library()
        near, far = (self._in_depth(pixel, at_m) for at_m in (NEAREST_M, FARTHEST_M))
        # Both images from one place (a D405, or already aligned): its search needs a way to go.
        if max(abs(near[0] - far[0]), abs(near[1] - far[1])) < 1.5:
            return far
        place: list[float] = rs.rs2_project_color_pixel_to_depth_pixel(
            data,
            self.unit_m,
            NEAREST_M,
            FARTHEST_M,
            self.depth,
            self.color,
            self.to_depth,
            self.to_color,
            pixel,
        )
        return place

    def _in_depth(self, pixel: list[float], at_m: float) -> list[float]:
        rs = library()
        point = rs.rs2_deproject_pixel_to_point(self.color, pixel, at_m)
        point = rs.rs2_transform_point_to_point(self.to_depth, point)
        place: list[float] = rs.rs2_project_point_to_pixel(self.depth, point)
        return place


def rgb(frame: Any, camera: str) -> NDArray[np.uint8]:
    """(H, W, 3) of a colour frame in any of the usual formats."""
    rs = library()
    image: NDArray[np.uint8] = np.asanyarray(frame.get_data())
    given = frame.profile.format()
    if given in (rs.format.rgb8, rs.format.rgba8):
        return image[:, :, :3]
    if given in (rs.format.bgr8, rs.format.bgra8):
        return image[:, :, 2::-1]
    raise DeviceError(
        f"{camera} has colour as {given}", "record it as RGB8, as realsense-viewer does", fatal=True
    )


def intrinsics(given: Any) -> Intrinsics:
    """The library's intrinsics as the lifter's."""
    return Intrinsics(
        given.fx,
        given.fy,
        given.ppx,
        given.ppy,
        given.width,
        given.height,
        tuple(given.coeffs),
    )
