"""A RealSense camera without hardware: librealsense's own software device, given its images.

``SoftwareCamera`` can be plugged into a context and pulled out again; ``record`` writes what one
has been given into a .db3 file, through the library's recorder.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hgr_drivers.librealsense import context, library
from hgr_drivers.vision.lifter import Intrinsics
from numpy.typing import NDArray

Images = tuple[NDArray[np.uint8], NDArray[np.uint16]]  # colour (H, W, 3), depth (H, W) in mm

CAMERA = Intrinsics(615.0, 612.0, 321.5, 238.25, 640, 480)
UNIT_M = 0.001
BASELINE_M = 0.015


class SoftwareCamera:
    """A D400 as far as the library can tell: depth and colour of 640 x 480.

    Its depth camera sits ``baseline_m`` to the left of its colour camera, with the same lens.
    """

    def __init__(
        self,
        serial: str = "0123456789",
        fps: int = 30,
        baseline_m: float = BASELINE_M,
        color: bool = True,
    ) -> None:
        rs = library()
        self.serial = serial
        self.fps = fps
        self.number = 0
        self.device = rs.software_device()
        for key, value in (
            (rs.camera_info.name, "Software RealSense"),
            (rs.camera_info.serial_number, serial),
            (rs.camera_info.usb_type_descriptor, "3.2"),
            (rs.camera_info.firmware_version, "5.16.0.1"),
        ):
            self.device.register_info(key, value)
        self._sensors, self._profiles = [], []
        for name, kind, form, bytes_a_pixel in (
            ("Stereo Module", rs.stream.depth, rs.format.z16, 2),
            ("RGB Camera", rs.stream.color, rs.format.rgb8, 3),
        )[: 2 if color else 1]:
            sensor = self.device.add_sensor(name)
            stream = rs.video_stream()
            stream.type, stream.fmt, stream.bpp = kind, form, bytes_a_pixel
            stream.index, stream.uid, stream.fps = 0, len(self._sensors), fps
            stream.width, stream.height = CAMERA.width, CAMERA.height
            stream.intrinsics = _intrinsics()
            self._profiles.append(sensor.add_video_stream(stream))
            self._sensors.append(sensor)
        self._sensors[0].add_read_only_option(rs.option.depth_units, UNIT_M)
        if not color:
            return
        beside = rs.extrinsics()
        beside.rotation, beside.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [-baseline_m, 0, 0]
        self._profiles[0].register_extrinsics_to(self._profiles[1], beside)
        self.device.create_matcher(rs.matchers.default)

    def show(self, images: Images, time_ms: float | None = None) -> None:
        """Give the camera its next pair of images, stamped with its own clock."""
        rs = library()
        self.number += 1
        time_ms = 5000 + 1000 * self.number / self.fps if time_ms is None else time_ms
        color, depth = images
        for sensor, profile, image, size in (
            (self._sensors[0], self._profiles[0], depth, 2),
            (self._sensors[1], self._profiles[1], color, 3),
        ):
            # Without it the library pairs images of different instants.
            sensor.set_metadata(rs.frame_metadata_value.actual_fps, 1000 * self.fps)
            frame = rs.software_video_frame()
            frame.stride, frame.bpp, frame.pixels = CAMERA.width * size, size, image
            frame.timestamp, frame.domain = time_ms, rs.timestamp_domain.hardware_clock
            frame.frame_number, frame.profile = self.number, profile.as_video_stream_profile()
            sensor.on_video_frame(frame)

    def skip(self, count: int) -> None:
        """Let time pass without images."""
        self.number += count


class Port:
    """A place to plug software cameras in, in the process's own context."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._new: list[Any] = []
        context().set_devices_changed_callback(self._changed)

    def _changed(self, info: Any) -> None:
        # The context holds software devices weakly: this list is what keeps one plugged in.
        self._new.append(info.get_new_devices())

    def plug(self, camera: SoftwareCamera) -> None:
        before = len(self._new)
        camera.device.add_to(context())
        _until(lambda: len(self._new) > before)
        self._held[camera.serial] = self._new.pop()

    def pull(self, camera: SoftwareCamera) -> None:
        """Gone for good, once nobody streams from it any more: a new one must be plugged in."""
        del self._held[camera.serial]
        camera.device = None
        camera._sensors, camera._profiles = [], []
        gc.collect()

    def close(self) -> None:
        self._held.clear()
        self._new.clear()
        gc.collect()


@contextmanager
def filming(camera: SoftwareCamera, images: Images, pace_s: float = 0.0) -> Iterator[None]:
    """Show the camera the same images over and over, from another thread, until the end."""
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(pace_s or 1 / camera.fps):
            camera.show(images)

    thread = threading.Thread(target=film)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def record(
    path: Path,
    pairs: Iterable[Images],
    fps: int = 30,
    pace_s: float = 0.0,
    baseline_m: float = BASELINE_M,
) -> None:
    """Write pairs of images as a recording; at ``pace_s`` each if it is to be played live."""
    rs = library()
    camera = SoftwareCamera(fps=fps, baseline_m=baseline_m)
    recorder = rs.recorder(str(path), camera.device, False)
    sensors = recorder.query_sensors()
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(lambda frame: None)
    for pair in pairs:
        camera.show(pair)
        time.sleep(pace_s)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    # The file's index is written when the last reference to its recorder goes.
    del sensor, sensors, recorder, camera
    gc.collect()


def _intrinsics() -> Any:
    rs = library()
    out = rs.intrinsics()
    out.width, out.height, out.model, out.coeffs = (
        CAMERA.width,
        CAMERA.height,
        rs.distortion.inverse_brown_conrady,
        [0.0] * 5,
    )
    out.fx, out.fy, out.ppx, out.ppy = CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy
    return out


def _until(condition: Any, most_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + most_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the library does not tell of the new camera")
        time.sleep(0.005)
