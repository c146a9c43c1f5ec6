"""Orbbec's cameras (Femto Bolt, Femto Mega, Gemini, Astra 2), through their SDK's Python package.

``pyorbbecsdk2`` (imported as ``pyorbbecsdk``) brings the SDK along. It gives colour, depth and the
calibration of both; depth is aligned to colour here (``kinect.alignment``), because the SDK's own
filter, as Python reaches it, leaves the colour camera's lens out. A file is a recording of
OrbbecViewer or of the SDK's ``RecordDevice`` (.bag), played at its own pace.

Not tried with a device or a recording: none was at hand. What could be: the package, its errors,
and everything after an image.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.config import path_of
from hgr_stream.datasets.azure_calibration import Camera
from hgr_stream.stream.clock import monotonic_ns

from .base import DeviceError, Driver, EndOfStream, Found, Options, Sample
from .kinect.alignment import Alignment, intrinsics
from .vision.newest import Newest
from .vision.rgbd import HandFinder, HandOptions

log = logging.getLogger(__name__)

CURE: Final = 'pip install "hgr-stream[orbbec]"'
PLUG_IN: Final = (
    "plug it in, with its power supply if it has one; on Linux install Orbbec's udev rules "
    "(99-obsensor-libusb.rules of the pyorbbecsdk repository)"
)
BUSY: Final = "close the program that uses it (OrbbecViewer?), or unplug it and plug it in again"
_FRAMES_MS: Final = 100
#: Nothing for so long from a recording that the SDK says it still plays.
_PLAYED_S: Final = 2.0
#: The SDK does not tell how far a lens model holds: tangent of the angle, wider than any of them.
_MAX_RADIUS: Final = 1.7


class OrbbecOptions(HandOptions):
    """Keys of an Orbbec camera's config table."""

    serial: str = ""  #: which of several; "": the first
    file: str = ""  #: a recording (.bag) instead of a device
    width: Annotated[int, Meta(ge=0, le=4096)] = 1280  #: of the colour image; 0: the device's own
    height: Annotated[int, Meta(ge=0, le=3072)] = 720
    fps: Annotated[int, Meta(ge=0, le=120)] = 30


@dataclass(slots=True)
class _Pair:
    time_ns: int
    index: int
    rgb: NDArray[np.uint8]
    depth_mm: NDArray[np.uint16]
    alignment: Alignment


class OrbbecDriver(Driver[OrbbecOptions]):
    """Hands of one camera, or of a recording."""

    name: ClassVar[str] = "orbbec"
    about: ClassVar[str] = "Orbbec Femto, Gemini and Astra 2, and their recordings"
    packages: ClassVar[tuple[str, ...]] = ("pyorbbecsdk", "mediapipe")
    extra: ClassVar[str] = "orbbec"
    Options: ClassVar[type[Options]] = OrbbecOptions
    silence_s: ClassVar[float] = 3.0
    silence_cure: ClassVar[str] = PLUG_IN

    def __init__(self, options: OrbbecOptions) -> None:
        super().__init__(options)
        self._source: _Source | None = None
        self._newest: Newest[_Pair] | None = None
        self._finder: HandFinder | None = None
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        self.close()
        source = self._source = _Source(self.options)
        self._newest = Newest(source.next, "orbbec")

    def read(self, timeout_s: float) -> Sample | None:
        if self._newest is None:
            raise DeviceError("the Orbbec driver is not open")
        pair = self._newest.get(timeout_s)
        if pair is None:
            return None
        if self._finder is None:  # only now: an absent camera must not cost the models' loading
            self._finder = HandFinder(self.options, intrinsics(pair.alignment.color_camera))
        hands = self._finder.find(
            pair.rgb,
            monotonic_ns(),
            lambda boxes: pair.alignment.depth(pair.depth_mm, boxes),
        )
        return Sample(pair.time_ns, hands, pair.index)

    def close(self) -> None:
        self._counts = Counter(self.counts())
        newest, self._newest = self._newest, None
        source, self._source = self._source, None
        if newest is not None and not newest.close():
            log.warning("the SDK does not come back; unplug the camera and plug it in again")
            source = None
        if source is not None:
            source.close()
        if self._finder is not None:
            self._finder.close()
            self._finder = None

    def counts(self) -> dict[str, int]:
        """``pictures_skipped``: newer ones had come; ``pictures_incomplete``: colour or depth was
        missing, or of a kind that cannot be read."""
        counts = Counter(self._counts)
        if self._newest is not None:
            counts["pictures_skipped"] += self._newest.skipped
        if self._source is not None:
            counts["pictures_incomplete"] += self._source.incomplete
        return {name: n for name, n in counts.items() if n}

    @classmethod
    def find(cls) -> list[Found]:
        """The cameras that the SDK sees; none are opened. DeviceError without the SDK."""
        found = []
        with _told():
            devices = _sdk().Context().query_devices()
            for i in range(devices.get_count()):
                serial = devices.get_device_serial_number_by_index(i)
                name = devices.get_device_name_by_index(i)
                found.append(Found(cls.name, serial, f"Orbbec {name}", {"serial": serial}))
        return found


class _Source:
    """The SDK's pipeline: a thin shell. Raises DeviceError."""

    def __init__(self, options: OrbbecOptions) -> None:
        self._o = _sdk()
        self.incomplete = 0
        self._index = 0
        self._alignment: Alignment | None = None
        self._playback: Any = None
        self._heard_s = time.monotonic()
        with _told():
            device = self._device(options)
            self._pipeline = self._o.Pipeline(device)
            config = self._o.Config()
            for sensor in (self._o.OBSensorType.COLOR_SENSOR, self._o.OBSensorType.DEPTH_SENSOR):
                config.enable_stream(self._profile(sensor, options))
            config.set_frame_aggregate_output_mode(
                self._o.OBFrameAggregateOutputMode.FULL_FRAME_REQUIRE
            )
            with contextlib.suppress(self._o.OBError, RuntimeError):
                self._pipeline.enable_frame_sync()  # not all devices can
            self._pipeline.start(config)

    def next(self) -> _Pair | None:
        with _told():
            frames = self._pipeline.wait_for_frames(_FRAMES_MS)
            if frames is None:
                self._check_end()
                return None
            self._heard_s = time.monotonic()
            color, depth = frames.get_color_frame(), frames.get_depth_frame()
            pair = self._pair(color, depth) if color is not None and depth is not None else None
        if pair is None:
            self.incomplete += 1
        return pair

    def close(self) -> None:
        with contextlib.suppress(self._o.OBError, RuntimeError):
            self._pipeline.stop()

    def _device(self, options: OrbbecOptions) -> Any:
        if options.file:
            file = path_of(options.file)
            if not file.is_file():
                raise DeviceError(f"{file}: no such file", "set file to a recording", fatal=True)
            try:
                self._playback = self._o.PlaybackDevice(str(file))
            except (self._o.OBError, RuntimeError) as error:
                raise DeviceError(
                    f"{file}: no Orbbec recording ({_line(error)})", fatal=True
                ) from None
            return self._playback
        devices = self._o.Context().query_devices()
        serials = [devices.get_device_serial_number_by_index(i) for i in range(devices.get_count())]
        if not serials:
            raise DeviceError("no Orbbec camera is plugged in", PLUG_IN)
        if options.serial and options.serial not in serials:
            raise DeviceError(
                f"the Orbbec camera {options.serial} is not plugged in; there is "
                f"{', '.join(serials)}",
                "plug it in, or set serial",
            )
        return devices.get_device_by_serial_number(options.serial or serials[0])

    def _profile(self, sensor: Any, options: OrbbecOptions) -> Any:
        profiles = self._pipeline.get_stream_profile_list(sensor)
        if sensor == self._o.OBSensorType.COLOR_SENSOR and not options.file:
            for format in (self._o.OBFormat.RGB, self._o.OBFormat.MJPG, self._o.OBFormat.YUYV):
                with contextlib.suppress(self._o.OBError, RuntimeError):
                    return profiles.get_video_stream_profile(
                        options.width, options.height, format, options.fps
                    )
            log.warning(
                "%dx%d at %d frames/s is not to be had: taking the camera's own",
                options.width,
                options.height,
                options.fps,
            )
        return profiles.get_default_video_stream_profile()

    def _pair(self, color: Any, depth: Any) -> _Pair | None:
        size = color.get_width(), color.get_height()
        rgb = to_rgb(color.get_format().name, bytes(color.get_data()), *size)
        raw = np.frombuffer(bytes(depth.get_data()), dtype="<u2")
        if rgb is None or raw.size != depth.get_width() * depth.get_height():
            return None
        if self._alignment is None:
            self._alignment = alignment(
                *(f.get_stream_profile().as_video_stream_profile() for f in (depth, color))
            )
        expected = self._alignment.depth_camera, self._alignment.color_camera
        depth_size = depth.get_width(), depth.get_height()
        if [(c.width, c.height) for c in expected] != [depth_size, size]:
            return None
        raw = raw.reshape(depth_size[::-1])
        scale_mm = depth.get_depth_scale()
        if scale_mm != 1:
            raw = np.minimum(raw * np.float32(scale_mm), 65535).astype(np.uint16)
        self._index += 1
        time_ns = int(color.get_timestamp_us()) * 1000
        return _Pair(time_ns, self._index - 1, rgb, raw, self._alignment)

    def _check_end(self) -> None:
        if self._playback is None:
            return
        stopped = self._playback.get_playback_status() == self._o.OBPlaybackStatus.STOPPED
        if stopped or time.monotonic() - self._heard_s > _PLAYED_S:
            raise EndOfStream


def to_rgb(format: str, data: bytes, width: int, height: int) -> NDArray[np.uint8] | None:
    """An image as the SDK gives it (its ``OBFormat``'s name) -> (height, width, 3) RGB; None for a
    format that is not known here, or data that are not such an image."""
    channels = {"RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4, "YUYV": 2, "YUY2": 2, "UYVY": 2}
    raw = np.frombuffer(data, dtype=np.uint8)
    if format == "MJPG":
        import cv2

        image: Any = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
        if image is None or image.shape != (height, width, 3):
            return None
        return np.ascontiguousarray(image[:, :, ::-1])
    n = channels.get(format)
    if n is None or raw.size != width * height * n:
        return None
    image = raw.reshape(height, width, n)
    if n == 2:
        import cv2

        code = cv2.COLOR_YUV2RGB_UYVY if format == "UYVY" else cv2.COLOR_YUV2RGB_YUY2
        converted: Any = cv2.cvtColor(image, code)
        return np.asarray(converted, dtype=np.uint8)
    if format.startswith("BGR"):
        return np.ascontiguousarray(image[:, :, 2::-1])
    return np.ascontiguousarray(image[:, :, :3])


def alignment(depth: Any, color: Any) -> Alignment:
    """Of the SDK's two ``VideoStreamProfile``s."""
    extrinsic = depth.get_extrinsic_to(color)
    rotation = np.asarray(extrinsic.rot, dtype=np.float64).reshape(3, 3)
    translation_m = np.asarray(extrinsic.transform, dtype=np.float64).reshape(3) * 1e-3
    return Alignment(
        camera(depth.get_intrinsic(), depth.get_distortion()),
        camera(color.get_intrinsic(), color.get_distortion()),
        rotation,
        translation_m,
    )


def camera(pinhole: Any, lens: Any) -> Camera:
    """The SDK's ``OBCameraIntrinsic`` and ``OBCameraDistortion``; OpenCV's coefficients, both.
    Raises DeviceError for a camera without calibration."""
    if min(pinhole.fx, pinhole.fy, pinhole.width, pinhole.height) <= 0:
        raise DeviceError("the Orbbec camera has no calibration", "update its firmware")
    return Camera(
        pinhole.width,
        pinhole.height,
        pinhole.fx,
        pinhole.fy,
        pinhole.cx,
        pinhole.cy,
        radial=(lens.k1, lens.k2, lens.k3, lens.k4, lens.k5, lens.k6),
        tangential=(lens.p1, lens.p2),
        max_radius=_MAX_RADIUS,
    )


def device_error(text: str) -> DeviceError:
    """What the SDK says -> one line and its cure."""
    lower = text.lower()
    if "no device found" in lower:
        return DeviceError("no Orbbec camera is plugged in", PLUG_IN)
    if any(word in lower for word in ("permission", "access denied", "libusb_error_access")):
        return DeviceError(f"no permission to use the Orbbec camera ({text})", PLUG_IN)
    if any(word in lower for word in ("busy", "occupied", "resource", "claim")):
        return DeviceError(f"the Orbbec camera is used by another program ({text})", BUSY)
    if any(word in lower for word in ("disconnect", "deactivated", "not exist", "offline")):
        return DeviceError(f"lost the Orbbec camera ({text})", "plug it in")
    return DeviceError(f"the Orbbec camera fails: {text}", f"{BUSY}; {PLUG_IN}")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """The SDK's errors as DeviceErrors."""
    o = _sdk()
    try:
        yield
    except (o.OBError, RuntimeError) as error:
        raise device_error(_line(error)) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The SDK greets on standard output as it is loaded, where ``hgr devices --json`` writes."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@functools.cache
def _sdk() -> Any:
    try:
        with _quiet():
            import pyorbbecsdk
    except ImportError as error:
        text = "an Orbbec camera needs the package pyorbbecsdk2"
        if error.name != "pyorbbecsdk":
            text = f"pyorbbecsdk2 cannot be loaded ({_line(error)})"
        raise DeviceError(text, CURE, fatal=True) from None
    # It would write a folder of log files wherever it is started.
    pyorbbecsdk.Context.set_logger_to_console(pyorbbecsdk.OBLogLevel.NONE)
    pyorbbecsdk.Context.set_logger_to_file(pyorbbecsdk.OBLogLevel.NONE, "")
    return pyorbbecsdk
