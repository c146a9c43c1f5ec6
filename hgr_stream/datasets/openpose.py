"""OpenPose's ``--write_json``: a folder with one small file a frame, for a video or a live camera.

``NAME_000000000012_keypoints.json`` holds ``{"version", "people": [{"person_id", ...}]}``, where
each list of key points is flat: a hand is 63 numbers (21 x x, y, confidence), in three dimensions
84. ``people`` is empty when nobody is in sight, a hand's list is when OpenPose ran without
``--hand``, and those of three dimensions nearly always are. ``person_id`` is ``[-1]``, ``[n]`` or
``n``. The number in the name is the frame's; there is no time and no frame rate. Left and right
are the person's own.

Three-dimensional hands come in the axes of the first camera (x right, y down, z away) and in the
unit of its calibration; they are scaled as the flat ones are. What is missing, who is who, scale
and place: see ``people``.

Source: OpenPose, ``doc/02_output.md``.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ..skeleton import Side
from .base import DatasetError, HandFrames
from .files import DEFAULT_FPS, MAX_FRAME, Faults, decode_item, read_bytes, without_nan
from .people import MALFORMED, Person, Picture, PointHand, Points, read_hand, recording

#: A frame of a crowd is 200 KB.
MAX_FRAME_BYTES: Final = 1 << 24
MAX_FRAMES: Final = 1 << 22
_NAME: Final = re.compile(r"(?P<video>.*?)_?(?P<number>[0-9]{1,15})(?:_keypoints)?\.json")
_SIDES: Final[tuple[Side, ...]] = ("left", "right")
NO_HANDS: Final = "people without hands (OpenPose needs --hand)"


class _Person(msgspec.Struct):
    person_id: list[int] | int = -1
    pose_keypoints_2d: list[float] = []
    hand_left_keypoints_2d: list[float] = []
    hand_right_keypoints_2d: list[float] = []
    hand_left_keypoints_3d: list[float] = []
    hand_right_keypoints_3d: list[float] = []


class _File(msgspec.Struct):
    people: list[msgspec.Raw]


def read_people(data: bytes, faults: Faults) -> list[Person]:
    """One file's text -> its people; raises DatasetError (the fault alone) if it is none.

    What is wrong with one person or one hand is counted in ``faults`` and costs only them.
    """
    people = []
    for text in decode_item(without_nan(data), _File).people:
        try:
            people.append(_person(decode_item(text, _Person), faults))
        except DatasetError:
            faults.add("people refused: not as OpenPose writes them")
    return people


def _person(raw: _Person, faults: Faults) -> Person:
    ids = raw.person_id if isinstance(raw.person_id, list) else [raw.person_id]
    hands: list[PointHand] = []
    seen: list[Points] = [_body(raw.pose_keypoints_2d)]
    told = False
    for side in _SIDES:
        flat: list[float] = getattr(raw, f"hand_{side}_keypoints_2d")
        deep: list[float] = getattr(raw, f"hand_{side}_keypoints_3d")
        told = told or bool(flat or deep)
        for values, width in ((deep, 4), (flat, 3)):
            if not values:
                continue
            if len(values) != 21 * width:
                faults.add(MALFORMED)
                continue
            hand = read_hand(np.array(values, dtype=np.float64).reshape(21, width), side, faults)
            if hand is not None:
                hands.append(hand)
                seen.append(hand.points[:, :2])
                break
    if not told:
        faults.add(NO_HANDS)
    number = ids[0] if ids and 0 <= ids[0] < 2**53 else None
    return Person(number, np.concatenate(seen), hands)


def _body(flat: list[float]) -> Points:
    """The seen points of a body of any model, (n, 2)."""
    points = np.array(flat[: len(flat) // 3 * 3], dtype=np.float64).reshape(-1, 3)
    seen = (points[:, 2] > 0) & (np.abs(points[:, :2]) < 1e6).all(axis=1)
    out: Points = points[seen, :2]
    return out


def frame_number(name: str) -> int | None:
    """The frame that a file's name tells: 12 for ``video_000000000012_keypoints.json``."""
    match = _NAME.fullmatch(name)
    number = int(match["number"]) if match else MAX_FRAME + 1
    return number if number <= MAX_FRAME else None


def load_openpose(path: Path, fps: float | None = None) -> list[HandFrames]:
    """The recordings of a folder, one for each name before the frame numbers, or one single file.

    ``fps``: frames a second, as no file tells it [30]. Raises DatasetError naming file and fault;
    a file that cannot be read is left out and noted.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path}: no *_keypoints.json in this folder")
    if len(files) > MAX_FRAMES:
        raise DatasetError(f"{path}: more than {MAX_FRAMES} files in one folder")
    named = [(_video(file), frame_number(file.name), file) for file in files]
    if any(number is None for _, number, _ in named):
        # Names without numbers are of one recording, in their own order.
        named = [(path.name or "openpose", i, file) for i, (_, _, file) in enumerate(named)]
    named.sort(key=lambda item: (item[0], item[1] or 0))
    return [
        _load(name or path.name or "openpose", [(n or 0, file) for _, n, file in group], fps)
        for name, group in groupby(named, key=lambda item: item[0])
    ]


def _video(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    return match["video"] if match else file.stem


def _load(name: str, files: list[tuple[int, Path]], fps: float | None) -> HandFrames:
    faults = Faults()
    pictures: list[Picture] = []
    step_ns = 1e9 / (fps or DEFAULT_FPS)
    for number, file in files:
        try:
            people = read_people(read_bytes(file, [], MAX_FRAME_BYTES), faults)
        except DatasetError as error:
            text = str(error).removeprefix(f"{file}: ")
            if len(files) == 1:
                raise DatasetError(f"{file}: no OpenPose frame: {text}") from None
            faults.add(f"of {len(files)} files unreadable", f"{file.name}: {text}")
            continue
        if pictures and pictures[-1].index == number:
            faults.add("files with the number of another", file.name)
            continue
        pictures.append(Picture(round(number * step_ns), number, people))
    if not pictures:
        raise DatasetError(f"{files[0][1].parent}: {'; '.join(faults.notes()) or 'no frames'}")
    return recording(name, pictures, faults)
