"""SHREC'17 track and DHG-14/28 (De Smedt et al., 2016, 2017): RealSense, one right hand.

One gesture a file: ``gesture_G/finger_F/subject_S/essai_E/skeletons_world.txt`` (DHG:
``skeleton_world.txt``), a frame a line, 66 numbers: 22 joints x xyz in metres. The official lists
``train_gestures.txt`` and ``test_gestures.txt`` give ``G F S E label14 label28 n_frames``; without
them every file under the folder is taken. DHG's ``informations_troncage_sequences.txt`` beside the
gestures tells where in its sequences the gesture is, ``G F S E first last`` a line, frames from 0,
both included: it becomes the segment. No time is given: frames are 30 a second nominally.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ..skeleton import N_JOINTS, unshear_shrec17, with_palm
from .base import DatasetError, HandSequence, Segment
from .tables import read_table, read_text

RATE_HZ: Final = 30
LABELS_14: Final = (
    "GRAB",
    "TAP",
    "EXPAND",
    "PINCH",
    "ROTATION_CW",
    "ROTATION_CCW",
    "SWIPE_RIGHT",
    "SWIPE_LEFT",
    "SWIPE_UP",
    "SWIPE_DOWN",
    "SWIPE_X",
    "SWIPE_PLUS",
    "SWIPE_V",
    "SHAKE",
)
#: With one finger (1) or the whole hand (2); entry 2 * (G - 1) + F - 1.
LABELS_28: Final = tuple(f"{label}_{finger}" for label in LABELS_14 for finger in (1, 2))
TRIM_LISTS: Final = ("informations_troncage_sequences.txt", "informations_troncage_sequence.txt")
FILE_NAMES: Final = ("skeletons_world.txt", "skeleton_world.txt")
_PLACE: Final = re.compile(r"gesture_(\d+)/finger_(\d+)/subject_(\d+)/essai_(\d+)/[^/]+$")


@dataclass
class Shrec17Sequence(HandSequence):
    """One performed gesture. ``label14`` is 1..14 and ``label28`` 1..28 as in the official lists;
    0 when the path does not tell. The one segment is named by the 14 classes; it spans it all, or
    what DHG's trim list says."""

    gesture: int = 0
    finger: int = 0
    label14: int = 0
    label28: int = 0
    split: str = ""  #: "train" or "test" when a list says so
    dhg: bool = False  #: of DHG-14/28, whose people are others


def load_shrec17_sequences(
    root: Path, *, unshear: bool = True, split: Literal["train", "test"] | None = None
) -> list[Shrec17Sequence]:
    """Every sequence under ``root``: the data set's folder, a part of it, or one file.

    ``unshear`` takes out the shear of its coordinates (see ``skeleton.unshear_shrec17``); ``split``
    keeps one official list. Raises DatasetError naming file and line.
    """
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    if root.is_file():
        return [_from_text(root, unshear)]
    lists = sorted(p for s in ("train", "test") for p in root.rglob(f"{s}_gestures.txt"))
    if split is not None:
        lists = [p for p in lists if p.name.startswith(split)]
        if not lists:
            raise DatasetError(f"{root}: no {split}_gestures.txt in it")
    if lists:
        return [s for path in lists for s in _from_list(path, unshear)]
    files = sorted(
        (p for name in FILE_NAMES for p in root.rglob(name)),
        key=lambda p: [int(n) for n in re.findall(r"\d+", str(p.relative_to(root)))],
    )
    if not files:
        raise DatasetError(f"{root}: no {FILE_NAMES[0]} in it")
    sequences = [_from_text(path, unshear) for path in files]
    for path in sorted(p for name in TRIM_LISTS for p in root.rglob(name)):
        _trim(path, dict(zip((f.resolve() for f in files), sequences, strict=True)))
    return sequences


def _trim(path: Path, sequences: dict[Path, Shrec17Sequence]) -> None:
    """Set the segments of the sequences beside a trim list; those it does not name get a note."""
    spans: dict[Path, tuple[int, int]] = {}
    for i, line in enumerate(read_text(path).splitlines()):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 6 or not all(f.isdecimal() and len(f) < 10 for f in fields):
            raise DatasetError(f"{path} line {i + 1}: not 'G F S E first last'")
        g, f, s, e, first, last = map(int, fields)
        if first >= last:
            raise DatasetError(f"{path} line {i + 1}: the gesture ends before it starts")
        spans[path.parent.resolve() / f"gesture_{g}/finger_{f}/subject_{s}/essai_{e}"] = first, last
    for file, sequence in sequences.items():
        if not file.is_relative_to(path.parent.resolve()) or not sequence.segments:
            continue
        span = spans.get(file.parent)
        if span is None:
            sequence.notes.append(f"{path.name} does not name it: taken whole")
            continue
        # Frames that the file's reader dropped are gone from ``index``, too.
        start, end = np.searchsorted(sequence.index, [span[0], span[1] + 1]) - [0, 1]
        if span[1] > sequence.index[-1]:
            sequence.notes.append(f"{path.name} ends it at {span[1]}, past its last frame")
        if start >= end:
            raise DatasetError(f"{path}: {sequence.name} has no frames {span[0]} to {span[1]}")
        sequence.segments = [Segment(sequence.segments[0].label, int(start), int(end))]


def _from_list(path: Path, unshear: bool) -> list[Shrec17Sequence]:
    sequences = []
    lines: dict[tuple[int, ...], int] = {}
    for i, line in enumerate(read_text(path).splitlines()):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 7 or not all(f.isdecimal() and len(f) < 10 for f in fields):
            raise DatasetError(f"{path} line {i + 1}: not 'G F S E label14 label28 n_frames'")
        g, f, s, e, label14, label28, n_frames = map(int, fields)
        if not (1 <= label14 <= 14 and 1 <= label28 <= 28):
            raise DatasetError(f"{path} line {i + 1}: labels {label14} and {label28}")
        if (label14, label28) != (g, 2 * (g - 1) + f):
            raise DatasetError(
                f"{path} line {i + 1}: labels {label14} and {label28} are not of gesture {g} with "
                f"finger {f}"
            )
        before = lines.setdefault((g, f, s, e), i + 1)
        if before != i + 1:
            raise DatasetError(f"{path} line {i + 1}: lists the sequence of line {before} again")
        folder = path.parent / f"gesture_{g}/finger_{f}/subject_{s}/essai_{e}"
        file = next((folder / n for n in FILE_NAMES if (folder / n).exists()), None)
        if file is None:
            raise DatasetError(f"{path} line {i + 1}: {folder / FILE_NAMES[0]} is missing")
        sequence = _from_text(file, unshear)
        sequence.label14, sequence.label28 = label14, label28
        sequence.segments = [Segment(LABELS_14[label14 - 1], 0, len(sequence.joints) - 1)]
        sequence.split = path.name.partition("_")[0]
        if len(sequence.joints) != n_frames:
            sequence.notes.append(f"{len(sequence.joints)} frames where the list says {n_frames}")
        sequences.append(sequence)
    if not sequences:
        raise DatasetError(f"{path}: lists no gestures")
    return sequences


def _from_text(path: Path, unshear: bool) -> Shrec17Sequence:
    table = read_table(path, N_JOINTS * 3, None)
    joints = table.values.reshape(-1, N_JOINTS, 3).astype(np.float32)
    if unshear:
        joints = unshear_shrec17(joints)
    index = table.line - 1
    time_ns = index * 1_000_000_000 // RATE_HZ
    place = _PLACE.search(path.resolve().as_posix())
    dhg = path.name == FILE_NAMES[1]
    if place is None:
        return Shrec17Sequence(
            path.stem, with_palm(joints), time_ns, index, notes=table.notes, dhg=dhg
        )
    g, f, s, e = map(int, place.groups())
    known = 1 <= g <= 14 and f in {1, 2}
    return Shrec17Sequence(
        f"gesture_{g}/finger_{f}/subject_{s}/essai_{e}",
        with_palm(joints),
        time_ns,
        index,
        subject=str(s),
        segments=[Segment(LABELS_14[g - 1], 0, len(joints) - 1)] if known else [],
        notes=table.notes,
        gesture=g,
        finger=f,
        label14=g if known else 0,
        label28=2 * (g - 1) + f if known else 0,
        dhg=dhg,
    )
