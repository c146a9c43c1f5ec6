"""The Azure Kinect's Sensor SDK (``libk4a``) through ctypes: as much as a driver needs.

The SDK's last version is 1.4.2; Orbbec's wrapper for Femto cameras has the same interface. Its
names and numbers: ``k4a.h`` and ``k4atypes.h`` of github.com/microsoft/Azure-Kinect-Sensor-SDK.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hgr_stream.datasets.azure_calibration import (
    COLOR_MODES,
    DEPTH_MODES,
    MAX_CALIBRATION_BYTES,
    Calibration,
    parse_calibration,
)
from hgr_stream.datasets.azure_mkv import RgbdFrame
from hgr_stream.datasets.base import DatasetError

from ..base import DeviceError
from .library import Signatures, sign
from .library import load as load_library

INSTALL: Final = (
    "install Microsoft's Azure Kinect Sensor SDK 1.4 (Debian, Ubuntu: libk4a1.4 from "
    "packages.microsoft.com), or set library; recordings (file = ...) need none"
)
UDEV: Final = (
    "plug in its cable and its power supply; on Linux copy the SDK's 99-k4a.rules to "
    "/etc/udev/rules.d"
)
START: Final = (
    "plug it into a USB 3 port; on Linux its depth engine needs OpenGL 4.4 and a display (DISPLAY)"
)
_WINDOWS: Final = r"C:\Program Files\Azure Kinect SDK v1.4.2\sdk\windows-desktop\amd64\release\bin"
_NAMES: Final = {
    "linux": ("libk4a.so.1.4", "libk4a.so", "libk4a.so.1.3"),
    "win32": ("k4a.dll", _WINDOWS + r"\k4a.dll"),
}
_DEPTH: Final = {name: i for i, name in enumerate(DEPTH_MODES, start=1)}
_COLOR: Final = {name: i for i, name in enumerate(COLOR_MODES, start=1)}
_FPS: Final = {5: 0, 15: 1, 30: 2}
_BGRA32 = 3
_TIMEOUT = 2
_TOO_SMALL = 2


class _Configuration(ctypes.Structure):
    """k4a_device_configuration_t"""

    _fields_ = [
        ("color_format", c_int),
        ("color_resolution", c_int),
        ("depth_mode", c_int),
        ("camera_fps", c_int),
        ("synchronized_images_only", c_bool),
        ("depth_delay_off_color_usec", c_int32),
        ("wired_sync_mode", c_int),
        ("subordinate_delay_off_master_usec", c_uint32),
        ("disable_streaming_indicator", c_bool),
    ]


_FUNCTIONS: Final[Signatures] = {
    "device_get_installed_count": (c_uint32, []),
    "device_open": (c_int, [c_uint32, POINTER(c_void_p)]),
    "device_close": (None, [c_void_p]),
    "device_get_serialnum": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "device_get_raw_calibration": (c_int, [c_void_p, c_char_p, POINTER(c_size_t)]),
    "device_start_cameras": (c_int, [c_void_p, POINTER(_Configuration)]),
    "device_stop_cameras": (None, [c_void_p]),
    "device_get_capture": (c_int, [c_void_p, POINTER(c_void_p), c_int32]),
    "capture_release": (None, [c_void_p]),
    "capture_get_color_image": (c_void_p, [c_void_p]),
    "capture_get_depth_image": (c_void_p, [c_void_p]),
    "image_release": (None, [c_void_p]),
    "image_get_buffer": (c_void_p, [c_void_p]),
    "image_get_size": (c_size_t, [c_void_p]),
    "image_get_width_pixels": (c_int, [c_void_p]),
    "image_get_height_pixels": (c_int, [c_void_p]),
    "image_get_stride_bytes": (c_int, [c_void_p]),
    "image_get_device_timestamp_usec": (ctypes.c_uint64, [c_void_p]),
}


class K4a:
    """One device, open and running. Raises DeviceError."""

    def __init__(
        self, library: str, serial: str, depth_mode: str, color_mode: str, fps: int
    ) -> None:
        self._library = load(library)
        self._device = c_void_p()
        self._index = 0
        self.incomplete = 0  #: captures without one of the images
        self.serial = self._open(serial)
        try:
            self.calibration = self._read_calibration()
            configuration = _Configuration(
                color_format=_BGRA32,
                color_resolution=_COLOR[color_mode],
                depth_mode=_DEPTH[depth_mode],
                camera_fps=_FPS[fps],
                synchronized_images_only=True,
            )
            if self._call("device_start_cameras", self._device, byref(configuration)):
                raise DeviceError(
                    f"the Azure Kinect {self.serial} does not start "
                    f"({color_mode}, {depth_mode}, {fps} frames/s)",
                    START,
                )
        except BaseException:
            self.close()
            raise

    def capture(self, timeout_s: float) -> RgbdFrame | None:
        """The next pair of images; None when none came. Raises DeviceError when it is gone."""
        capture = c_void_p()
        result = self._call(
            "device_get_capture", self._device, byref(capture), int(timeout_s * 1000)
        )
        if result == _TIMEOUT:
            return None
        if result:
            raise DeviceError(f"lost the Azure Kinect {self.serial}", UDEV)
        try:
            color = self._image("color", capture, 4, np.uint8)
            depth = self._image("depth", capture, 1, np.uint16)
        finally:
            self._call("capture_release", capture)
        if color is None or depth is None:
            self.incomplete += 1
            return None
        self._index += 1
        rgb = np.ascontiguousarray(color[1][:, :, 2::-1])
        return RgbdFrame(color[0] * 1000, self._index - 1, rgb, depth[1][:, :, 0])

    def close(self) -> None:
        """Harmless when closed already."""
        device, self._device = self._device, c_void_p()
        if device:
            self._call("device_stop_cameras", device)
            self._call("device_close", device)

    def _open(self, serial: str) -> str:
        count = self._call("device_get_installed_count")
        if not count:
            raise DeviceError("no Azure Kinect is plugged in", UDEV)
        seen = []
        for index in range(count):
            device = c_void_p()
            if self._call("device_open", index, byref(device)):
                continue
            found = self._text("device_get_serialnum", device, 256).decode(errors="replace")
            if not serial or found == serial:
                self._device = device
                return found
            seen.append(found)
            self._call("device_close", device)
        if serial and seen:
            raise DeviceError(
                f"the Azure Kinect {serial} is not plugged in; there is {', '.join(seen)}",
                "plug it in, or set serial",
            )
        raise DeviceError(
            f"{count} Azure Kinect{'s' * (count > 1)} plugged in, but none can be opened",
            f"close the program that uses it (k4aviewer?); {UDEV}",
        )

    def _read_calibration(self) -> Calibration:
        text = self._text("device_get_raw_calibration", self._device, MAX_CALIBRATION_BYTES)
        try:
            return parse_calibration(text)
        except DatasetError as error:
            raise DeviceError(f"Azure Kinect {self.serial}: {error}", fatal=True) from None

    def _text(self, name: str, device: c_void_p, limit: int) -> bytes:
        size = c_size_t(0)
        if self._call(name, device, None, byref(size)) != _TOO_SMALL or size.value > limit:
            raise DeviceError("the Azure Kinect does not tell of itself", "plug it in again")
        buffer = ctypes.create_string_buffer(size.value)
        if self._call(name, device, buffer, byref(size)):
            raise DeviceError("the Azure Kinect does not tell of itself", "plug it in again")
        return buffer.raw.rstrip(b"\0")

    def _image(
        self, kind: str, capture: c_void_p, channels: int, dtype: type[np.generic]
    ) -> tuple[int, NDArray[Any]] | None:
        """(microseconds, (h, w, channels)), copied: the image goes back to the library."""
        image = c_void_p(self._call(f"capture_get_{kind}_image", capture))
        if not image:
            return None
        try:
            height, width, stride, size = (
                int(self._call(f"image_get_{name}", image))
                for name in ("height_pixels", "width_pixels", "stride_bytes", "size")
            )
            wide = width * channels * np.dtype(dtype).itemsize
            if min(height, width) <= 0 or stride < wide or height * stride > size:
                return None
            data = ctypes.string_at(self._call("image_get_buffer", image), height * stride)
            rows = np.frombuffer(data, dtype=np.uint8).reshape(height, stride)[:, :wide]
            pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
            return int(self._call("image_get_device_timestamp_usec", image)), pixels
        finally:
            self._call("image_release", image)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"k4a_{name}")(*arguments)


def installed(library: str = "") -> int:
    """How many devices are plugged in. Raises DeviceError when the SDK is missing."""
    return int(load(library).k4a_device_get_installed_count())


def load(path: str) -> ctypes.CDLL:
    """The SDK's library, at a path or where the system has it. Raises DeviceError."""
    names = [path] if path else _NAMES.get(sys.platform, ())
    library = load_library(names, "" if path else "k4a")
    if library is None:
        what = f"cannot load {path}" if path else "a live Azure Kinect needs its SDK, libk4a"
        raise DeviceError(what, INSTALL, fatal=True)
    try:
        sign(library, "k4a", _FUNCTIONS)
    except AttributeError as error:
        raise DeviceError(f"this is no libk4a of version 1: {error}", INSTALL, fatal=True) from None
    return library
