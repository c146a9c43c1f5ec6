"""Azure Kinect recordings (``k4arecorder``'s Matroska files), read without the vendor's SDK.

What such a file holds, as the Sensor SDK's ``docs/`` and ``src/record`` have it: video tracks named
COLOR (MJPEG, NV12 or YUY2) and DEPTH (16 bits a pixel, big-endian, millimetres), an attachment
with the device's calibration (named by its tag ``K4A_CALIBRATION_FILE``), and tags: the modes
(``K4A_COLOR_MODE`` "MJPG_720P", ``K4A_DEPTH_MODE`` "NFOV_UNBINNED"), ``K4A_DEPTH_DELAY_NS``
(depth after colour), ``K4A_START_OFFSET_NS`` (the device's clock at the file's time 0).

Matroska itself is PyAV's affair; the calibration's JSON is parsed in ``azure_calibration``.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .azure_calibration import (
    COLOR_MODES,
    DEPTH_MODES,
    MAX_CALIBRATION_BYTES,
    Calibration,
    Camera,
    parse_calibration,
)
from .base import DatasetError

#: Images that wait for their partner: the tracks are interleaved, so few do.
MAX_WAITING: Final = 16
#: A device's clock starts at its plugging in; years of it are a damaged tag.
_MAX_OFFSET_NS: Final = 10**18
#: A wider colour image is scaled to this: hands are found as well in it, and sooner.
WORKING_WIDTH: Final = 1280


@dataclass(slots=True)
class RgbdFrame:
    """A colour image and the depth image taken with it.

    time_ns: the device's clock at the colour image. color: (H, W, 3) uint8, RGB, at most
    ``WORKING_WIDTH`` wide. depth_mm: (h, w) uint16 as the depth camera saw it, 0 where nothing.
    """

    time_ns: int
    index: int
    color: NDArray[np.uint8]
    depth_mm: NDArray[np.uint16]


class AzureRecording:
    """One recording; a context manager. Raises DatasetError when it is not one, or lacks colour,
    depth or calibration. A damaged end costs what it holds; ``notes`` tells of it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self.unpaired = 0  #: images whose partner is missing
        self._av = _av()
        self._container = self._open()
        try:
            streams = self._container.streams.video
            self._color = self._track(streams, "COLOR", "K4A_COLOR_TRACK")
            self._depth = self._track(streams, "DEPTH", "K4A_DEPTH_TRACK")
            self.color_mode = self._color.metadata.get("K4A_COLOR_MODE", "").rpartition("_")[2]
            self.depth_mode = self._depth.metadata.get("K4A_DEPTH_MODE", "")
            self._check_size(self._color, COLOR_MODES, self.color_mode)
            self._check_size(self._depth, DEPTH_MODES, self.depth_mode)
            self.calibration = self._calibration()
            self.depth_camera: Camera = self.calibration.depth_camera(self.depth_mode)
            color = self.calibration.color_camera(self.color_mode)
            #: Of the images that ``frames`` gives.
            self.color_camera: Camera = color.scaled(min(color.width, WORKING_WIDTH))
            tags = self._container.metadata
            self.serial = tags.get("K4A_DEVICE_SERIAL_NUMBER", "")
            self.start_offset_ns = self._number("K4A_START_OFFSET_NS")
            self._delay_ns = self._number("K4A_DEPTH_DELAY_NS")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AzureRecording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def frames(self) -> Iterator[RgbdFrame]:
        """The pairs of images in the order of their time, from where the reading stands."""
        period_ns = self._period_ns()
        colors: deque[tuple[int, Any]] = deque()
        depths: deque[tuple[int, Any]] = deque()
        index = 0
        for stream, time_ns, image in self._images():
            (colors if stream is self._color else depths).append((time_ns, image))
            while colors and depths:
                apart_ns = depths[0][0] - self._delay_ns - colors[0][0]
                if abs(apart_ns) * 2 > period_ns:
                    (colors if apart_ns > 0 else depths).popleft()
                    self.unpaired += 1
                    continue
                color_ns, color = colors.popleft()
                pixels = self._pixels(color, depths.popleft()[1])
                if pixels is not None:
                    yield RgbdFrame(self.start_offset_ns + color_ns, index, *pixels)
                    index += 1
            for waiting in (colors, depths):
                if len(waiting) > MAX_WAITING:
                    waiting.popleft()
                    self.unpaired += 1
        self.unpaired += len(colors) + len(depths)
        if self.unpaired:
            self.notes.append(f"{self.unpaired} images without their partner")

    # --- the file

    def _open(self) -> Any:
        try:
            # Only this format: a name must not make the library open something else.
            return self._av.open(str(self.path), format="matroska", metadata_errors="replace")
        except OSError as error:
            raise DatasetError(f"{self.path}: {error.strerror or error}") from None
        except self._av.error.FFmpegError as error:
            raise DatasetError(f"{self.path}: no Matroska file ({error.strerror})") from None

    def _track(self, streams: Any, title: str, tag: str) -> Any:
        found = [s for s in streams if tag in s.metadata] or [
            s for s in streams if s.metadata.get("title") == title
        ]
        if not found:
            raise DatasetError(
                f"{self.path}: no {title} track, so no Azure Kinect recording with depth and colour"
            )
        if found[0].codec_context is None:
            raise DatasetError(f"{self.path}: the {title} track's coding is not known")
        return found[0]

    def _check_size(self, stream: Any, modes: dict[str, Any], name: str) -> None:
        mode = modes.get(name)
        if mode is None:
            raise DatasetError(
                f"{self.path}: track {stream.metadata.get('title', stream.index)} of mode "
                f"{name[:60]!r}; known: {', '.join(modes)}"
            )
        if (stream.width, stream.height) != mode.size:
            raise DatasetError(
                f"{self.path}: {stream.width}x{stream.height} images, but mode {name} has "
                f"{mode.size[0]}x{mode.size[1]}"
            )

    def _calibration(self) -> Calibration:
        for stream in self._container.streams.attachments:
            if (
                "K4A_CALIBRATION_FILE" in stream.metadata
                or stream.metadata.get("filename") == "calibration.json"
            ):
                try:
                    # One byte more than is allowed, so that it is refused there by its size.
                    return parse_calibration(bytes(stream.data[: MAX_CALIBRATION_BYTES + 1]))
                except DatasetError as error:
                    raise DatasetError(f"{self.path}: {error}") from None
        raise DatasetError(f"{self.path}: holds no calibration; record it again with k4arecorder")

    def _number(self, tag: str) -> int:
        text = self._container.metadata.get(tag, "0")
        with contextlib.suppress(ValueError):
            if len(text) < 25 and abs(value := int(text)) < _MAX_OFFSET_NS:
                return value
        self.notes.append(f"tag {tag} is {text[:40]!r}, taken as 0")
        return 0

    def _period_ns(self) -> int:
        rate = self._color.average_rate
        return int(1e9 / rate) if rate and 1 <= rate <= 120 else 1_000_000_000 // 30

    def _images(self) -> Iterator[tuple[Any, int, Any]]:
        """(stream, time_ns, image) as they lie in the file; a fault of one costs that one."""
        errors = 0
        packets = self._container.demux(self._color, self._depth)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (self._av.error.FFmpegError, OSError) as error:
                self.notes.append(f"the file breaks off: {error.strerror}")
                break
            try:
                for image in packet.decode():
                    if image.pts is None or image.time_base is None:
                        errors += 1
                        continue
                    time_ns = int(image.pts * image.time_base * 1_000_000_000)
                    yield packet.stream, time_ns, image
            except (self._av.error.FFmpegError, OSError):
                errors += 1
        if errors:
            self.notes.append(f"{errors} images that cannot be decoded")

    def _pixels(
        self, color: Any, depth: Any
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint16]] | None:
        expected = COLOR_MODES[self.color_mode].size + DEPTH_MODES[self.depth_mode].size
        if (color.width, color.height, depth.width, depth.height) != expected:
            self.unpaired += 2  # a damaged image can change its size on the way
            return None
        millimetres = depth.to_ndarray()
        if millimetres.dtype != np.uint16:
            raise DatasetError(f"{self.path}: depth as {depth.format.name}, not 16 bits a pixel")
        size = self.color_camera.width, self.color_camera.height
        return color.reformat(*size, format="rgb24").to_ndarray(), millimetres


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise DatasetError(
            'video files need the package av: pip install "hgr-stream[camera]"'
        ) from None
    return av
