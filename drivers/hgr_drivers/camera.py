"""A webcam, or a video file played as if it were one: hands from plain pictures.

MediaPipe gives each hand's shape in metres, for a hand of average size, and where its points lie in
the picture. How large the hand looks tells how far it is, if the camera's field of view is known:
``fov_deg``, across the longer side of the picture. So distances are estimates: 10 % too wide a
field puts a hand about 10 % too near, and so does a hand 10 % larger than the average. Hands are
marked as lacking "distance".

A camera's pictures are taken newest first: those that come while hands are looked for are skipped,
and counted. A file is played at its own pace with its own time stamps; what cannot be done in
time is skipped in the same way. ``load_video`` gives every picture of a file, at any speed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from hgr_stream.datasets.base import HandFrames
from hgr_stream.stream.clock import monotonic_ns

from .base import DeviceError, Driver, Found, Options, Sample
from .vision.intrinsics import Intrinsics
from .vision.newest import Newest
from .vision.recorded import Played, hand_frames
from .vision.rgbd import HandFinder, HandOptions
from .vision.video import Picture, Pictures, cameras, focal_px, open_camera, open_file

log = logging.getLogger(__name__)

FovDeg = Annotated[float, Meta(ge=10, le=150)]


class CameraOptions(HandOptions):
    """Keys of a camera's config table."""

    complexity: Annotated[int, Meta(ge=0, le=1)] = 1  #: without depth the shape has to be exact
    device: int | str = 0  #: the camera's number, or its path or name
    file: str = ""  #: a video file instead of a camera
    loop: bool = False  #: begin the file again at its end, its time running on
    width: Annotated[int, Meta(ge=64, le=7680)] = 640  #: asked of a camera; a file has its own
    height: Annotated[int, Meta(ge=64, le=4320)] = 480
    fps: Annotated[float, Meta(ge=1, le=240)] = 30.0
    codec: str = ""  #: "mjpeg": many cameras can do large pictures fast only so
    fov_deg: FovDeg = 65.0  #: the camera's field of view, across the picture's longer side
    mirrored: bool = False  #: the pictures are mirrored (some cameras' software does)
    input_format: str = ""  #: FFmpeg's name of the input; "": the system's cameras; "url": a stream


class CameraDriver(Driver[CameraOptions]):
    """Hands of one camera or file."""

    name: ClassVar[str] = "camera"
    about: ClassVar[str] = "webcams and video files; distances are estimated"
    packages: ClassVar[tuple[str, ...]] = ("av", "mediapipe")
    extra: ClassVar[str] = "camera"
    Options: ClassVar[type[Options]] = CameraOptions
    silence_s: ClassVar[float] = 5.0
    silence_cure: ClassVar[str] = "unplug the camera and plug it in again"

    def __init__(self, options: CameraOptions) -> None:
        super().__init__(options)
        self._pictures: Pictures | None = None
        self._newest: Newest[Picture] | None = None
        self._played: Played[Picture] | None = None
        self._finder: HandFinder | None = None
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        self.close()
        options = self.options
        if options.file:
            self._played = Played(self._of_file, loop=options.loop, name=options.file)
            # Before the first picture is due: the models take a second to load.
            self._finder = self._new_finder(self._played.first)
            return
        self._pictures = open_camera(
            options.device,
            options.input_format,
            options.width,
            options.height,
            options.fps,
            options.codec,
        )
        self._newest = Newest(self._pictures.next)

    def read(self, timeout_s: float) -> Sample | None:
        if self._newest is not None:
            picture = self._newest.get(timeout_s)
            if picture is None:
                return None
            time_ns = picture.time_ns
        elif self._played is not None:
            played = self._played.next(timeout_s)
            if played is None:
                return None
            time_ns, picture = played
        else:
            raise DeviceError("the camera driver is not open")
        # Only now: an absent camera must not cost the models' loading. And a stream may change its
        # size as it runs.
        if self._finder is None or self._finder.camera != _intrinsics(
            picture, self.options.fov_deg
        ):
            if self._finder is not None:
                self._finder.close()
            self._finder = self._new_finder(picture)
        # Hands are followed on a clock that never runs back, as a camera's may.
        hands = self._finder.find(picture.rgb(), monotonic_ns())
        return Sample(time_ns, hands, picture.index)

    def close(self) -> None:
        self._counts = Counter(self.counts())
        newest, self._newest = self._newest, None
        pictures, self._pictures = self._pictures, None
        played, self._played = self._played, None
        if newest is not None and not newest.close():
            log.warning("the camera does not let go; unplug it and plug it in again")
            pictures = None  # its thread still reads from it
        if pictures is not None:
            pictures.close()
        if played is not None:
            played.close()
        if self._finder is not None:
            self._finder.close()
            self._finder = None

    def counts(self) -> dict[str, int]:
        """``pictures_skipped``: newer ones had come, or it was too late for them;
        ``pictures_bad``: not to be decoded."""
        counts = Counter(self._counts)
        for source in (self._newest, self._played):
            counts["pictures_skipped"] += source.skipped if source is not None else 0
        if self._pictures is not None:
            counts["pictures_bad"] += self._pictures.bad
        return {name: n for name, n in counts.items() if n}

    @classmethod
    def find(cls) -> list[Found]:
        """The cameras that the system names. Nothing is opened: a light would go on."""
        return [Found(cls.name, c.device, c.name, {"device": c.device}) for c in cameras()]

    def _new_finder(self, picture: Picture) -> HandFinder:
        camera = _intrinsics(picture, self.options.fov_deg)
        return HandFinder(self.options, camera, mirrored=self.options.mirrored)

    def _of_file(self) -> Generator[tuple[int | None, Picture]]:
        pictures = open_file(self.options.file)
        try:
            while (picture := pictures.next()) is not None:
                yield picture.time_ns, picture
        finally:
            self._counts["pictures_bad"] += pictures.bad
            pictures.close()


def _intrinsics(picture: Picture, fov_deg: float) -> Intrinsics:
    turned = round(getattr(picture.frame, "rotation", 0) / 90) % 2
    width, height = picture.frame.width, picture.frame.height
    if turned:
        width, height = height, width
    focal = focal_px(width, height, fov_deg)
    return Intrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)


# --- files, for the importer


def load_video(path: Path, options: CameraOptions | None = None) -> list[HandFrames]:
    """A video file's hands, for ``hgr import``: every picture, at any speed.

    Raises DatasetError."""
    asked = options or CameraOptions()
    return hand_frames(path, lambda notes: _samples(path, asked, notes))


def _samples(path: Path, options: CameraOptions, notes: list[str]) -> Iterator[Sample]:
    pictures = open_file(str(path))
    finder: HandFinder | None = None
    last_ns = -1
    try:
        while (picture := pictures.next()) is not None:
            if finder is None:
                camera = _intrinsics(picture, options.fov_deg)
                finder = HandFinder(options, camera, mirrored=options.mirrored)
            time_ns = picture.time_ns
            if time_ns is None or time_ns <= last_ns:
                time_ns = last_ns + pictures.period_ns
            last_ns = time_ns
            yield Sample(time_ns, finder.find(picture.rgb(), time_ns), picture.index)
    finally:
        if pictures.bad:
            notes.append(f"{pictures.bad} pictures that cannot be decoded")
        if finder is not None:
            finder.close()
        pictures.close()
