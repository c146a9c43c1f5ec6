"""Recordings in the Kinects' own layouts, made for tests: Azure Kinect MKV and fakenect dumps."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Depth = NDArray[np.uint16]

# --- Azure Kinect: Matroska, as k4arecorder lays it out (RFC 9559 for the element numbers)


def element(number: int, content: bytes) -> bytes:
    """One EBML element, its size in eight bytes."""
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content


def _uint(number: int, value: int) -> bytes:
    return element(number, value.to_bytes(8, "big"))


def _text(number: int, value: str) -> bytes:
    return element(number, value.encode())


def _track(number: int, name: str, fourcc: bytes, width: int, height: int, fps: int) -> bytes:
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 16, fourcc, 0, 0, 0, 0, 0)
    video = _uint(0xB0, width) + _uint(0xBA, height)
    return element(
        0xAE,
        _uint(0xD7, number)
        + _uint(0x73C5, 1000 + number)
        + _uint(0x83, 1)
        + _uint(0x23E383, 1_000_000_000 // fps)
        + _text(0x536E, name)
        + _text(0x86, "V_MS/VFW/FOURCC")
        + element(0x63A2, bitmap)
        + element(0xE0, video),
    )


def _tag(target: bytes, **tags: str) -> bytes:
    return b"".join(
        element(
            0x7373,
            element(0x63C0, target) + element(0x67C8, _text(0x45A3, name) + _text(0x4487, value)),
        )
        for name, value in tags.items()
    )


def jpeg(image: RGB) -> bytes:
    """(H, W, 3) RGB as one JPEG, 4:2:2 as the camera makes it."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=30, options={"qmin": "2", "qmax": "3"})
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuvj422p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        for packet in [*stream.encode(frame), *stream.encode()]:
            out.mux(packet)
    return buffer.getvalue()


def write_azure(
    path: Path,
    calibration: bytes,
    pairs: Sequence[tuple[RGB | bytes | None, Depth | None]],
    *,
    fps: int = 30,
    color_mode: str = "MJPG_720P",
    depth_mode: str = "NFOV_UNBINNED",
    color_size: tuple[int, int] = (1280, 720),
    depth_size: tuple[int, int] = (640, 576),
    start_offset_ns: int = 0,
    tracks: Sequence[str] = ("COLOR", "DEPTH"),
) -> Path:
    """A recording of colour images (or finished JPEGs) and depth images in millimetres; None: that
    image was lost. The depth images are 125 us late, as the device's are."""
    head = element(0x1A45DFA3, _text(0x4282, "matroska") + _uint(0x4287, 4) + _uint(0x4285, 2))
    info = element(0x1549A966, _uint(0x2AD7B1, 1000) + _text(0x4D80, "test") + _text(0x5741, "t"))
    both = {
        "COLOR": _track(1, "COLOR", b"MJPG", *color_size, fps),
        "DEPTH": _track(2, "DEPTH", b"b16g", *depth_size, fps),
    }
    attached = b""
    if calibration:
        attached = element(
            0x1941A469,
            element(
                0x61A7,
                _text(0x466E, "calibration.json")
                + _text(0x4660, "application/octet-stream")
                + element(0x465C, calibration)
                + _uint(0x46AE, 77),
            ),
        )
    tags = element(
        0x1254C367,
        _tag(
            b"",
            K4A_DEPTH_DELAY_NS="0",
            K4A_START_OFFSET_NS=str(start_offset_ns),
            K4A_DEVICE_SERIAL_NUMBER="000123",
        )
        + _tag(_uint(0x63C5, 1001), K4A_COLOR_TRACK="1001", K4A_COLOR_MODE=color_mode)
        + _tag(_uint(0x63C5, 1002), K4A_DEPTH_TRACK="1002", K4A_DEPTH_MODE=depth_mode)
        + _tag(_uint(0x63C6, 77), K4A_CALIBRATION_FILE="calibration.json"),
    )
    clusters = b""
    for i, (color, depth) in enumerate(pairs):
        time_us = round(i * 1e6 / fps)
        blocks = b""
        if color is not None and "COLOR" in tracks:
            data = color if isinstance(color, bytes) else jpeg(color)
            blocks += element(0xA3, b"\x81" + struct.pack(">hB", 0, 0x80) + data)
        if depth is not None and "DEPTH" in tracks:
            data = depth.astype(">u2").tobytes()
            blocks += element(0xA3, b"\x82" + struct.pack(">hB", 125, 0x80) + data)
        clusters += element(0x1F43B675, _uint(0xE7, time_us) + blocks)
    segment = (
        info + element(0x1654AE6B, b"".join(both[t] for t in tracks)) + attached + tags + clusters
    )
    path.write_bytes(head + element(0x18538067, segment))
    return path


# --- the first Kinect: what fakenect plays back (libfreenect's fakenect/README)


def write_fakenect(folder: Path, pairs: Sequence[tuple[RGB, Depth]], *, fps: int = 30) -> Path:
    """A dump of (480, 640, 3) RGB and (480, 640) raw 11-bit disparities. The device's clock wraps
    in the middle of it."""
    folder.mkdir(exist_ok=True)
    names = []
    began_ticks = (1 << 32) - round(len(pairs) / 2 * 60e6 / fps)
    for i, (rgb, raw) in enumerate(pairs):
        for kind, ending, late_s, head, data in (
            ("d", "pgm", 0.0, b"P5 640 480 65535\n", raw.astype("<u2").tobytes()),
            ("r", "ppm", 0.004, b"P6 640 480 255\n", rgb.tobytes()),
        ):
            time_s = i / fps + late_s
            ticks = (began_ticks + round(time_s * 60e6)) % (1 << 32)
            name = f"{kind}-{100 + time_s:.6f}-{ticks}.{ending}"
            (folder / name).write_bytes(head + data)
            names.append(name)
    (folder / "INDEX.txt").write_text("\n".join(names) + "\n")
    return folder


def keypoints(annotations: Path) -> dict[str, NDArray[np.float64]]:
    """File name -> the truth of its one hand: (21, 3) of x, y, seen; in OpenPose's order."""
    data = json.loads(annotations.read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    return {
        names[a["image_id"]]: np.array(a["keypoints"], dtype=np.float64).reshape(21, 3)
        for a in data["annotations"]
    }


def photo(path: Path) -> RGB:
    """An image file as (H, W, 3) RGB."""
    import av

    with av.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")
