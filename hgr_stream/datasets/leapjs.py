"""Leap Motion recordings as JSON: LeapJS playback files and plain lists of frames.

Three forms, all also gzipped: ``{"metadata", "frames": [frame, ...]}`` (LeapJS playback 0.1),
the same with ``formatVersion`` 2 (frames packed into arrays behind their structure), and a bare
list of frames (SDK 1, ``leap_play``). What a frame holds is ``leap_json``'s affair.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from . import leap_json
from .base import DatasetError
from .files import bound_items, cut_note, item_texts, read_bytes, whole_items
from .leap_json import LeapFrame, LeapJsonError

__all__ = ["LeapFrame", "LeapRecording", "frame_texts", "load_leapjs"]


@dataclass
class LeapRecording:
    """A recording, in file order. A frame without a readable hand is there with ``hands=[]``.

    notes: faults found, one line each. refused: hands that could not be read, by reason.
    """

    name: str
    frames: list[LeapFrame]
    notes: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)


class _Playback(msgspec.Struct):
    frames: msgspec.Raw
    metadata: dict[str, Any] = {}


def load_leapjs(path: Path) -> LeapRecording:
    """Read a recording (see the module's docstring). Raises DatasetError naming file and fault."""
    path = Path(path)
    frames: list[LeapFrame] = []
    bad: list[str] = []
    notes: list[str] = []
    texts = frame_texts(path, notes)
    for number, text in enumerate(texts):
        try:
            frame = leap_json.decode_message(text)
            if not isinstance(frame, LeapFrame):
                raise LeapJsonError("not a frame but another message")
            frames.append(frame)
        except LeapJsonError as error:
            bad.append(f"frame {number}: {error}")
    if not frames:
        raise DatasetError(
            f"{path}: " + (f"no frame is readable; {bad[0]}" if bad else "no frames")
        )

    refused = Counter(reason for frame in frames for reason in frame.refused)
    read = sum(len(frame.hands) for frame in frames)
    total = read + refused.total()
    notes += [
        f"{count} of {total} hands refused: {leap_json.REASONS[reason]}"
        for reason, count in refused.most_common()
    ]
    if bad:
        notes.append(f"{len(bad)} of {len(texts)} frames unreadable; first: {bad[0]}")
    if estimated := sum(frame.estimated_wrists for frame in frames):
        notes.append(f"{estimated} of {read} hands came without a wrist (SDK 2 beta): estimated")
    if still := sum(after.device_ns <= before.device_ns for before, after in pairwise(frames)):
        notes.append(f"{still} frames whose time does not advance")
    return LeapRecording(_stem(path), frames, notes, dict(refused))


def frame_texts(path: Path, notes: list[str] | None = None) -> list[bytes]:
    """The frames of a recording as JSON texts, each as the file has it (packed ones unpacked).

    Of a file that is cut, the frames that are whole, with a line in ``notes``. Raises DatasetError
    naming file and fault."""
    notes = [] if notes is None else notes
    if path.suffix == ".lz":
        raise DatasetError(f"{path}: LZ-string compressed; export it from LeapJS as .json instead")
    texts = _texts(path, read_bytes(path, notes), notes)
    if not texts:
        raise DatasetError(f"{path}: no frames")
    return texts


def _texts(path: Path, data: bytes, notes: list[str]) -> list[bytes]:
    try:
        if data.lstrip()[:1] == b"[":
            return item_texts(path, data)
        playback = msgspec.json.decode(data, type=_Playback)
        texts = item_texts(path, bytes(playback.frames))
        if playback.metadata.get("formatVersion") != 2:
            return texts
        rows = [msgspec.json.decode(text) for text in texts]
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return _python_texts(path, data, str(error), notes)
    return _unpacked(path, rows)


def _python_texts(path: Path, data: bytes, fault: str, notes: list[str]) -> list[bytes]:
    """The slow way, for files that only Python's reader takes (NaN and Infinity as numbers), and
    for those that are cut."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return _whole_texts(path, data, fault, notes)
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise DatasetError(f"{path}: not a Leap recording: no list of frames")
    bound_items(path, len(frames), data)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if isinstance(metadata, dict) and metadata.get("formatVersion") == 2:
        return _unpacked(path, frames)
    return [json.dumps(frame).encode() for frame in frames]


def _whole_texts(path: Path, data: bytes, fault: str, notes: list[str]) -> list[bytes]:
    items, _ = whole_items(data, "frames")
    if not items:
        raise DatasetError("; ".join([f"{path}: not readable as JSON: {fault}", *notes])) from None
    packed = items[0][:1] == b"["
    notes.append(cut_note(path, len(items) - packed))
    if not packed:
        return items
    try:
        return _unpacked(path, [msgspec.json.decode(item) for item in items])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable as JSON: {error}") from None


def _unpacked(path: Path, rows: list[Any]) -> list[bytes]:
    try:
        return [json.dumps(leap_json.unpack(rows[0], row)).encode() for row in rows[1:]]
    except LeapJsonError as error:
        raise DatasetError(f"{path}: {error}") from None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")
