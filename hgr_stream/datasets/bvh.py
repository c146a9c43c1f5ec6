"""BVH motion capture files: hands out of a skeleton, by forward kinematics.

A hierarchy of joints (offset from the parent, channels), then a line of numbers a frame. What
differs from program to program:

- **Names.** A finger's joints are known by a word for the finger and one for the side, in any of
  the usual spellings: ``LeftHandIndex1`` (Mixamo, MotionBuilder), ``mixamorig:LeftHandIndex1``,
  ``LeftIndexProximal`` (Rokoko, VRM), ``lIndex1`` (Daz), ``f_index.01.L`` (Rigify),
  ``Bip01 L Finger1`` (Biped, 0 the thumb). Their order is that of the hierarchy, never that of
  the numbers; metacarpals are passed over (but not the thumb's). The wrist is the joint from which
  the middle finger hangs.
- **Tips.** The End Site; where it has no length the tip is extrapolated (lacks "tips"). A thumb of
  two joints gets an estimated base ("thumb_base"). A hand that misses a finger is refused.
- **Channels.** Rotations in the order in which they are written. A joint with six channels gives
  its place in each frame, which replaces the offset (unless it is 0 throughout).
- **Units** (cm, inches, metres): scaled so that wrist to middle base is ``people.PALM_M`` in the
  median, the two hands together.
- **Axes.** y is up; the user's right is told by the skeleton's own hands, at rest and turned as
  its root is in the first frame. Positions are relative to the root's first one.

A last line that is cut short is dropped and noted, and so are frames that the header promises. A
line that cannot be read is left out, and keeps its time and number: what follows stays in place.

Source: the format's description by M. Meredith and S. Maddock, 2001.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import (
    FINGERS,
    MIDDLE_BASE,
    THUMB_BASE_FRACTION,
    TIPS,
    WRIST,
    HandSample,
    Lack,
    Side,
    extend_tips,
    with_palm,
)
from .base import IDS, DatasetError, HandFrame, HandFrames
from .files import DEFAULT_FPS
from .finger_names import finger_of
from .people import PALM_M
from .tables import read_text

MAX_JOINTS: Final = 2048
#: Numbers in the whole file; an hour of a whole body at 120 frames a second is a third of it.
MAX_NUMBERS: Final = 1 << 28
_BLOCK: Final = 2048
_MOTION: Final = re.compile(r"^[ \t]*MOTION[ \t]*$", re.MULTILINE)
_AXES: Final = {"X": 0, "Y": 1, "Z": 2}
_SIDES: Final[tuple[Side, ...]] = ("left", "right")

_METACARPAL: Final = re.compile(r"metacarp|carpal|inhand|palm", re.IGNORECASE)

Array = NDArray[np.float64]


@dataclass(slots=True)
class Joint:
    """One joint of the hierarchy, or an End Site (no channels). ``column``: of its channels."""

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: list[str] = field(default_factory=list)
    column: int = 0
    end: bool = False


@dataclass(slots=True)
class _HandJoints:
    """Which joints make a hand: the 22 canonical ones, -1 where it has none."""

    side: Side
    joints: list[int]
    lacks: tuple[Lack, ...]


def load_bvh(path: Path, fps: float | None = None) -> list[HandFrames]:
    """The hands of one file. ``fps`` overrides the file\'s frame time.

    Raises DatasetError naming file and fault.
    """
    path = Path(path)
    text = read_text(path)
    motion = _MOTION.search(text)
    notes: list[str] = []
    joints = read_hierarchy(path, text[: motion.start()] if motion else text)
    if motion is None:
        raise DatasetError(f"{path}: no MOTION part (cut short?)")
    columns = sum(len(j.channels) for j in joints)
    values, positions, step_s = _read_motion(path, text[motion.end() :], columns, notes)
    hands = _find_hands(joints, notes)
    if not hands:
        raise DatasetError(
            f"{path}: no hand with five fingers among its {len(joints)} joints"
            + (f" ({'; '.join(notes)})" if notes else "; names like LeftHandIndex1 are looked for")
        )
    step_ns = 1e9 / fps if fps else step_s * 1e9
    moments = [(round(position * step_ns), position + 1) for position in positions]
    return [HandFrames(path.stem, _frames(path, joints, hands, values, moments), notes)]


def read_hierarchy(path: Path, text: str) -> list[Joint]:
    """The joints, parents before children; raises DatasetError with file and line."""
    joints: list[Joint] = []
    open_joints: list[int] = []
    waiting: Joint | None = None
    column = 0
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        # A brace may stand on the line of its joint.
        for part in line.replace("{", "\n{\n").replace("}", "\n}\n").split("\n"):
            words = part.split()
            if not words or words == ["HIERARCHY"]:
                continue
            where = f"{path} line {number}"
            if words[0] in {"ROOT", "JOINT"} or words[:2] == ["End", "Site"]:
                end = words[0] == "End"
                if len(joints) == MAX_JOINTS:
                    raise DatasetError(f"{where}: more than {MAX_JOINTS} joints")
                name = "" if end else part.strip().partition(words[0])[2].strip()
                parent = open_joints[-1] if open_joints else -1
                waiting = Joint(name, parent, (0.0, 0.0, 0.0), column=column, end=end)
            elif words[0] == "{":
                if waiting is None:
                    raise DatasetError(f"{where}: a brace without a joint")
                open_joints.append(len(joints))
                joints.append(waiting)
                waiting = None
            elif words[0] == "}":
                if not open_joints:
                    raise DatasetError(f"{where}: a brace too many")
                open_joints.pop()
            elif words[0] == "OFFSET" and open_joints:
                joints[open_joints[-1]].offset = _vector(where, words[1:])
            elif words[0] == "CHANNELS" and open_joints:
                channels = [_channel(where, word) for word in words[2:]]
                if words[1:2] != [str(len(channels))] or len(channels) > 6:
                    raise DatasetError(f"{where}: {' '.join(words)[:60]}: not as many as it says")
                if joints[open_joints[-1]].channels:
                    raise DatasetError(f"{where}: a joint's channels for the second time")
                joints[open_joints[-1]].channels = channels
                joints[open_joints[-1]].column = column
                column += len(channels)
            else:
                raise DatasetError(f"{where}: {part.strip()[:60]!r} in the hierarchy")
    if not joints:
        raise DatasetError(f"{path}: not a BVH file: it has no joints")
    return joints


def _vector(where: str, words: list[str]) -> tuple[float, float, float]:
    try:
        x, y, z = (float(word) for word in words)
    except ValueError:
        raise DatasetError(f"{where}: an offset that is not three numbers") from None
    if not max(abs(x), abs(y), abs(z)) < 1e9:
        raise DatasetError(f"{where}: an offset of {x:g} {y:g} {z:g}")
    return x, y, z


def _channel(where: str, word: str) -> str:
    axis, kind = word[:1].upper(), word[1:].lower()
    if axis not in _AXES or kind not in {"position", "rotation"}:
        raise DatasetError(f"{where}: unknown channel {word[:40]!r}")
    return axis + kind[0]


def _read_motion(
    path: Path, text: str, columns: int, notes: list[str]
) -> tuple[Array, list[int], float]:
    """(frames, columns) numbers, each frame's place among all that the file has (from 0), and the
    frame time in s."""
    promised, step_s = -1, 0.0
    rows: list[Array] = []
    positions: list[int] = []
    lines = text.splitlines()
    first = ""
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    bad: list[int] = []
    for number, line in enumerate(lines[: last + 1]):
        words = line.split()
        if not words:
            continue
        if words[0] == "Frames:" and len(words) == 2 and words[1].isdecimal():
            promised = int(words[1]) if len(words[1]) < 18 else -1
            continue
        if words[:2] == ["Frame", "Time:"] and len(words) == 3:
            try:
                step_s = float(words[2])
            except ValueError:
                step_s = 0.0
            continue
        try:
            row = np.array([float(word) for word in words])
        except ValueError:
            row = np.zeros(0)
        if len(row) == columns and np.isfinite(row).all():
            if (len(rows) + 1) * columns > MAX_NUMBERS:
                raise DatasetError(f"{path}: more than {MAX_NUMBERS} numbers; cut it into parts")
            positions.append(len(rows) + len(bad))
            rows.append(row)
        elif number == last and len(words) <= columns:
            notes.append(f"{path.name}: its last line is cut short, dropped")
        else:
            bad.append(number)
            first = first or f"{len(words)} numbers instead of {columns}"
    if not rows:
        raise DatasetError(f"{path}: holds no frames" + (f" ({first})" if first else ""))
    if bad:
        notes.append(f"{len(bad)} frames unreadable, left out; first: {first}")
    found = len(rows) + len(bad)
    if promised > found:
        notes.append(f"{path.name}: {found} frames where the header says {promised}")
    if not 1e-4 <= step_s <= 10.0:
        notes.append(f"no frame time; taken as {DEFAULT_FPS:g} frames a second")
        step_s = 1 / DEFAULT_FPS
    return np.array(rows), positions, step_s


def _find_hands(joints: list[Joint], notes: list[str]) -> list[_HandJoints]:
    chains: dict[tuple[str, str], list[int]] = {}
    for i, joint in enumerate(joints):
        if joint.end:
            of = next((c for c in chains.values() if c[-1] == joint.parent), None)
            if of is not None:
                of.append(i)
            continue
        found = finger_of(joint.name)
        if found is None:
            continue
        chain = chains.setdefault(found, [i])
        if chain[-1] == joint.parent:
            chain.append(i)
    hands = []
    for side in _SIDES:
        fingers = {f: chains[side, f] for f in FINGERS if (side, f) in chains}
        if not fingers:
            continue
        hand = _hand(joints, side, fingers)
        if isinstance(hand, str):
            notes.append(f"{side} hand refused: {hand}")
        else:
            hands.append(hand)
    if any(side == "" for side, _ in chains):
        notes.append("finger joints of no side that can be told were left out")
    return hands


def _hand(joints: list[Joint], side: Side, fingers: dict[str, list[int]]) -> _HandJoints | str:
    missing = [f for f in FINGERS if f not in fingers]
    if missing:
        return f"no {missing[0]} finger by its names" if missing != ["thumb"] else "no thumb"
    wrist = joints[fingers["middle"][0]].parent
    while wrist >= 0 and _METACARPAL.search(joints[wrist].name):
        wrist = joints[wrist].parent
    if wrist < 0:
        return "its middle finger hangs from nothing"
    out = [wrist, -1]
    lacks: list[Lack] = []
    for finger, chain in fingers.items():
        points = list(chain)
        if joints[points[-1]].end and not any(joints[points[-1]].offset):
            points.pop()
        named = [p for p in points if not _METACARPAL.search(joints[p].name)]
        if finger != "thumb" and (len(named) >= 3 or len(points) > 4):
            points = named
        if finger == "thumb" and len(points) == 3 and joints[points[-1]].end:
            points.insert(0, -1)
            lacks.append("thumb_base")
        if len(points) < 3:
            return f"its {finger} finger has {len(points)} joints"
        if len(points) == 3:
            points.append(-1)
            if "tips" not in lacks:
                lacks.append("tips")
        out += points[:4]
    return _HandJoints(side, out, tuple(lacks))


def _frames(
    path: Path,
    joints: list[Joint],
    hands: list[_HandJoints],
    values: Array,
    moments: list[tuple[int, int]],
) -> list[HandFrame]:
    """Every frame's hands, in metres and canonical axes; ``moments``: its time in ns and index."""
    needed = sorted({i for hand in hands for i in hand.joints if i >= 0})
    places = np.concatenate(
        [_places(joints, needed, values[i : i + _BLOCK]) for i in range(0, len(values), _BLOCK)]
    )  # (frames, needed, 3) from the root's first place
    column = {joint: i for i, joint in enumerate(needed)}
    raw = []
    for hand in hands:
        points = places[:, [column.get(i, 0) for i in hand.joints]]
        if hand.joints[2] < 0:
            points[:, 2] = points[:, 0] + THUMB_BASE_FRACTION * (points[:, 3] - points[:, 0])
        raw.append(points)
    palms = [np.linalg.norm(p[:, MIDDLE_BASE] - p[:, WRIST], axis=1) for p in raw]
    palm = float(np.median(np.concatenate(palms)))
    if not 1e-6 < palm < 1e9:
        raise DatasetError(f"{path}: its hands have no size (wrist to middle base {palm:g})")
    turned = (np.stack(raw) @ _user_axes(joints, hands, values).T) * (PALM_M / palm)
    if not np.abs(turned).max() < 1e6:
        raise DatasetError(f"{path}: joints farther than 1000 km from the root")
    # Absurd only if the file is: what is no hand is the segmenter's affair.
    canonical = turned.astype(np.float32)
    for hand, points in zip(hands, canonical, strict=True):
        missing = [tip for tip in TIPS if hand.joints[tip] < 0]
        extended = extend_tips(points.copy())
        points[:, missing] = extended[:, missing]
        with_palm(points)
    return [
        HandFrame(
            time_ns,
            index,
            [
                HandSample(IDS[hand.side], hand.side, points[t], 1.0, hand.lacks)
                for hand, points in zip(hands, canonical, strict=True)
            ],
        )
        for t, (time_ns, index) in enumerate(moments)
    ]


def _places(joints: list[Joint], needed: list[int], values: Array) -> Array:
    """Forward kinematics of a block of frames: (frames, needed, 3), in the file's units, from the
    root's place in the hierarchy."""
    wanted: set[int] = set()
    for leaf in needed:
        i = leaf
        while i >= 0 and i not in wanted:
            wanted.add(i)
            i = joints[i].parent
    n = len(values)
    turns: dict[int, Array] = {-1: np.broadcast_to(np.eye(3), (n, 3, 3))}
    places: dict[int, Array] = {-1: np.zeros((n, 3))}
    for i in sorted(wanted):
        joint = joints[i]
        own = values[:, joint.column : joint.column + len(joint.channels)]
        at = np.broadcast_to(np.array(joint.offset), (n, 3)).copy()
        moved = np.zeros((n, 3))
        turn = turns[joint.parent]
        for k, channel in enumerate(joint.channels):
            if channel[1] == "p":
                moved[:, _AXES[channel[0]]] = own[:, k]
        if joint.parent < 0 or moved.any():
            at = moved
        places[i] = places[joint.parent] + np.einsum("tij,tj->ti", turn, at)
        for k, channel in enumerate(joint.channels):
            if channel[1] == "r":
                turn = turn @ _rotation(_AXES[channel[0]], own[:, k])
        turns[i] = turn
    return np.stack([places[i] for i in needed], axis=1)


def _rotation(axis: int, degrees: Array) -> Array:
    """(n,) angles -> (n, 3, 3) right-handed rotations about one axis."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1.0
    out[:, a, a] = out[:, b, b] = c
    out[:, a, b], out[:, b, a] = -s, s
    return out


def _user_axes(joints: list[Joint], hands: list[_HandJoints], values: Array) -> Array:
    """(3, 3): x to the user's right, y up, from the file's axes."""
    wrists = {hand.side: hand.joints[0] for hand in hands}
    right = np.array([-1.0, 0.0, 0.0])  # a skeleton that faces +z, as most do
    if len(wrists) == 2:
        rest = _places(joints, [wrists["left"], wrists["right"]], np.zeros((1, values.shape[1])))
        right = rest[0, 1] - rest[0, 0]
    root = joints[0]
    for k, channel in reversed(list(enumerate(root.channels))):
        if channel[1] == "r":
            right = _rotation(_AXES[channel[0]], values[:1, root.column + k])[0] @ right
    flat = np.hypot(right[0], right[2])
    if flat < 1e-6:
        return np.diag([-1.0, 1.0, -1.0])
    x, z = right[0] / flat, right[2] / flat
    return np.array([[x, 0.0, z], [0.0, 1.0, 0.0], [-z, 0.0, x]])
