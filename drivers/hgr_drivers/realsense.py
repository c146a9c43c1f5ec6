"""Intel RealSense D400 and SR300 cameras, through librealsense's own Python package.

They give a colour and a depth image, no hands: MediaPipe finds the hands in the colour image
(``vision.landmarks``), and six depths of each put it into metres (``vision.lifter``). The colour
image is not aligned to the depth as a whole (1.5 ms): librealsense finds the depth pixels of those
six points (0.03 ms).

* One context is kept for as long as the process lives: it is what notices plugging and unplugging.
  A pipeline asked for a camera that is not there waits for it for 15 s, so we look first.
* The newest frameset is processed, never one older than two periods; what was passed over is
  counted, by the camera's frame numbers (``skipped``).
* Time stamps are the camera's own, in the domain that it reports: "global_time" is its clock
  mapped to the host's by librealsense, "hardware_clock" is not, and "system_time" is that of
  arrival, on a kernel without metadata.
* Files (.db3, or .bag of librealsense before 2.58) are played through the same library.

The wheel needs the system's libusb; where there is none, the package libusb-package brings it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta

from hgr_stream.config import path_of
from hgr_stream.skeleton import Float32
from hgr_stream.stream.clock import monotonic_ns

from . import librealsense
from .base import DeviceError, Driver, EndOfStream, Found, HandSample, Options, Sample
from .librealsense import PLUG, REPLUG, RULES_CURE, DepthAtPixels, checks
from .vision.landmarks import DetectedHand, HandLandmarker
from .vision.lifter import ANCHORS, Lifted, Lifter

__all__ = ["Freshness", "RealSenseDriver", "RealSenseOptions", "checks"]

#: Open, and no frame for so long: frozen. A camera's first may take a second.
SILENT_S: Final = 3.0
#: Silent for so long: is it still there?
LOOK_S: Final = 0.5
#: A frame may be this many periods old.
MOST_PERIODS: Final = 2.0
#: How long a file that has ended is asked for its last frames, which are on their way through the
#: library for a while yet on a busy machine.
LAST_MS: Final = 500


class RealSenseOptions(Options):
    """Keys of a device's table in the config."""

    serial: str = ""  #: which camera, as ``hgr devices`` lists them; empty: the first
    file: str = ""  #: play this recording (.db3, .bag) instead
    realtime: bool = True  #: of a file: False plays every frame, as fast as they are processed
    width: Annotated[int, Meta(ge=160, le=4096)] = 640  #: of the colour image
    height: Annotated[int, Meta(ge=120, le=4096)] = 480
    fps: Annotated[int, Meta(ge=5, le=300)] = 30
    depth_width: Annotated[int, Meta(ge=0, le=4096)] = 0  #: 0: as the colour image
    depth_height: Annotated[int, Meta(ge=0, le=4096)] = 0
    max_hands: Annotated[int, Meta(ge=1, le=8)] = 2
    complexity: Literal[0, 1] = 0  #: of MediaPipe's model: fast, or exact
    min_confidence: Annotated[float, Meta(ge=0, le=1)] = 0.5
    facing: Literal["user", "away"] = "user"  #: "away": it looks where the user looks


def _play_unpaced(config: Any, pipeline: Any) -> None:
    """Have a file's frames wait to be read. Told before it plays: what it plays until then is lost.
    So is what it plays before the pipeline takes frames: it is paused, and resumed when that runs.
    No reference to its device may be left when the pipeline starts, or librealsense frees it twice.
    """
    playback = config.resolve(pipeline).get_device().as_playback()
    playback.set_real_time(False)
    playback.pause()


class RealSenseDriver(Driver[RealSenseOptions]):
    """Hands before one camera, or in one recording of one."""

    name: ClassVar[str] = "realsense"
    about: ClassVar[str] = "Intel RealSense D400 and SR300 cameras"
    packages: ClassVar[tuple[str, ...]] = ("pyrealsense2", "mediapipe")
    extra: ClassVar[str] = "realsense"
    Options: ClassVar[type[Options]] = RealSenseOptions
    #: The watch is kept here: a recording may pause, and a frozen camera wants to be reset.
    silence_s: ClassVar[float] = float("inf")

    def __init__(self, options: RealSenseOptions) -> None:
        super().__init__(options)
        if options.file and not options.realtime:
            self.lossless = True  # a file waits, then
        self.camera = ""  #: the open one, in words
        self._landmarker: HandLandmarker | None = None
        self._pipeline: Any = None
        self._playback: Any = None
        self._depths: DepthAtPixels | None = None
        self._lifter: Lifter | None = None
        self._fresh = Freshness(1.0)
        self._last: int | None = None  # the colour image's number
        self._heard_s = self._look_s = 0.0
        self._frozen = ""  # serial of a camera that is to be reset
        self._counts: Counter[str] = Counter()

    def check(self) -> None:
        """DeviceError for a file that is not there, or a library that cannot be loaded."""
        super().check()
        librealsense.library()

    def open(self) -> None:
        self.close()
        options = self.options
        rs = librealsense.library()
        config = rs.config()
        if options.file:
            path = path_of(options.file)
            if not path.is_file():
                raise DeviceError(f"there is no file {path}", "set file", fatal=True)
            self.camera = str(path)
            config.enable_device_from_file(str(path), False)
        else:
            serial = self._choose()
            self._unfreeze(serial)
            config.enable_device(serial)
            config.enable_stream(
                rs.stream.color, options.width, options.height, rs.format.rgb8, options.fps
            )
            config.enable_stream(
                rs.stream.depth,
                options.depth_width or options.width,
                options.depth_height or options.height,
                rs.format.z16,
                options.fps,
            )
        if self._landmarker is None:  # before the camera, whose frames would wait for it
            self._landmarker = HandLandmarker(
                options.max_hands, options.complexity, options.min_confidence
            )
        pipeline = rs.pipeline(librealsense.context())
        try:
            if self.lossless:
                _play_unpaced(config, pipeline)
            profile = pipeline.start(config)
            self._pipeline = pipeline
            self._set_up(profile)
            if self.lossless and self._playback is not None:
                self._playback.resume()
        except RuntimeError as error:
            self.close()
            raise self._explained(error) from None
        except DeviceError:
            self.close()
            raise
        self._heard_s = time.monotonic()
        self.say("open", f"{self.camera} is open")

    def read(self, timeout_s: float) -> Sample | None:
        if self._pipeline is None:
            raise DeviceError("the RealSense driver is not open")
        try:
            frames = self._newest(timeout_s)
        except RuntimeError as error:
            raise self._explained(error) from None
        if frames is None:
            self._check_alive()
            return None
        self._heard_s = time.monotonic()
        return self._sample(frames)

    def close(self) -> None:
        pipeline, self._pipeline, self._playback = self._pipeline, None, None
        self._depths = self._lifter = None
        self._last = None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # it may be gone, which is what we want
                pipeline.stop()

    def counts(self) -> dict[str, int]:
        """Frames ``skipped`` (by the camera, or for a newer one), ``stale`` (too old on arrival),
        ``repeated``, ``incomplete`` (without an image of one kind); hands ``without_depth``."""
        return dict(self._counts)

    @classmethod
    def find(cls) -> list[Found]:
        """Raises DeviceError when the library is missing, or a camera there may not be opened."""
        cameras = librealsense.cameras()
        if not cameras and librealsense.on_usb():
            raise DeviceError("a RealSense camera is plugged in, but may not be opened", RULES_CURE)
        return [Found(cls.name, one.serial, one.text, {"serial": one.serial}) for one in cameras]

    # --- the camera

    def _choose(self) -> str:
        """The serial of the wanted camera; DeviceError when it is not there."""
        cameras = {one.serial: one for one in librealsense.cameras()}
        wanted = self.options.serial
        if wanted in cameras and not cameras[wanted].has_color:
            raise DeviceError(f"RealSense {wanted} has no colour camera", "use one that has")
        usable = [one.serial for one in cameras.values() if one.has_color]
        if wanted in usable or (not wanted and usable):
            if not wanted and len(usable) > 1:
                told = f"several RealSense cameras: set serial to one of {', '.join(usable)}"
                self.say("several", told, logging.WARNING)
            serial = wanted or usable[0]
            self.camera = f"RealSense {serial}"
            self.say("camera", f"{self.camera}: {cameras[serial].text}")
            return serial
        if cameras:
            which = f"has the serial {wanted!r}" if wanted else "has a colour camera"
            raise DeviceError(
                f"no RealSense {which}; there are {', '.join(cameras)}",
                "set serial to one of these, or leave it out" if wanted else "use one that has",
            )
        called = f"RealSense {wanted}" if wanted else "a RealSense camera"
        if librealsense.on_usb():
            raise DeviceError(f"{called} is plugged in, but may not be opened", RULES_CURE)
        raise DeviceError(f"{called} is not connected", PLUG)

    def _unfreeze(self, serial: str) -> None:
        """Reset a camera that was silent; it comes back as if plugged in again."""
        if self._frozen != serial:
            return
        self._frozen = ""
        self._counts["resets"] += 1
        if librealsense.reset(serial):
            raise DeviceError(f"{self.camera} was silent and is being reset", "wait")

    def _set_up(self, profile: Any) -> None:
        rs = librealsense.library()
        device = profile.get_device()
        if self.options.file:
            self._playback = device.as_playback()
        try:
            color = profile.get_stream(rs.stream.color).as_video_stream_profile()
            depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
        except RuntimeError:
            raise DeviceError(
                f"{self.camera} has no colour and depth streams",
                "record both" if self.options.file else "use a camera with both",
                fatal=bool(self.options.file),
            ) from None
        self._depths = DepthAtPixels(color, depth, device.first_depth_sensor().get_depth_scale())
        self._lifter = Lifter(librealsense.intrinsics(color.intrinsics))
        self._fresh = Freshness(MOST_PERIODS / color.fps())
        if not self.options.file:
            with contextlib.suppress(RuntimeError):  # a longer exposure halves the rate in the dark
                device.first_color_sensor().set_option(rs.option.auto_exposure_priority, 0)

    def _newest(self, timeout_s: float) -> Any:
        """The newest frameset; None if none came. Raises EndOfStream after a file's last."""
        pipeline, playback = self._pipeline, self._playback
        came, frames = pipeline.try_wait_for_frames(max(int(timeout_s * 1000), 1))
        if not came and playback is not None:
            rs = librealsense.library()
            if playback.current_status() == rs.playback_status.stopped:
                # Between the two questions its last may have come, on a busy machine.
                came, frames = pipeline.try_wait_for_frames(LAST_MS)
                if not came:
                    raise EndOfStream
        if not came:
            return None
        # The pipeline itself keeps one only, the newest; more can come while we ask.
        while not self.lossless and (newer := pipeline.poll_for_frames()).size():
            frames = newer
        return frames

    def _check_alive(self) -> None:
        silent_s = time.monotonic() - self._heard_s
        if self._playback is not None or silent_s < LOOK_S:
            return
        serial = self.camera.removeprefix("RealSense ")
        if time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + LOOK_S
            if all(seen.serial != serial for seen in librealsense.cameras()):
                raise DeviceError(f"{self.camera} is unplugged", PLUG)
        if silent_s > SILENT_S:
            self._frozen = serial
            raise DeviceError(f"{self.camera} is open, but sends no frames", REPLUG)

    def _explained(self, error: RuntimeError) -> DeviceError:
        options = self.options
        wanted = f"{options.width} x {options.height} colour with depth at {options.fps} Hz"
        return librealsense.explained(error, self.camera, wanted, is_file=bool(options.file))

    # --- its frames

    def _sample(self, frames: Any) -> Sample | None:
        color, depth = frames.get_color_frame(), frames.get_depth_frame()
        if not color:
            self._counts["incomplete"] += 1
            return None
        number = int(color.get_frame_number())
        device_ns = round(color.get_timestamp() * 1e6)
        if number == self._last:  # paired anew with another depth image
            self._counts["repeated"] += 1
            return None
        if self._last is not None and self._last < number:
            self._counts["skipped"] += number - self._last - 1
        self._last = number
        # A recording is as fresh as its player makes it; its stamps may be of any clock.
        fresh = self._playback is not None or self._fresh.push(device_ns, monotonic_ns())
        if not fresh:
            self._counts["stale"] += 1
            return None
        if not depth:
            self._counts["incomplete"] += 1
        assert self._landmarker is not None
        hands = self._landmarker.process(librealsense.rgb(color, self.camera), device_ns)
        return Sample(device_ns, [self._lift(hand, depth) for hand in hands], number)

    def _lift(self, hand: DetectedHand, depth: Any) -> HandSample:
        assert self._lifter is not None
        assert self._depths is not None
        anchors = self._depths.of(depth, hand.image_points[list(ANCHORS)]) if depth else None
        lifted = self._lifter.lift_anchored(hand, anchors)
        if not lifted.anchors:
            self._counts["without_depth"] += 1
        return HandSample(
            id=hand.id,
            side=hand.side,
            joints=self._faced(lifted),
            confidence=lifted.confidence,
            lacks=lifted.lacks,
        )

    def _faced(self, lifted: Lifted) -> Float32:
        if self.options.facing == "user":
            return lifted.joints
        return lifted.joints * np.array([-1, 1, -1], dtype=np.float32)  # half a turn about y


class Freshness:
    """Which frames are too old, when the camera's clock is not the host's. Pure.

    The least that a frame ever took from its stamp to here is taken as the way of a fresh one. It
    is forgotten after some seconds, as clocks drift, and at once when the camera's clock jumps."""

    MEMORY_NS: Final = 10_000_000_000
    #: All too old for so long: not the frames, the clock has changed.
    JUMP_NS: Final = 1_000_000_000

    def __init__(self, most_s: float) -> None:
        self.most_ns = round(most_s * 1e9)
        self._ways: list[tuple[int, int]] = []  # (when, way), ways rising
        self._good_ns: int | None = None

    def push(self, device_ns: int, now_ns: int) -> bool:
        """Whether a frame of that stamp, here now, is fresh."""
        way = now_ns - device_ns
        while self._ways and self._ways[-1][1] >= way:
            self._ways.pop()
        self._ways.append((now_ns, way))
        while now_ns - self._ways[0][0] > self.MEMORY_NS:
            self._ways.pop(0)
        if way - self._ways[0][1] <= self.most_ns:
            self._good_ns = now_ns
            return True
        if self._good_ns is not None and now_ns - self._good_ns < self.JUMP_NS:
            return False
        self._ways = [(now_ns, way)]
        self._good_ns = now_ns
        return True
