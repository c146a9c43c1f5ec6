"""The Azure Kinect: live, where the vendor's SDK is, or a recording, which needs none.

Both give the same: a colour image, the depth image taken with it, and the device's calibration.
The hands are looked for in the colour image as the lens gives it; depth is aligned to it only
where there are hands.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from hgr_stream.config import path_of
from hgr_stream.datasets.azure_calibration import Calibration, Camera
from hgr_stream.datasets.azure_mkv import WORKING_WIDTH, AzureRecording, RgbdFrame
from hgr_stream.datasets.base import DatasetError, HandFrames
from hgr_stream.stream.clock import monotonic_ns

from ..base import DeviceError, Driver, Found, HandSample, Options, Sample
from ..vision.newest import Newest
from ..vision.recorded import Played, hand_frames
from ..vision.rgbd import HandFinder, HandOptions
from . import k4a
from .alignment import Alignment, intrinsics

log = logging.getLogger(__name__)

_CAPTURE_S = 0.1


class AzureOptions(HandOptions):
    """Keys of an Azure Kinect's config table."""

    file: str = ""  #: a recording (.mkv) instead of a device
    loop: bool = False  #: begin the recording again at its end, its time running on
    serial: str = ""  #: which of several; "": the first
    color: Literal["720P", "1080P", "1440P", "1536P", "2160P", "3072P"] = "720P"
    depth: Literal["NFOV_2X2BINNED", "NFOV_UNBINNED", "WFOV_2X2BINNED", "WFOV_UNBINNED"] = (
        "NFOV_UNBINNED"
    )
    fps: Literal[5, 15, 30] = 30  #: WFOV_UNBINNED and 3072P: 15 at most
    library: str = ""  #: path of libk4a; "": the system's


class AzureHands:
    """Pairs of images of one device -> hands."""

    def __init__(
        self, options: HandOptions, calibration: Calibration, depth: Camera, color: Camera
    ) -> None:
        self._alignment = Alignment(depth, color, calibration.rotation, calibration.translation)
        self._finder = HandFinder(options, intrinsics(color))
        self._width = color.width

    def find(self, frame: RgbdFrame, time_ns: int) -> list[HandSample]:
        rgb: Any = frame.color
        if rgb.shape[1] != self._width:
            import cv2  # comes with mediapipe

            size = self._width, round(rgb.shape[0] * self._width / rgb.shape[1])
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        return self._finder.find(
            rgb, time_ns, lambda boxes: self._alignment.depth(frame.depth_mm, boxes)
        )

    def close(self) -> None:
        self._finder.close()


class AzureDriver(Driver[AzureOptions]):
    """Hands of one Azure Kinect, or of a recording at its own pace."""

    name: ClassVar[str] = "azure"
    about: ClassVar[str] = "Azure Kinect, and its recordings"
    packages: ClassVar[tuple[str, ...]] = ("av", "mediapipe")
    extra: ClassVar[str] = "camera"
    Options: ClassVar[type[Options]] = AzureOptions
    silence_s: ClassVar[float] = 3.0
    silence_cure: ClassVar[str] = k4a.START

    def __init__(self, options: AzureOptions) -> None:
        super().__init__(options)
        self._device: k4a.K4a | None = None
        self._newest: Newest[RgbdFrame] | None = None
        self._played: Played[RgbdFrame] | None = None
        self._hands: AzureHands | None = None
        self._counts: Counter[str] = Counter()

    def check(self) -> None:
        """DeviceError for a file that is not there, or, for a device, without its SDK."""
        super().check()
        if not self.options.file:
            k4a.load(self.options.library)

    def open(self) -> None:
        self.close()
        options = self.options
        try:
            if options.file:
                self._open_file(path_of(options.file))
            else:
                self._open_device()
        except DatasetError as error:
            self.close()
            raise DeviceError(str(error), fatal=True) from None
        except DeviceError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Sample | None:
        if self._hands is None:
            raise DeviceError("the Azure Kinect driver is not open")
        if self._newest is not None:
            frame = self._newest.get(timeout_s)
            if frame is None:
                return None
            time_ns = frame.time_ns
        else:
            assert self._played is not None
            try:
                played = self._played.next(timeout_s)
            except DatasetError as error:
                raise DeviceError(str(error), fatal=True) from None
            if played is None:
                return None
            time_ns, frame = played
        return Sample(time_ns, self._hands.find(frame, monotonic_ns()), frame.index)

    def close(self) -> None:
        self._counts = Counter(self.counts())
        newest, self._newest = self._newest, None
        device, self._device = self._device, None
        played, self._played = self._played, None
        if newest is not None and not newest.close():
            log.warning("the SDK does not come back; unplug the Azure Kinect and plug it in again")
            device = None  # its thread is still in there
        if device is not None:
            device.close()
        if played is not None:
            played.close()
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    def counts(self) -> dict[str, int]:
        """``pictures_skipped``: newer ones had come, or it was too late for them;
        ``pictures_incomplete``: colour without depth, or depth without colour."""
        counts = Counter(self._counts)
        for source in (self._newest, self._played):
            counts["pictures_skipped"] += source.skipped if source is not None else 0
        if self._device is not None:
            counts["pictures_incomplete"] += self._device.incomplete
        return {name: n for name, n in counts.items() if n}

    @classmethod
    def find(cls) -> list[Found]:
        """Devices that the SDK sees: not opened, so without a serial. DeviceError without it."""
        return [Found(cls.name, f"azure-{i}", "Azure Kinect") for i in range(k4a.installed())]

    def _open_device(self) -> None:
        options = self.options
        device = self._device = k4a.K4a(
            options.library, options.serial, options.depth, options.color, options.fps
        )
        self.say("camera", f"Azure Kinect {device.serial}")
        color = device.calibration.color_camera(options.color)
        self._hands = AzureHands(
            options,
            device.calibration,
            device.calibration.depth_camera(options.depth),
            color.scaled(min(color.width, WORKING_WIDTH)),
        )
        self._newest = Newest(lambda: device.capture(_CAPTURE_S), "azure")

    def _open_file(self, path: Path) -> None:
        with AzureRecording(path) as source:
            self._hands = _hands_of(source, self.options)
        self._played = Played(lambda: self._of_file(path), loop=self.options.loop, name=str(path))

    def _of_file(self, path: Path) -> Generator[tuple[int | None, RgbdFrame]]:
        with AzureRecording(path) as source:
            try:
                for frame in source.frames():
                    yield frame.time_ns, frame
            finally:
                self._counts["pictures_incomplete"] += source.unpaired
            for note in source.notes:
                log.warning("%s: %s", path, note)


def load_azure(path: Path, options: HandOptions | None = None) -> list[HandFrames]:
    """A recording's hands, for ``hgr import``: every pair of images, at any speed.

    Raises DatasetError."""
    asked = options or AzureOptions()
    return hand_frames(path, lambda notes: _samples(path, asked, notes))


def _samples(path: Path, options: HandOptions, notes: list[str]) -> Iterator[Sample]:
    with AzureRecording(path) as source, contextlib.closing(_hands_of(source, options)) as hands:
        for frame in source.frames():
            yield Sample(frame.time_ns, hands.find(frame, frame.time_ns), frame.index)
        notes += source.notes


def _hands_of(source: AzureRecording, options: HandOptions) -> AzureHands:
    return AzureHands(options, source.calibration, source.depth_camera, source.color_camera)
