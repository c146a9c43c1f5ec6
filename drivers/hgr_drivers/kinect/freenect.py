"""libfreenect through ctypes: as much of its C interface as a driver of colour and depth needs.

Debian and Ubuntu have it as ``libfreenect0.5``, Homebrew as ``libfreenect``; its Python wrapper has
to be compiled and is in no package index. Version 0.5's ABI: ``libfreenect.h`` of OpenKinect.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections import deque
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_void_p
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..base import DeviceError
from .library import Signatures, load, sign

log = logging.getLogger(__name__)

WIDTH, HEIGHT = 640, 480
#: Its clock counts at 60 MHz in 32 bits: it wraps every 71.6 s.
TICKS_HZ: Final = 60_000_000

_MEDIUM, _RGB = 1, 0
_RAW_11BIT, _REGISTERED = 0, 4
_CAMERA = 2
_LOG_WARNING = 2
_NAMES: Final = (
    "libfreenect.so.0.5",
    "libfreenect.so.0",
    "libfreenect.dylib",
    "/opt/homebrew/lib/libfreenect.dylib",  # of Apple's processors: the system does not look there
    "freenect.dll",
)

INSTALL: Final = "apt-get install libfreenect0.5 (Debian, Ubuntu) or brew install libfreenect"
UDEV: Final = (
    "allow it by libfreenect's udev rules (60-libfreenect0.5.rules), join the group plugdev "
    "(sudo usermod -aG plugdev $USER), log in again"
)
BUSY: Final = "close the other program; if there is none: sudo rmmod gspca_kinect"
PLUG_IN: Final = "plug in the Kinect and its power supply (the USB plug alone does not power it)"


class _FrameMode(ctypes.Structure):
    _fields_ = [
        ("reserved", c_uint32),
        ("resolution", c_int),
        ("format", ctypes.c_int32),
        ("bytes", ctypes.c_int32),
        ("width", ctypes.c_int16),
        ("height", ctypes.c_int16),
        ("data_bits_per_pixel", ctypes.c_int8),
        ("padding_bits_per_pixel", ctypes.c_int8),
        ("framerate", ctypes.c_int8),
        ("is_valid", ctypes.c_int8),
    ]


class _Attributes(ctypes.Structure):
    pass


_Attributes._fields_ = [("next", POINTER(_Attributes)), ("camera_serial", c_char_p)]


class _TimeVal(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("microseconds", ctypes.c_long)]


_FrameCallback = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_uint32)
_LogCallback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)

#: Name -> (result, arguments). All are in 0.5.0 and later; a stand-in may lack the optional ones.
_FUNCTIONS: Final[Signatures] = {
    "init": (c_int, [POINTER(c_void_p), c_void_p]),
    "shutdown": (c_int, [c_void_p]),
    "set_log_level": (None, [c_void_p, c_int]),
    "set_log_callback": (None, [c_void_p, _LogCallback]),
    "select_subdevices": (None, [c_void_p, c_int]),
    "num_devices": (c_int, [c_void_p]),
    "open_device": (c_int, [c_void_p, POINTER(c_void_p), c_int]),
    "open_device_by_camera_serial": (c_int, [c_void_p, POINTER(c_void_p), c_char_p]),
    "close_device": (c_int, [c_void_p]),
    "find_video_mode": (_FrameMode, [c_int, c_int]),
    "find_depth_mode": (_FrameMode, [c_int, c_int]),
    "set_video_mode": (c_int, [c_void_p, _FrameMode]),
    "set_depth_mode": (c_int, [c_void_p, _FrameMode]),
    "set_video_callback": (None, [c_void_p, _FrameCallback]),
    "set_depth_callback": (None, [c_void_p, _FrameCallback]),
    "start_video": (c_int, [c_void_p]),
    "start_depth": (c_int, [c_void_p]),
    "stop_video": (c_int, [c_void_p]),
    "stop_depth": (c_int, [c_void_p]),
    "process_events_timeout": (c_int, [c_void_p, POINTER(_TimeVal)]),
}
_OPTIONAL: Final[Signatures] = {
    "list_device_attributes": (c_int, [c_void_p, POINTER(POINTER(_Attributes))]),
    "free_device_attributes": (None, [POINTER(_Attributes)]),
}


class Freenect:
    """One context of the library: what is plugged in, and one open device.

    Raises DeviceError when the library is missing or no USB can be reached."""

    def __init__(self, library: str = "") -> None:
        self._library = _load(library)
        self._context = c_void_p()
        self._device: c_void_p | None = None
        self._said: deque[str] = deque(maxlen=20)  # the library's own words
        # Kept here: the library holds bare pointers to them.
        self._callbacks: list[Any] = []
        if self._call("init", byref(self._context), None) < 0:
            raise DeviceError("libfreenect cannot reach the USB", UDEV)
        self._log = _LogCallback(self._on_log)
        self._call("set_log_callback", self._context, self._log)
        self._call("set_log_level", self._context, _LOG_WARNING)
        # The motor and the microphones are other USB devices: they may be held, or not allowed.
        self._call("select_subdevices", self._context, _CAMERA)

    def serials(self) -> list[str]:
        """The serial numbers of the Kinects plugged in; "" for one that does not tell."""
        count = int(self._call("num_devices", self._context))
        if not hasattr(self._library, "freenect_list_device_attributes"):
            return [""] * max(count, 0)
        first = POINTER(_Attributes)()
        if self._call("list_device_attributes", self._context, byref(first)) <= 0:
            return [""] * max(count, 0)
        found: list[str] = []
        node = first
        while node and len(found) < 64:
            found.append((node.contents.camera_serial or b"").decode(errors="replace").strip("0"))
            node = node.contents.next
        self._call("free_device_attributes", first)
        return found

    def open(
        self,
        serial: str,
        on_video: Callable[[NDArray[np.uint8], int], None],
        on_depth: Callable[[NDArray[np.uint16], int], None],
        *,
        registered: bool = True,
    ) -> None:
        """Open and start a device: by serial number, or the first one.

        ``on_video`` gets (480, 640, 3) RGB, ``on_depth`` (480, 640) millimetres aligned to it (the
        library does that by the device's own calibration) or, not ``registered``, the depth
        camera's raw 11 bits. Both come with the device's ticks, inside of ``process_events``.
        Raises DeviceError."""
        device = c_void_p()
        self._said.clear()
        if self._call("num_devices", self._context) <= 0:
            raise DeviceError("no Kinect (the first, 360 or for Windows) is plugged in", PLUG_IN)
        if serial:
            failed = self._call(
                "open_device_by_camera_serial", self._context, byref(device), serial.encode()
            )
        else:
            failed = self._call("open_device", self._context, byref(device), 0)
        if failed:
            raise self._refused(serial)
        self._device = device
        video = self._call("find_video_mode", _MEDIUM, _RGB)
        depth = self._call("find_depth_mode", _MEDIUM, _REGISTERED if registered else _RAW_11BIT)
        expected = (WIDTH * HEIGHT * 3, WIDTH * HEIGHT * 2)
        if not (video.is_valid and depth.is_valid) or (video.bytes, depth.bytes) != expected:
            raise DeviceError(
                "this libfreenect has not the modes that are needed", "update it to 0.5", fatal=True
            )
        self._callbacks = [
            _FrameCallback(_giving(on_video, np.uint8, (HEIGHT, WIDTH, 3))),
            _FrameCallback(_giving(on_depth, np.uint16, (HEIGHT, WIDTH))),
        ]
        if self._call("set_video_mode", device, video) or self._call(
            "set_depth_mode", device, depth
        ):
            raise DeviceError(f"the Kinect refuses its modes{self._words()}", "plug it in again")
        self._call("set_video_callback", device, self._callbacks[0])
        self._call("set_depth_callback", device, self._callbacks[1])
        if self._call("start_depth", device) or self._call("start_video", device):
            raise DeviceError(
                f"the Kinect does not start{self._words()}",
                "plug it into another USB port, of a controller of its own",
            )

    def process_events(self, timeout_s: float) -> None:
        """Wait for the USB and give what came to the callbacks. Raises DeviceError when the device
        is gone."""
        limit = _TimeVal(int(timeout_s), int(timeout_s % 1 * 1e6))
        result = self._call("process_events_timeout", self._context, byref(limit))
        if result < 0:
            raise DeviceError(f"lost the Kinect ({result}){self._words()}", PLUG_IN)

    def close(self) -> None:
        """Harmless when closed already."""
        device, self._device = self._device, None
        if device is not None:
            with contextlib.suppress(OSError):
                self._call("stop_video", device)
                self._call("stop_depth", device)
                self._call("close_device", device)
        context, self._context = self._context, c_void_p()
        if context:
            self._call("shutdown", context)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"freenect_{name}")(*arguments)

    def _on_log(self, _context: int, _level: int, text: bytes) -> None:
        line = text.decode(errors="replace").strip()
        self._said.append(line)
        log.debug("libfreenect: %s", line)

    def _words(self) -> str:
        return f": {self._said[-1]}" if self._said else ""

    def _refused(self, serial: str) -> DeviceError:
        """By what the library said: its error codes are lost on the way, libusb's are in the text
        ("Could not open camera: -3")."""
        said = " ".join(self._said)
        name = f"the Kinect {serial}" if serial else "the Kinect"
        if "-3" in said or "LIBUSB_ERROR_ACCESS" in said:
            return DeviceError(f"no permission to open {name}", UDEV)
        if "-6" in said or "LIBUSB_ERROR_BUSY" in said:
            return DeviceError(f"{name} is used by another program", BUSY)
        if serial and serial not in self.serials():
            there = ", ".join(s or "one without a number" for s in self.serials())
            return DeviceError(f"{name} is not plugged in; there is {there}", "plug it in")
        return DeviceError(f"{name} cannot be opened{self._words()}", f"{BUSY}; or {UDEV}")


def _giving(
    receive: Callable[[Any, int], None], kind: type[np.generic], shape: tuple[int, ...]
) -> Callable[[int, int, int], None]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize

    def callback(_device: int, data: int, ticks: int) -> None:
        # A copy: the buffer is the library's, and it goes on writing there.
        receive(np.frombuffer(ctypes.string_at(data, size), dtype=kind).reshape(shape), ticks)

    return callback


def _load(path: str) -> ctypes.CDLL:
    library = load([path] if path else _NAMES, "" if path else "freenect")
    if library is None:
        what = f"cannot load {path}" if path else "the Kinect needs the library libfreenect"
        raise DeviceError(what, INSTALL, fatal=True)
    try:
        sign(library, "freenect", _FUNCTIONS)
    except AttributeError as error:
        raise DeviceError(f"this libfreenect is too old: {error}", INSTALL, fatal=True) from None
    with contextlib.suppress(AttributeError):
        sign(library, "freenect", _OPTIONAL)
    return library
