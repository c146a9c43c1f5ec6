"""MediaPipe hand landmarks that a program has written as JSON.

MediaPipe itself writes no files, so every program has its own form; these are read. A file is a
list of frames, an object with such a list under ``frames`` or ``results``, or JSON lines, a frame
a line. A frame is the result as the API gives it, by the API's own names, or an object with it
under ``result``:

==================  ===================================  ======================================
API                 landmarks, world landmarks           handedness
==================  ===================================  ======================================
Tasks, Python       hand_landmarks, hand_world_          handedness: a list a hand of
                    landmarks                            {category_name, score}
Tasks, JavaScript   landmarks, worldLandmarks            handedness(es): a list a hand of
                                                         {categoryName, score}
legacy, Python      multi_hand_landmarks, multi_hand_    multi_handedness: {classification:
                    world_landmarks                      [{label, score}]} a hand
legacy, JavaScript  multiHandLandmarks, multiHandWorld-  multiHandedness: {label, score} a hand
                    Landmarks
==================  ===================================  ======================================

A hand is a list of 21 points, or ``{"landmark": [...]}``; a point ``{x, y, z}`` or ``[x, y, z]``.
Beside it a frame may tell ``timestamp_ms`` (or ``timestampMs``, ``timestamp``), ``timestamp_us`` or
``timestamp_s``, its number as ``frame``, ``frame_id`` or ``index``, and the picture's ``width`` and
``height`` (also once, beside ``frames``, with ``fps``).

World landmarks (metres) give the hand's shape; the image landmarks, scaled to them, its way across
the picture; its distance stays unknown, at z = 0. Without world landmarks the hand is flat and
lacks "depth"; it is scaled to a palm of 0.10 m.

**Left and right**: older versions named hands as a mirror shows them, newer ones as they are, so
the labels alone cannot be trusted. With world landmarks the hands' own chirality decides, once for
the whole file, whether the labels are swapped. Without them, legacy labels are swapped and those
of the Tasks API taken as they are. Pictures are taken to be not mirrored.

Source: MediaPipe, ``HandLandmarkerResult`` and the legacy hands solution.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from ..segmentation import PALM_RANGE_M
from ..skeleton import (
    MEDIAPIPE_21,
    Float32,
    HandSample,
    Lack,
    Side,
    camera_to_canonical,
    chirality,
    from_layout,
)
from .base import IDS, DatasetError, HandFrame, HandFrames
from .files import DEFAULT_FPS, MAX_FRAME, Faults, decode_item, json_items
from .people import Points, m_per_unit

MAX_HANDS: Final = 64
#: Of a picture whose size nobody tells.
_ASPECT: Final = 4 / 3
_MALFORMED: Final = "hands refused: not 21 finite points"

_IMAGE: Final = ("hand_landmarks", "landmarks", "multi_hand_landmarks", "multiHandLandmarks")
_WORLD: Final = (
    "hand_world_landmarks",
    "worldLandmarks",
    "multi_hand_world_landmarks",
    "multiHandWorldLandmarks",
)
_LABELS: Final = ("handedness", "handednesses", "multi_handedness", "multiHandedness")
#: Fields that give a frame's time, and their unit in ns.
_TIMES: Final = {
    "timestamp_ms": 1e6,
    "timestampMs": 1e6,
    "timestamp": 1e6,
    "timestamp_us": 1e3,
    "timestamp_s": 1e9,
}
_NUMBERS: Final = ("frame", "frame_id", "index")

_Fields = dict[str, msgspec.Raw]


class _Point(msgspec.Struct):
    x: float
    y: float
    z: float = 0.0


class _Hand(msgspec.Struct):
    landmark: list[msgspec.Raw]


class _Label(msgspec.Struct):
    label: str = ""
    category_name: str = ""
    categoryName: str = ""  # noqa: N815
    score: float = 1.0
    classification: list[_Label] = []


_RawList = list[msgspec.Raw] | None
_HandOrList = _Hand | list[msgspec.Raw]
_PointOrList = _Point | list[float]
_LabelOrList = _Label | list[_Label]


class _Size(msgspec.Struct):
    """What may stand once, beside the list of frames."""

    fps: float | None = None
    width: float | None = None
    height: float | None = None


@dataclass(slots=True)
class _Seen:
    """One hand as told."""

    label: Literal["left", "right", ""]
    legacy: bool
    score: float
    image: Points | None  # (21, 2), in units of the width, from the picture's centre
    world: Points | None  # (21, 3), metres, camera axes


@dataclass(slots=True)
class _Moment:
    time_ns: int
    index: int
    hands: list[_Seen] = field(default_factory=list)


def load_mediapipe(path: Path, fps: float | None = None) -> list[HandFrames]:
    """One file, as one recording. ``fps``: frames a second where no frame has a time [30].

    Raises DatasetError naming file and fault; lesser faults are counted in the notes.
    """
    path = Path(path)
    notes: list[str] = []
    found = json_items(path, notes, ("frames", "results"))
    faults = Faults()
    told = _told(found.head, notes)
    step_ns = 1e9 / (fps or told.fps or DEFAULT_FPS)
    moments: list[_Moment] = []
    for position, text in enumerate(found.items):
        try:
            moment = _moment(text, position, step_ns, told, faults)
        except DatasetError as error:
            faults.add(f"of {len(found.items)} frames unreadable", f"frame {position}: {error}")
            continue
        if moments and moment.time_ns <= moments[-1].time_ns:
            faults.add("frames whose time does not advance, left out", f"frame {position}")
            continue
        moments.append(moment)
    if not moments:
        raise DatasetError(f"{path}: " + ("; ".join(faults.notes()) or "holds no frames"))
    name = re.sub(r"(\.jsonl?|\.ndjson)?(\.gz)?$", "", path.name)
    frames = list(_frames(moments, notes))
    return [HandFrames(name, frames, notes + faults.notes())]


def _told(head: _Fields, notes: list[str]) -> _Size:
    try:
        told = decode_item(msgspec.json.encode(head), _Size)
    except DatasetError as error:
        notes.append(f"fps, width or height of the file: {error}; left out")
        return _Size()
    if told.fps is not None and not 1 <= told.fps <= 1000:
        notes.append(f"fps {told.fps:g} of the file cannot be; left out")
        told.fps = None
    return told


def _moment(text: bytes, position: int, step_ns: float, told: _Size, faults: Faults) -> _Moment:
    outer = decode_item(text, _Fields)
    inner = decode_item(outer["result"], _Fields) if "result" in outer else outer
    if not any(name in inner for name in (*_IMAGE, *_WORLD)):
        raise DatasetError("no hand landmarks by any name of MediaPipe's")
    number, time_ns = position, None
    for fields in (outer, inner):
        for name in _NUMBERS:
            if name in fields:
                number = decode_item(fields[name], int)
        for name, unit_ns in _TIMES.items():
            if name in fields:
                time_ns = decode_item(fields[name], float) * unit_ns
    time_ns = number * step_ns if time_ns is None else time_ns
    if not 0 <= number <= MAX_FRAME or not abs(time_ns) < 2.0**62:
        raise DatasetError(f"frame {number} at {time_ns / 1e9:g} s")
    size = decode_item(text, _Size)
    width, height = size.width or told.width, size.height or told.height
    aspect = _ASPECT
    if width and height and width > 0 and height > 0:
        aspect = width / height
    else:
        faults.add("frames without the picture's width and height, taken as 4:3")
    images, worlds = _hands(inner, _IMAGE), _hands(inner, _WORLD)
    labels = _labels(inner)
    moment = _Moment(round(time_ns), number)
    n = max(len(images), len(worlds))
    if n > MAX_HANDS:
        faults.add(f"hands refused: more than {MAX_HANDS} in one frame", n=n - MAX_HANDS)
    for i in range(min(n, MAX_HANDS)):
        image = _points(images[i]) if i < len(images) else None
        world = _points(worlds[i]) if i < len(worlds) else None
        if world is not None and not PALM_RANGE_M[0] < _palm(world) < PALM_RANGE_M[1]:
            world = None
        if image is None and world is None:
            faults.add(_MALFORMED)
            continue
        label, score = labels[i] if i < len(labels) else ("", 1.0)
        seen = _Seen(label, any(k.startswith("multi") for k in inner), score, None, world)
        if image is not None:
            seen.image = (image[:, :2] - 0.5) * (1.0, 1.0 / aspect)
            if _palm(seen.image) < 1e-6 and world is None:
                faults.add(_MALFORMED)
                continue
        moment.hands.append(seen)
    return moment


def _palm(points: Points) -> float:
    return float(np.linalg.norm(points[9] - points[0]))


def _hands(fields: _Fields, names: tuple[str, ...]) -> list[msgspec.Raw]:
    raw = next((fields[name] for name in names if name in fields), None)
    return (decode_item(raw, _RawList) or []) if raw is not None else []


def _points(raw: msgspec.Raw) -> Points | None:
    """(21, 3) points of one hand; None if it is malformed."""
    try:
        landmarks: _Hand | list[msgspec.Raw] = decode_item(raw, _HandOrList)
        texts = landmarks.landmark if isinstance(landmarks, _Hand) else landmarks
        points: list[_Point | list[float]] = [
            decode_item(text, _PointOrList) for text in texts[:22]
        ]
    except DatasetError:
        return None
    rows = [[p.x, p.y, p.z] if isinstance(p, _Point) else [*p, 0.0][:3] for p in points]
    if len(rows) != 21 or any(len(row) != 3 for row in rows):
        return None
    values = np.array(rows, dtype=np.float64)
    return values if np.all(np.abs(values) < 1e3) else None


def _labels(fields: _Fields) -> list[tuple[Literal["left", "right", ""], float]]:
    """Side and score of each hand, as labelled."""
    out: list[tuple[Literal["left", "right", ""], float]] = []
    for raw in _hands(fields, _LABELS):
        label: _Label | list[_Label]
        try:
            label = decode_item(raw, _LabelOrList)
        except DatasetError:
            label = _Label()
        if isinstance(label, _Label):
            label = label.classification or [label]
        best = label[0] if label else _Label()
        name = (best.label or best.category_name or best.categoryName).lower()
        side: Literal["left", "right", ""] = ""
        if name in {"left", "right"}:
            side = "left" if name == "left" else "right"
        out.append((side, min(max(best.score, 0.0), 1.0)))
    return out


def _frames(moments: list[_Moment], notes: list[str]) -> Iterator[HandFrame]:
    """Labels to sides, landmarks to joints."""
    shapes: dict[int, Float32] = {}
    metres: list[float] = []  # of a world landmark's hand, for one width of the picture
    palms: list[float] = []
    turned = 0.0  # how much the hands contradict their labels
    for seen in (hand for moment in moments for hand in moment.hands):
        if seen.world is None:
            if seen.image is not None:
                palms.append(_palm(seen.image))
            continue
        joints = from_layout(camera_to_canonical(seen.world), MEDIAPIPE_21)
        shapes[id(seen)] = joints
        if seen.label:
            turned += float(chirality(joints)) * (1 if seen.label == "left" else -1)
        if seen.image is not None and (spread := _spread(seen.image)) > 1e-6:
            metres.append(_spread(seen.world[:, :2]) / spread)
    m_per_width = float(np.median(metres)) if metres else 0.0
    flat_m_per_width = m_per_width or (m_per_unit(palms) if palms else 0.0)
    if turned > 0:
        notes.append("left and right of the labels swapped, as the hands' own chirality shows")
    for moment in moments:
        hands = []
        taken: set[int] = set()
        for seen in moment.hands:
            swapped = turned > 0 if shapes else seen.legacy
            side = _side(seen.label, swapped)
            if seen.world is not None:
                joints = shapes[id(seen)]
                if seen.image is not None:
                    joints = joints + _way(seen.image, seen.world, m_per_width)
            else:
                assert seen.image is not None
                flat = np.zeros((21, 3))
                flat[:, :2] = seen.image * flat_m_per_width
                joints = from_layout(camera_to_canonical(flat), MEDIAPIPE_21)
            number = next(n for n in range(IDS[side], 4 * MAX_HANDS, 4) if n not in taken)
            taken.add(number)
            lacks: tuple[Lack, ...] = () if seen.world is not None else ("depth",)
            hands.append(HandSample(number, side, joints, seen.score, lacks))
        yield HandFrame(moment.time_ns, moment.index, hands)


def _side(label: str, swapped: bool) -> Side:
    if not label:
        return "unknown"
    return "right" if (label == "right") != swapped else "left"


def _spread(points: Points) -> float:
    return float(np.linalg.norm(points - points.mean(axis=0)))


def _way(image: Points, world: Points, m_per_width: float) -> Float32:
    """From the world landmarks' own origin to the hand's place across the picture, (3,)."""
    x, y = image.mean(axis=0) * m_per_width - world[:, :2].mean(axis=0)
    return camera_to_canonical(np.array([x, y, 0.0]))
