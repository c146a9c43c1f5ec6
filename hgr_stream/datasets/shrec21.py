"""SHREC'21 online gestures (Caputo et al., 2021): Leap Motion, one right hand, 17 classes.

Two forms are read: the official ``N.txt`` (a frame a line, 20 joints x (xyz in metres +
quaternion), ``;``-separated) and the archive ``positions.npz`` (arrays ``seq_NNN``, (T, 20, 3)).
Their z points away from the user and is turned here. Neither carries time: frames are 50 a second
by the track's description. Frame numbers are 1-based rows, in which the annotations count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import from_shrec21
from .arrays import arrays
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

STEP_NS: Final = 20_000_000
_JOINTS: Final = 20
_COLUMNS: Final = _JOINTS * 7


def load_shrec21(root: Path) -> list[HandSequence]:
    """Every sequence under ``root``: a folder, a ``positions.npz`` or one ``N.txt``.

    Names are the sequence numbers ("17"), whichever form they came in. Raises DatasetError naming
    file and line; lesser faults are told in each sequence's ``notes``.
    """
    root = Path(root)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    annotations = annotations_beside(root)
    marks = read_annotations(annotations) if annotations else {}
    archives = [root] if root.suffix == ".npz" else []
    if root.is_dir():
        archives = sorted(root.rglob("positions.npz"))
    if archives:
        return [s for archive in archives for s in _from_archive(archive, marks)]
    files = numbered_files(root)
    if not files:
        raise DatasetError(f"{root}: neither a positions.npz nor any N.txt in it")
    return [_from_text(path, marks) for path in files]


def _sequence(
    name: str, points: NDArray, index: NDArray[np.int64], marks: dict[str, list[Mark]]
) -> HandSequence:
    sequence = HandSequence(
        name, from_shrec21(points) * UNITY_TO_CANONICAL, (index - 1) * STEP_NS, index
    )
    sequence.segments = placed(marks.get(name, []), index, sequence.notes)
    return sequence


def _from_text(path: Path, marks: dict[str, list[Mark]]) -> HandSequence:
    table = read_table(path, _COLUMNS, ";")
    points = table.values.reshape(-1, _JOINTS, 7)[:, :, :3]
    sequence = _sequence(sequence_id(path), points, table.line, marks)
    sequence.notes[:0] = table.notes
    return sequence


def _from_archive(path: Path, marks: dict[str, list[Mark]]) -> Iterator[HandSequence]:
    names = 0
    for key, load in arrays(path):
        names += 1
        yield _from_array(path, key, load(), marks)
    if not names:
        raise DatasetError(f"{path}: holds no sequences")


def _from_array(
    path: Path, key: str, points: NDArray, marks: dict[str, list[Mark]]
) -> HandSequence:
    number = re.fullmatch(r"seq_0*(\d+)", key)
    if points.ndim != 3 or points.shape[1:] != (_JOINTS, 3) or points.dtype.kind != "f":
        raise DatasetError(f"{path} {key}: {points.dtype} {points.shape} instead of (T, 20, 3)")
    finite = np.isfinite(points).all(axis=(1, 2))
    if not finite.any():
        raise DatasetError(f"{path} {key}: no frame without NaN or infinity")
    index = np.flatnonzero(finite) + 1
    sequence = _sequence(number[1] if number else key, points[finite], index, marks)
    if not finite.all():
        bad = (np.flatnonzero(~finite) + 1).tolist()
        sequence.notes.insert(0, f"{key}: NaN or infinity in row {shortened(bad)}, left out")
    return sequence
