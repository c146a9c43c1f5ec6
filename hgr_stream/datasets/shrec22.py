"""SHREC'22 online gestures (Emporio et al., 2022): HoloLens 2, one right hand, 16 classes.

``N.txt`` holds a frame a line, ``index;time;26 x xyz`` in metres, with the time in seconds from
the sequence's start (about 20 frames a second: steps of 16 to 98 ms, pauses to 333 ms). Its z
points away from the user and is turned here. The annotations count in the index column, from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from ..skeleton import SHREC22_26, from_layout
from .base import DatasetError, HandSequence
from .tables import (
    UNITY_TO_CANONICAL,
    Mark,
    annotations_beside,
    numbered_files,
    placed,
    read_annotations,
    read_table,
    sequence_id,
    shortened,
)

_COLUMNS: Final = 2 + 26 * 3
_SECOND_NS: Final = 1_000_000_000


def load_shrec22(root: Path) -> list[HandSequence]:
    """Every sequence under ``root``, a folder or one ``N.txt``; names are the numbers ("17").

    Rows whose time does not pass the row before are left out with a note; if that takes more than
    half of them, or a file is garbled, DatasetError names file and line.
    """
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    files = numbered_files(root)
    if not files:
        raise DatasetError(f"{root}: no N.txt in it")
    annotations = annotations_beside(root)
    marks = read_annotations(annotations) if annotations else {}
    return [_from_text(path, marks) for path in files]


def _from_text(path: Path, marks: dict[str, list[Mark]]) -> HandSequence:
    table = read_table(path, _COLUMNS, ";")
    number, time_s = table.values[:, 0], table.values[:, 1]
    odd = np.flatnonzero((number != np.floor(number)) | (np.abs(number) > 2**52))
    if odd.size:
        raise DatasetError(f"{path} line {table.line[odd[0]]}: index {number[odd[0]]} is no count")
    absurd = np.flatnonzero(np.abs(time_s) > 1e9)
    if absurd.size:
        raise DatasetError(f"{path} line {table.line[absurd[0]]}: time {time_s[absurd[0]]} s")
    time_ns = np.rint(time_s * _SECOND_NS).astype(np.int64)
    before = np.maximum.accumulate(np.concatenate(([time_ns[0] - 1], time_ns[:-1])))
    forward = time_ns > before
    late = table.line[~forward].tolist()
    if 2 * len(late) > len(time_ns):
        raise DatasetError(f"{path} line {late[0]}: time does not run forward in most rows")
    if late:
        table.notes.append(
            f"{path.name}: time stands still or runs back in line {shortened(late)}, left out"
        )
    points = table.values[forward, 2:].reshape(-1, 26, 3) * UNITY_TO_CANONICAL
    index = number[forward].astype(np.int64)
    name = sequence_id(path)
    sequence = HandSequence(
        name, from_layout(points, SHREC22_26), time_ns[forward], index, notes=table.notes
    )
    sequence.segments = placed(marks.get(name, []), index, sequence.notes)
    return sequence
