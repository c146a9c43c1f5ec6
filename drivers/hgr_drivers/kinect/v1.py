"""The first Kinect (Xbox 360, for Windows 1.x), through libfreenect: colour and depth -> hands.

The library aligns depth to colour by what the device itself knows of its two cameras
(``alignment = "device"``). With ``"nominal"`` it is done here from the raw disparities and the
geometry that all Kinects have about: for a library that cannot.

Colour and depth run side by side at 30 Hz, each on the device's 60 MHz clock; a colour image is
taken with the depth image that is nearest in time among those that have come.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.datasets.azure_calibration import Camera
from hgr_stream.skeleton import Float32

from ..base import DeviceError, Driver, Found, Options, Sample
from ..vision.intrinsics import Intrinsics
from ..vision.newest import Newest
from ..vision.rgbd import Box, HandFinder, HandOptions
from .alignment import Alignment
from .freenect import HEIGHT, PLUG_IN, TICKS_HZ, WIDTH, Freenect

log = logging.getLogger(__name__)

_EVENTS_S: Final = 0.1
#: A depth image farther from its colour image than this is none of it: both come every 33 ms.
_MAX_APART_NS: Final = 50_000_000
#: Raw disparity of a pixel without depth.
_NO_RAW: Final = 2047
#: The depth camera: its focal length, and where the colour camera stands from it. The zero plane
#: that libfreenect reads from a device (``src/registration.c``): reference distance 120 mm, pixel
#: 0.1042 mm at half resolution, baselines 75 mm (projector) and 23 mm (colour camera).
_DEPTH_FOCAL_PX: Final = 120 / (2 * 0.1042)
_COLOR_AT_M: Final = 0.023


class KinectOptions(HandOptions):
    """Keys of a Kinect's config table."""

    serial: str = ""  #: which of several; "": the first
    alignment: Literal["device", "nominal"] = "device"
    focal_px: Annotated[float, Meta(ge=300, le=900)] = 525.0  #: of the colour camera, at 640x480
    library: str = ""  #: path of libfreenect; "": the system's


@dataclass(slots=True)
class _Pair:
    time_ns: int
    index: int
    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None


class Ticks:
    """The device's 32-bit clock -> nanoseconds that run on where it wraps."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._ticks = 0

    def ns(self, ticks: int) -> int:
        """A stamp may lie before the last one, by less than half of the clock's round."""
        if self._last is None:
            self._ticks = ticks
        else:
            step = (ticks - self._last) % (1 << 32)
            self._ticks += step if step < 1 << 31 else step - (1 << 32)
        self._last = ticks
        return self._ticks * 1_000_000_000 // TICKS_HZ


class Pairing:
    """Colour images with the depth images of their time. Pure; fed by the library's callbacks."""

    def __init__(self) -> None:
        self.unpaired = 0  #: colour images without depth
        self._ticks = Ticks()
        self._depth: tuple[int, NDArray[np.uint16]] | None = None
        self._pair: _Pair | None = None
        self._index = 0

    def depth(self, image: NDArray[np.uint16], ticks: int) -> None:
        self._depth = (self._ticks.ns(ticks), image)

    def video(self, image: NDArray[np.uint8], ticks: int) -> None:
        time_ns = self._ticks.ns(ticks)
        depth = None
        if self._depth is not None and abs(time_ns - self._depth[0]) <= _MAX_APART_NS:
            depth = self._depth[1]
        else:
            self.unpaired += 1
        self._pair = _Pair(time_ns, self._index, image, depth)
        self._index += 1

    def take(self) -> _Pair | None:
        """The pair that the last colour image made, once."""
        pair, self._pair = self._pair, None
        return pair


class KinectDriver(Driver[KinectOptions]):
    """Hands of one Kinect. An image that has no depth gives hands that lack it."""

    name: ClassVar[str] = "kinect"
    about: ClassVar[str] = "Kinect for Xbox 360 and for Windows 1"
    packages: ClassVar[tuple[str, ...]] = ("mediapipe",)
    extra: ClassVar[str] = "camera"
    Options: ClassVar[type[Options]] = KinectOptions
    silence_s: ClassVar[float] = 3.0
    silence_cure: ClassVar[str] = PLUG_IN

    def __init__(self, options: KinectOptions) -> None:
        super().__init__(options)
        self._library: Freenect | None = None
        self._newest: Newest[_Pair] | None = None
        self._finder: HandFinder | None = None
        self._alignment: Alignment | None = None
        self._pairing = Pairing()
        self._counts: Counter[str] = Counter()

    def check(self) -> None:
        """DeviceError without the library, or the right to reach the USB."""
        Freenect(self.options.library).close()

    def open(self) -> None:
        self.close()
        options = self.options
        library = self._library = Freenect(options.library)
        pairing = self._pairing = Pairing()
        try:
            library.open(
                options.serial,
                pairing.video,
                pairing.depth,
                registered=options.alignment == "device",
            )
            if options.alignment == "nominal" and self._alignment is None:
                self._alignment = nominal_alignment(options.focal_px)
            self._finder = HandFinder(options, _intrinsics(options.focal_px))
        except DeviceError:
            self.close()
            raise

        def next_pair() -> _Pair | None:
            library.process_events(_EVENTS_S)
            return pairing.take()

        self._newest = Newest(next_pair, "kinect")

    def read(self, timeout_s: float) -> Sample | None:
        if self._newest is None or self._finder is None:
            raise DeviceError("the Kinect driver is not open")
        pair = self._newest.get(timeout_s)
        if pair is None:
            return None

        def depth_m(boxes: list[Box]) -> Float32 | None:
            if pair.depth is None:
                return None
            if self._alignment is None:
                return pair.depth.astype(np.float32) * np.float32(1e-3)
            return self._alignment.depth(raw_to_mm(pair.depth), boxes)

        return Sample(pair.time_ns, self._finder.find(pair.rgb, pair.time_ns, depth_m), pair.index)

    def close(self) -> None:
        self._counts = Counter(self.counts())
        self._pairing = Pairing()
        newest, self._newest = self._newest, None
        library, self._library = self._library, None
        if newest is not None and not newest.close():
            log.warning("libfreenect does not come back; unplug the Kinect and plug it in again")
            library = None  # its thread is still in there
        if library is not None:
            library.close()
        if self._finder is not None:
            self._finder.close()
            self._finder = None

    def counts(self) -> dict[str, int]:
        """``pictures_skipped``: newer ones had come; ``pictures_without_depth``."""
        counts = Counter(self._counts)
        counts["pictures_without_depth"] += self._pairing.unpaired
        if self._newest is not None:
            counts["pictures_skipped"] += self._newest.skipped
        return {name: n for name, n in counts.items() if n}

    @classmethod
    def find(cls) -> list[Found]:
        """The Kinects that are plugged in; none are opened. DeviceError without libfreenect."""
        library = Freenect()
        try:
            return [
                Found(
                    cls.name,
                    serial or cls.name,
                    f"Kinect {serial}".strip(),
                    {"serial": serial} if serial else {},
                    30.0,
                )
                for serial in library.serials()
            ]
        finally:
            library.close()


def raw_to_mm(raw: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Disparities of 11 bits -> millimetres, 0 where there is no depth or none below 10 m."""
    return _MILLIMETRES[np.minimum(raw, _NO_RAW)]


def nominal_alignment(focal_px: float) -> Alignment:
    """The geometry that all Kinects have about: two parallel cameras without distortion."""

    def camera(focal: float) -> Camera:
        centre = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
        return Camera(WIDTH, HEIGHT, focal, focal, *centre, (0.0,) * 6, (0.0, 0.0), 2.0)

    return Alignment(
        camera(_DEPTH_FOCAL_PX), camera(focal_px), np.eye(3), np.array([_COLOR_AT_M, 0.0, 0.0])
    )


def _intrinsics(focal_px: float) -> Intrinsics:
    return Intrinsics(focal_px, focal_px, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)


def _table() -> NDArray[np.uint16]:
    """By the zero plane above, and a constant shift of 200 quarter pixels."""
    on_plane_mm = ((np.arange(_NO_RAW + 1) - 800) / 4 - 0.375) * 0.1042
    with np.errstate(divide="ignore"):
        z_mm = 10 * (on_plane_mm * 120 / (7.5 - on_plane_mm) + 120)
    z_mm[(z_mm <= 0) | (z_mm > 10_000) | ~np.isfinite(z_mm)] = 0
    z_mm[_NO_RAW] = 0
    return np.round(z_mm).astype(np.uint16)


_MILLIMETRES: Final = _table()
