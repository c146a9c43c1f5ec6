"""Which format a file has, by its first bytes."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Final, Literal

from .base import DatasetError
from .own_arrays import KNOWN_JOINTS
from .tables import split_line

Format = Literal[
    "alphapose",
    "arrays",
    "azure",
    "bvh",
    "leapjs",
    "mediapipe",
    "openpose",
    "openxr",
    "shrec17",
    "shrec21",
    "shrec22",
    "video",
    "mcap",
]

_HEAD_BYTES: Final = 1 << 16
#: SHREC'21's sequences in one file; any other archive is somebody's own.
SHREC21_ARCHIVE: Final = "positions.npz"
VIDEO_ENDINGS: Final = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
_COLUMNS: Final[dict[int, Format]] = {66: "shrec17", 140: "shrec21", 80: "shrec22"}
#: Words of JSON formats, the first that fits; a JSON file with none of them is taken for LeapJS.
_JSON: Final[tuple[tuple[Format, re.Pattern[bytes]], ...]] = (
    ("openpose", re.compile(rb'"(pose|hand_left|hand_right)_keypoints_[23]d"|"people"\s*:')),
    ("alphapose", re.compile(rb'"(image_id|keypoint_scores|instance_info|instances)"\s*:')),
    ("leapjs", re.compile(rb'"(pointables|palmPosition|currentFrameRate|formatVersion)"')),
    (
        "mediapipe",
        re.compile(rb'"(multi_?)?hand_?(world_?)?landmarks"|"(world_?)?landmarks"', re.IGNORECASE),
    ),
    ("openxr", re.compile(rb'"joints"\s*:')),
)


def guess_file(path: Path) -> Format | None:
    """The format of a file; None if it is of none. Raises DatasetError if it cannot be read."""
    if path.suffix in {".npy", ".npz"}:
        return "shrec21" if path.name == SHREC21_ARCHIVE else "arrays"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    if path.suffix == ".mcap" or head.startswith(b"\x89MCAP"):
        return "mcap"
    if head.startswith(b"\x1aE\xdf\xa3") and b"K4A_" in head:  # Matroska with the SDK's tags
        return "azure"
    if path.suffix.lower() in VIDEO_ENDINGS:
        return "video"
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        except zlib.error:
            return None
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] in {b"{", b"["}:
        return next((name for name, words in _JSON if words.search(head)), "leapjs")
    if head.startswith(b"HIERARCHY"):
        return "bvh"
    lines = head.decode("utf-8", "replace").split("\n")
    if path.suffix == ".csv" and any(map(_is_hand, lines[:2])):  # the first may be of names
        return "arrays"
    return _guess_table(lines[0].strip())


def _is_hand(line: str) -> bool:
    """Whether a line holds the numbers of a hand's joints, after a row's number or not."""
    try:
        columns = len([float(cell) for cell in split_line(line)[0]])
    except ValueError:
        return False
    return any(columns - numbered in {3 * n for n in KNOWN_JOINTS} for numbered in (0, 1))


def _guess_table(line: str) -> Format | None:
    columns = len(line.rstrip("; \t").split(";")) if ";" in line else len(line.split())
    if columns in _COLUMNS:
        return _COLUMNS[columns]
    if re.search(r"\bwrist[_. ]", line, re.IGNORECASE):
        return "openxr"
    return None
