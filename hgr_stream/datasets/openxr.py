"""OpenXR and WebXR hands, 26 or 25 joints, as CSV or JSON: headsets have no common file, so the
obvious ones are read.

**JSON** (a list of frames, an object with it under ``frames``, or JSON lines)::

    {"time": 0.02, "hands": [{"side": "right", "joints": ...}]}      # or one hand by itself:
    {"timestamp_ns": 20000000, "side": "left", "joints": ...}

``joints`` is a list of positions (26 in OpenXR's order, palm and wrist first, or 25 in WebXR's,
wrist first) or an object of them by name (``XR_HAND_JOINT_WRIST_EXT``, ``wrist``,
``index-finger-tip``, ``INDEX_TIP``); a position is ``[x, y, z]``, ``{x, y, z}``, or an object with
that under ``position`` or ``pose``. A joint that is null, or ``"valid": false``, makes the hand one
without it: it is refused and counted. ``side`` may be called ``hand`` or ``handedness``, a hand's
``id`` and ``confidence`` are kept.

**CSV** (``,``, ``;`` or tab), a hand a line, with a header: a time column, ``side``, and
``wrist_x, wrist_y, wrist_z, ...`` by the joints' names, or 78 columns after the others in OpenXR's
order. Rows of the same time are one frame.

**SHREC'22's text form** (``index;time;26 x xyz``, no header) goes to its own reader.

Times: ``time``, ``time_s``, ``timestamp_s`` (s), ``time_ms``, ``timestamp_ms``, ``timestamp_us``,
``time_ns``, ``timestamp_ns``; ``timestamp`` and ``t`` are s. Without any, ``--fps``.

Axes are OpenXR's, which are the canonical ones (x right, y up, z towards the user), metres. A file
whose hands have the chirality of the other side throughout was written in left-handed axes
(Unity's, z away): z is turned then, and a note says so.

Sources: OpenXR 1.1, ``XR_EXT_hand_tracking``; WebXR Hand Input.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ..skeleton import OPENXR_26, Float32, HandSample, Side, chirality, from_layout
from .base import IDS, DatasetError, HandFrame, HandFrames, HandSequence
from .files import DEFAULT_FPS, MAX_FRAME, Faults, decode_item, json_items
from .people import Points
from .shrec22 import load_shrec22
from .tables import UNITY_TO_CANONICAL, read_text

MAX_HANDS: Final = 64
_FINGERS: Final = ("index", "middle", "ring", "little")
NAMES: Final[tuple[str, ...]] = (
    "palm",
    "wrist",
    *(f"thumb_{part}" for part in ("metacarpal", "proximal", "distal", "tip")),
    *(
        f"{finger}_{part}"
        for finger in _FINGERS
        for part in ("metacarpal", "proximal", "intermediate", "distal", "tip")
    ),
)
_NEEDED: Final = sorted({i for i in OPENXR_26 if i >= 0})
_TIMES: Final = {
    "time": 1e9,
    "time_s": 1e9,
    "timestamp_s": 1e9,
    "timestamp": 1e9,
    "t": 1e9,
    "time_ms": 1e6,
    "timestamp_ms": 1e6,
    "timestamp_us": 1e3,
    "time_ns": 1.0,
    "timestamp_ns": 1.0,
}
_SIDES: Final = ("side", "hand", "handedness")
_NUMBERS: Final = ("frame", "frame_id", "index")
_NOISE: Final = re.compile(r"xr_hand_joint_|_ext$|finger|phalanx|hand|joint")
_COLUMN: Final = re.compile(r"(.+?)[_. ](?:pos(?:ition)?[_. ]?)?([xyz])")
_MALFORMED: Final = "hands refused: joints missing, not valid, or not finite"
_SHREC22_COLUMNS: Final = 80

_Fields = dict[str, msgspec.Raw]


def joint_index(name: str) -> int | None:
    """A joint's place among OpenXR's 26, by any of its usual names; None if it is none."""
    name = _NOISE.sub("", name.lower().replace("-", "_").replace(" ", "_"))
    name = re.sub("_+", "_", name).strip("_").replace("pinky", "little")
    return _BY_NAME.get(name)


_BY_NAME: Final = {name: i for i, name in enumerate(NAMES)}


@dataclass(slots=True)
class _Seen:
    time_ns: int
    index: int
    side: Side
    joints: Float32
    id: int
    confidence: float


def load_openxr(path: Path, fps: float | None = None) -> list[HandFrames] | list[HandSequence]:
    """One file, as one recording. ``fps``: frames a second where no frame tells its time [30].

    Raises DatasetError naming file and fault; hands and frames that cannot be read are left out
    and counted in the notes.
    """
    path = Path(path)
    step_ns = 1e9 / (fps or DEFAULT_FPS)
    notes: list[str] = []
    faults = Faults()
    seen: dict[int, tuple[int, list[_Seen]]] = {}
    if re.search(r"\.(jsonl?|ndjson)(\.gz)?$", path.name):
        moments = _from_json(path, step_ns, notes, faults)
    else:
        text = read_text(path)
        if _columns(text) == _SHREC22_COLUMNS and joint_index(text.split(";")[2]) is None:
            return load_shrec22(path)
        moments = _from_csv(path, text, step_ns, faults)
    for time_ns, index, hands in moments:
        if time_ns in seen:
            seen[time_ns][1].extend(hands)
        else:
            seen[time_ns] = (index, hands)
    if not seen:
        raise DatasetError(f"{path}: " + ("; ".join(faults.notes()) or "holds no frames"))
    if _left_handed([hand for _, hands in seen.values() for hand in hands]):
        notes.append("hands of left-handed axes (as Unity's): z turned")
        for _, hands in seen.values():
            for hand in hands:
                hand.joints = hand.joints * UNITY_TO_CANONICAL
    frames = [
        HandFrame(time_ns, index, list(_numbered(hands, faults)))
        for time_ns, (index, hands) in sorted(seen.items(), key=lambda item: item[0])
    ]
    return [HandFrames(recording_name(path), frames, notes + faults.notes())]


def recording_name(path: Path) -> str:
    """A file's name without its endings."""
    return re.sub(r"\.(csv|tsv|txt|jsonl?|ndjson)(\.gz)?$", "", path.name)


def _numbered(hands: list[_Seen], faults: Faults) -> Iterator[HandSample]:
    """Hands of one frame, each with an id of its own."""
    taken: set[int] = set()
    if len(hands) > MAX_HANDS:
        faults.add(f"hands refused: more than {MAX_HANDS} in one frame", n=len(hands) - MAX_HANDS)
    for hand in hands[:MAX_HANDS]:
        number = hand.id
        while number in taken:
            number = number + 4 if number < 2**62 else 1
        taken.add(number)
        yield HandSample(number, hand.side, hand.joints, hand.confidence)


def _left_handed(hands: list[_Seen]) -> bool:
    """Whether the hands contradict their sides, taken together: flat ones have little say.

    Of 252 real sequences of one hand (SHREC'21, '22) the balance was between 0.19 and 1."""
    told = [h for h in hands if h.side != "unknown"]
    signs = [float(chirality(h.joints)) * (1 if h.side == "right" else -1) for h in told]
    return sum(signs) < -0.15 * sum(map(abs, signs))


def _hand(points: Points, side: Side, faults: Faults) -> Float32 | None:
    """(26, 3) points -> canonical joints; None, and counted, if one is missing."""
    if not np.all(np.abs(points[_NEEDED]) < 1e6):
        faults.add(_MALFORMED)
        return None
    return from_layout(points, OPENXR_26)


def _side(text: str) -> Side:
    low = text.strip().lower()
    if low in {"left", "l", "0", "xr_hand_left_ext"}:
        return "left"
    return "right" if low in {"right", "r", "1", "xr_hand_right_ext"} else "unknown"


# ---- JSON


def _from_json(
    path: Path, step_ns: float, notes: list[str], faults: Faults
) -> Iterator[tuple[int, int, list[_Seen]]]:
    found = json_items(path, notes, ("frames",))
    for position, text in enumerate(found.items):
        try:
            yield _moment(decode_item(text, _Fields), position, step_ns, faults)
        except DatasetError as error:
            faults.add(f"of {len(found.items)} frames unreadable", f"frame {position}: {error}")


def _moment(
    fields: _Fields, position: int, step_ns: float, faults: Faults
) -> tuple[int, int, list[_Seen]]:
    if "hands" not in fields and "joints" not in fields:
        raise DatasetError("neither hands nor joints in it")
    index = next((decode_item(fields[n], int) for n in _NUMBERS if n in fields), position)
    time_ns = next(
        (decode_item(fields[n], float) * unit for n, unit in _TIMES.items() if n in fields),
        index * step_ns,
    )
    _check(index, time_ns)
    texts = decode_item(fields["hands"], list[msgspec.Raw]) if "hands" in fields else [None]
    hands = []
    for text in texts[: MAX_HANDS + 1]:
        try:
            own = fields if text is None else decode_item(text, _Fields)
            hand = _json_hand(own, round(time_ns), index, faults)
        except DatasetError:
            faults.add(_MALFORMED)
            continue
        if hand is not None:
            hands.append(hand)
    return round(time_ns), index, hands


def _json_hand(fields: _Fields, time_ns: int, index: int, faults: Faults) -> _Seen | None:
    points = np.full((26, 3), np.nan)
    joints: list[msgspec.Raw] | _Fields = decode_item(
        fields.get("joints", msgspec.Raw(b"[]")), _ListOrFields
    )
    if isinstance(joints, dict):
        for name, raw in joints.items():
            i = joint_index(name)
            if i is not None:
                points[i] = _position(raw)
    elif len(joints) in {25, 26}:
        for i, raw in enumerate(joints, 26 - len(joints)):
            points[i] = _position(raw)
    told = next((fields[n] for n in _SIDES if n in fields), msgspec.Raw(b'""'))
    side = _side(str(decode_item(told, str | int)))
    hand = _hand(points, side, faults)
    if hand is None:
        return None
    number = decode_item(fields["id"], int) if "id" in fields else IDS[side]
    if not abs(number) < 2**62:
        number = IDS[side]
    confidence = decode_item(fields["confidence"], float) if "confidence" in fields else 1.0
    return _Seen(time_ns, index, side, hand, number, min(max(confidence, 0.0), 1.0))


class _Xyz(msgspec.Struct):
    x: float
    y: float
    z: float


class _Joint(msgspec.Struct):
    position: _Xyz | tuple[float, float, float] | None = None
    pose: msgspec.Raw | None = None
    x: float | None = None
    y: float | None = None
    z: float | None = None
    valid: bool = True


_ListOrFields = list[msgspec.Raw] | _Fields
_JointOrXyz = _Joint | list[float] | None


def _position(raw: msgspec.Raw, depth: int = 0) -> tuple[float, ...]:
    """x, y, z of a joint in any of its forms; NaN for one that is not valid."""
    joint: _Joint | list[float] | None = decode_item(raw, _JointOrXyz)
    lost = (np.nan, np.nan, np.nan)
    if joint is None:
        return lost
    if isinstance(joint, list):
        return tuple(joint[:3]) if len(joint) in {3, 7} else lost  # 7: with its quaternion
    if not joint.valid:
        return lost
    if isinstance(joint.position, _Xyz):
        return joint.position.x, joint.position.y, joint.position.z
    if joint.position is not None:
        return joint.position
    if joint.pose is not None and depth == 0:
        return _position(joint.pose, 1)
    if joint.x is None or joint.y is None or joint.z is None:
        return lost
    return joint.x, joint.y, joint.z


def _check(index: int, time_ns: float) -> None:
    if not 0 <= index <= MAX_FRAME or not abs(time_ns) < 2.0**62:
        raise DatasetError(f"frame {index} at {time_ns / 1e9:g} s")


# ---- CSV


def _columns(text: str) -> int:
    line = text.lstrip().partition("\n")[0].strip().rstrip("; \t")
    return len(line.split(";"))


def _from_csv(
    path: Path, text: str, step_ns: float, faults: Faults
) -> Iterator[tuple[int, int, list[_Seen]]]:
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = max(";\t,", key=first.count)
    header = [name.strip().strip('"').lower() for name in first.split(delimiter)]
    time = next(((i, _TIMES[n]) for i, n in enumerate(header) if n in _TIMES), None)
    number = next((i for i, n in enumerate(header) if n in _NUMBERS), None)
    side = next((i for i, n in enumerate(header) if n in _SIDES), None)
    columns = _joint_columns(path, header, [time and time[0], number, side])
    position = -1
    last = len(lines) - 1
    try:
        for i, row in enumerate(csv.reader(lines, delimiter=delimiter)):
            if i == 0 or not any(field.strip() for field in row):
                continue
            position += 1
            try:
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} columns instead of {len(header)}")
                index = int(row[number]) if number is not None else position
                time_ns = float(row[time[0]]) * time[1] if time else index * step_ns
                _check(index, time_ns)
                points = np.full((26, 3), np.nan)
                for joint, axis, column in columns:
                    points[joint, axis] = float(row[column] or "nan")
                whose = _side(row[side]) if side is not None else "unknown"
            except (ValueError, DatasetError) as error:
                cut = i >= last and len(row) <= len(header)
                kind = "cut line at the end, dropped" if cut else "rows unreadable"
                faults.add(kind, f"line {i + 1}: {error}")
                continue
            joints = _hand(points, whose, faults)
            hands = []
            if joints is not None:
                hands = [_Seen(round(time_ns), index, whose, joints, IDS[whose], 1.0)]
            yield round(time_ns), index, hands
    except csv.Error as error:
        faults.add("rows unreadable, and all after", str(error))


def _joint_columns(
    path: Path, header: list[str], known: list[int | None]
) -> list[tuple[int, int, int]]:
    """(joint, axis, column) for each coordinate that is there."""
    named = [
        (joint, "xyz".index(match[2]), column)
        for column, name in enumerate(header)
        if (match := _COLUMN.fullmatch(name)) and (joint := joint_index(match[1])) is not None
    ]
    if {joint for joint, _, _ in named} >= set(_NEEDED):
        return named
    rest = [column for column in range(len(header)) if column not in known]
    if len(rest) == len(NAMES) * 3:
        return [(i // 3, i % 3, column) for i, column in enumerate(rest)]
    raise DatasetError(
        f"{path}: no OpenXR hand: its header has neither wrist_x, wrist_y, ... for the joints nor "
        f"78 columns of them beside time and side"
    )
