"""Pictures of a camera or a video file, through FFmpeg's libraries (PyAV).

PyAV and not OpenCV's capture, because it tells why a camera cannot be had, gives the kernel's time
stamps and a file's true ones, and reads every container; its wheels bring FFmpeg along.
"""

from __future__ import annotations

import errno
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hgr_stream.config import path_of

from ..base import DeviceError

CURE: Final = 'pip install "hgr-stream[camera]"'
#: FFmpeg's name of the system's cameras.
INPUT_FORMATS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
#: No picture in the first seconds: the camera is there, but asleep or broken.
OPEN_TIMEOUT_S: Final = 10.0
#: A camera that has no picture yet is asked again after so long.
_POLL_S: Final = 0.002
#: So many pictures that cannot be decoded, one after the other, are no accident.
_MAX_BAD: Final = 100
_SYSFS: Final = Path("/sys/class/video4linux")


@dataclass(slots=True)
class Picture:
    """``time_ns``: the source's own clock, None if it has none."""

    time_ns: int | None
    index: int
    frame: Any  #: av.VideoFrame

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB, upright as the file says it was taken."""
        image: NDArray[np.uint8] = self.frame.to_ndarray(format="rgb24")
        turns = round(getattr(self.frame, "rotation", 0) / 90) % 4
        return np.rot90(image, turns) if turns else image


class Pictures:
    """An open camera or file. ``next`` gives pictures in order; bad ones are counted in ``bad``."""

    def __init__(self, container: Any, name: str, *, live: bool) -> None:
        self._av = import_av()
        self._container = container
        self._name, self._live = name, live
        self.bad = 0
        if not container.streams.video:
            container.close()
            raise DeviceError(f"{name} holds no video", fatal=not live)
        self._stream = container.streams.video[0]
        if self._stream.codec_context is None:
            container.close()
            raise DeviceError(f"{name} holds video of an unknown kind", fatal=not live)
        if live:
            # A decoder with several threads keeps as many pictures back.
            self._stream.thread_type = "SLICE"
        self._packets = container.demux(self._stream)
        self._ready: list[Any] = []
        self._index = 0

    @property
    def period_ns(self) -> int:
        """From picture to picture, as the source says."""
        rate = self._stream.average_rate
        return int(1e9 / rate) if rate and 1 <= rate <= 1000 else 1_000_000_000 // 30

    def next(self) -> Picture | None:
        """The next one; None at a file's end, or when a camera has none yet. DeviceError when the
        camera is gone."""
        bad = 0
        while not self._ready:
            try:
                packet = next(self._packets)
                self._ready = packet.decode()
            except (StopIteration, self._av.error.EOFError):
                if not self._live:
                    return None
                raise DeviceError(f"{self._name}: its stream ended", "plug it in again") from None
            except (BlockingIOError, TimeoutError, self._av.error.ExitError):
                time.sleep(_POLL_S)
                self._packets = self._container.demux(self._stream)
                return None
            except self._av.error.InvalidDataError as error:
                self.bad += 1
                bad += 1
                if bad > _MAX_BAD:
                    raise DeviceError(
                        f"{self._name}: pictures cannot be decoded ({error.strerror})",
                        "set another codec or size",
                    ) from None
                self._packets = self._container.demux(self._stream)
            except (self._av.error.FFmpegError, OSError) as error:
                fault = error.strerror or error
                if self._live:
                    raise DeviceError(f"lost {self._name} ({fault})", "plug it in") from None
                raise DeviceError(f"{self._name}: {fault}", fatal=True) from None
        frame = self._ready.pop(0)
        time_ns = None
        if frame.pts is not None and frame.time_base is not None:
            time_ns = int(frame.pts * frame.time_base * 1_000_000_000)
        self._index += 1
        return Picture(time_ns, self._index - 1, frame)

    def close(self) -> None:
        self._ready = []
        self._container.close()


def open_file(path: str) -> Pictures:
    """Raises DeviceError, which is final."""
    av = import_av()
    file = path_of(path)
    if not file.is_file():
        raise DeviceError(f"{file}: no such file", "set file to a video", fatal=True)
    try:
        # The protocol is named so that the name of a file cannot mean anything else.
        return Pictures(av.open(f"file:{file}", metadata_errors="replace"), str(file), live=False)
    except (av.error.FFmpegError, OSError) as error:
        raise DeviceError(
            f"{file}: no video that can be read ({error.strerror})", fatal=True
        ) from None


def open_camera(
    device: int | str, input_format: str, width: int, height: int, fps: float, codec: str
) -> Pictures:
    """``device``: a number, a path or name, or what ``input_format`` (FFmpeg's) calls an address.
    Raises DeviceError with its cure."""
    av = import_av()
    format = input_format or INPUT_FORMATS.get(sys.platform, "v4l2")
    address = camera_address(device, format)
    options: dict[str, str] = {}
    if format in INPUT_FORMATS.values():
        options |= {"video_size": f"{width}x{height}", "framerate": f"{fps:g}"}
        if codec:
            options["input_format" if format == "v4l2" else "vcodec"] = codec
    try:
        container = av.open(
            address,
            format=None if format == "url" else format,
            options=options,
            timeout=(OPEN_TIMEOUT_S, 1.0),
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise camera_error(error, address, f"{width}x{height} at {fps:g}") from None
    return Pictures(container, f"camera {address}", live=True)


def camera_address(device: int | str, format: str) -> str:
    """What FFmpeg calls a camera that a person numbers or names."""
    text = str(device).strip()
    if format == "v4l2":
        return f"/dev/video{text}" if text.isdigit() else text
    if format == "avfoundation":
        return f"{text}:none"
    if format == "dshow":
        if text.isdigit():
            names = [found.name for found in _enumerated("dshow")]
            if int(text) >= len(names):
                raise DeviceError(
                    f"no camera {text}; there are {len(names)}",
                    "plug it in; hgr devices lists them",
                )
            text = names[int(text)]
        return f"video={text}"
    return text


def camera_error(error: Exception, address: str, wanted: str) -> DeviceError:
    """What went wrong at opening a camera, and what helps."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return DeviceError(
            f"no camera at {address}",
            "plug it in; hgr devices lists those that are there; a container needs --device",
        )
    if code in (errno.EACCES, errno.EPERM):
        cure = "sudo usermod -aG video $USER, then log in again"
        if sys.platform != "linux":
            cure = "allow the terminal to use the camera (Settings, Privacy, Camera)"
        return DeviceError(f"no permission to use the camera {address}", cure)
    if code == errno.EBUSY:
        return DeviceError(
            f"the camera {address} is used by another program",
            f"close it (fuser -v {address} tells which)",
        )
    if code == errno.ENOTTY:
        return DeviceError(
            f"{address} is no camera", "hgr devices lists them; some have a second, useless number"
        )
    if code == errno.EINVAL:
        return DeviceError(
            f"the camera {address} cannot do {wanted} frames/s",
            "set width, height and fps to what it can (v4l2-ctl --list-formats-ext)",
        )
    if code in (errno.ETIMEDOUT, errno.EAGAIN) or type(error).__name__ == "ExitError":
        return DeviceError(
            f"the camera {address} sends no picture", "unplug it and plug it in again"
        )
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    cure = "is it a camera, and plugged in? hgr devices lists them"
    if sys.platform == "darwin":
        cure += "; and allow the terminal to use it (Settings, Privacy, Camera)"
    return DeviceError(f"the camera {address} cannot be opened: {reason}", cure)


@dataclass(frozen=True)
class FoundCamera:
    device: str  #: for the config
    name: str


def cameras(sysfs: Path = _SYSFS) -> list[FoundCamera]:
    """The system's cameras, none of them opened."""
    format = INPUT_FORMATS.get(sys.platform, "")
    if format != "v4l2":
        numbered = enumerate(_enumerated(format)) if format else ()
        return [FoundCamera(str(i), found.description or found.name) for i, found in numbered]
    found = []
    for node in sysfs.glob("video*"):
        try:
            name = (node / "name").read_text(errors="replace").strip()
            # Since Linux 4.16 a camera has further nodes, which give no pictures.
            index = (node / "index").read_text().strip()
        except OSError:
            continue
        number = node.name.removeprefix("video")
        if index == "0" and number.isdigit():
            found.append((int(number), name))
    return [FoundCamera(f"/dev/video{number}", name) for number, name in sorted(found)]


def _enumerated(format: str) -> list[Any]:
    try:
        av = import_av()
        return [
            found
            for found in av.device.enumerate_input_devices(format)
            if "video" in (getattr(found, "media_types", None) or ["video"])
        ]
    except (DeviceError, ImportError, OSError, ValueError):
        return []


def focal_px(width: int, height: int, fov_deg: float) -> float:
    """The focal length of a camera that sees ``fov_deg`` across its longer side."""
    return max(width, height) / 2 / math.tan(math.radians(fov_deg) / 2)


def import_av() -> Any:
    """PyAV; raises DeviceError when it is missing."""
    try:
        import av
        import av.device
        import av.error
    except ImportError:
        raise DeviceError("pictures need the package av", CURE, fatal=True) from None
    return av
