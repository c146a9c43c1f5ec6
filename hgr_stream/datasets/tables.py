"""Text tables of numbers as the benchmarks ship them, and annotations by the file's numbering.

Shared by the SHREC readers: what a cut, garbled or odd file costs is decided once, here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .base import DatasetError, Segment
from .files import read_bytes

#: SHREC'21 and '22 came through Unity, whose axes are left-handed with z away from the user: all
#: their right hands fail the chirality test until z is turned (measured: 252 of 252 sequences).
UNITY_TO_CANONICAL: Final = np.array([1.0, 1.0, -1.0], dtype=np.float32)
#: Of text: as numbers it takes several times that much memory.
MAX_TEXT_BYTES: Final = 1 << 28
#: Annotations of one sequence.
MAX_MARKS: Final = 10_000
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}")
_NUMBERED: Final = re.compile(r"(?:seq_?)?([0-9]+)")


@dataclass
class Table:
    """Rows of a text file. ``values``: (n, columns) float64; ``line``: (n,) 1-based line numbers.

    Only finite rows are here; what was left out is told in ``notes``.
    """

    values: NDArray[np.float64]
    line: NDArray[np.int64]
    notes: list[str] = field(default_factory=list)


def read_text(path: Path) -> str:
    """A file's text; raises DatasetError naming the file when it cannot be read as text."""
    try:
        return read_bytes(path, [], MAX_TEXT_BYTES).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file (byte {error.start})") from None


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV of words, whatever ends its lines: their numbers, and their cells stripped;
    blank ones are passed over. Raises DatasetError naming the file."""
    try:
        for number, fields in enumerate(csv.reader(read_text(path).splitlines()), start=1):
            cells = [value.strip() for value in fields]
            if any(cells):
                yield number, cells
    except csv.Error as error:
        raise DatasetError(f"{path}: not a CSV file: {error}") from None


def shortened(numbers: list[int]) -> str:
    """Numbers for a note: the first few, then how many more."""
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"


def split_line(line: str) -> tuple[list[str], str | None]:
    """A line's fields, and what parts them: a comma, a semicolon, or (None) blanks."""
    separator = next((s for s in (",", ";") if s in line), None)
    return line.strip().rstrip(separator).split(separator), separator


def read_table(path: Path, columns: int, separator: str | None, *, strict: bool = False) -> Table:
    """Read rows of ``columns`` numbers; blank lines and a trailing separator are harmless.

    A last line that is cut short is dropped and rows with NaN or infinity are left out, both with
    a note; strict: they are not, and a first line of names is passed over. Anything else that does
    not fit raises DatasetError with file and line.
    """
    lines = read_text(path).splitlines()
    filled = [i for i, line in enumerate(lines) if line.strip()]
    rows: list[list[float]] = []
    numbers: list[int] = []
    notes: list[str] = []
    for i in filled:
        text = lines[i].strip()
        if separator is not None:
            text = text.rstrip(separator + " \t")
        fields = text.split(separator)
        row = _numbers(fields)
        if strict and i == filled[0] and _names(fields):
            continue
        if len(row) == columns:
            rows.append(row)
            numbers.append(i + 1)
        elif i == filled[-1] and rows and len(fields) <= columns:
            if strict:
                raise DatasetError(f"{path} line {i + 1}: cut short")
            notes.append(f"{path.name} line {i + 1}: cut short, dropped")
        elif len(fields) != columns:
            raise DatasetError(f"{path} line {i + 1}: {len(fields)} columns instead of {columns}")
        else:
            raise DatasetError(f"{path} line {i + 1}: not a number in one of {columns} columns")
    if not rows:
        raise DatasetError(f"{path}: holds no frames")
    values, line_numbers = np.array(rows), np.array(numbers, dtype=np.int64)
    # Joints are kept as float32; a comparison with NaN is false, so this refuses it too.
    finite = (np.abs(values) <= np.finfo(np.float32).max).all(axis=1)
    if not finite.all():
        bad = line_numbers[~finite].tolist()
        if not finite.any():
            raise DatasetError(f"{path} line {bad[0]}: no row without NaN or infinity")
        if strict:
            raise DatasetError(f"{path}: NaN or infinity in line {shortened(bad)}")
        notes.append(f"{path.name}: NaN or infinity in line {shortened(bad)}, left out")
        values, line_numbers = values[finite], line_numbers[finite]
    return Table(values, line_numbers, notes)


def _numbers(fields: list[str]) -> list[float]:
    """Empty, if one of them is no number."""
    try:
        return [float(value) for value in fields]
    except ValueError:
        return []


def rows_numbered(fields: list[str]) -> bool:
    """Whether a first line has nothing above its first column: the rows' numbers, as pandas writes
    them unless it is told index=False."""
    return bool(fields) and not fields[0].strip(' "')


def _names(fields: list[str]) -> bool:
    """Whether a first line names its columns: by words, or as pandas does, 0, 1, 2 and so on, with
    nothing above its rows' numbers."""
    own = fields[1:] if rows_numbered(fields) else fields
    counted = len(own) > 3 and own == [str(k) for k in range(len(own))]
    return counted or not any(_numbers([value]) for value in fields)


@dataclass(frozen=True)
class Mark:
    """An annotation as written: ``start`` and ``end`` in the file's numbering, both included."""

    label: str
    start: int
    end: int


def read_annotations(path: Path) -> dict[str, list[Mark]]:
    """``sequence;LABEL;start;end;LABEL;start;end;...`` a line -> marks by sequence number."""
    marks: dict[str, list[Mark]] = {}
    for i, line in enumerate(read_text(path).splitlines()):
        fields = [value.strip() for value in line.strip().rstrip("; \t").split(";")]
        if fields == [""]:
            continue
        if len(fields) % 3 != 1 or not _NUMBER.fullmatch("-" + fields[0]):
            raise DatasetError(f"{path} line {i + 1}: not 'sequence;LABEL;start;end;...'")
        of = marks.setdefault(str(int(fields[0])), [])
        for label, start, end in zip(fields[1::3], fields[2::3], fields[3::3], strict=True):
            if not (_NUMBER.fullmatch(start) and _NUMBER.fullmatch(end)):
                raise DatasetError(
                    f"{path} line {i + 1}: {label[:40]} from {start[:40]!r} to {end[:40]!r} is no "
                    "frame range"
                )
            of.append(Mark(label, int(start), int(end)))
        if len(of) > MAX_MARKS:
            raise DatasetError(f"{path} line {i + 1}: more than {MAX_MARKS} annotations")
    return marks


def placed(marks: list[Mark], index: NDArray[np.int64], notes: list[str]) -> list[Segment]:
    """Marks in the file's numbering -> segments in positions of ``index`` (T,), faults noted."""
    segments = []
    for mark in marks:
        named = f"annotation {mark.label} {mark.start}-{mark.end}"
        if mark.end < mark.start:
            notes.append(f"{named}: ends before it starts, dropped")
            continue
        inside = np.flatnonzero((index >= mark.start) & (index <= mark.end))
        if inside.size == 0:
            notes.append(f"{named}: outside the sequence, dropped")
            continue
        if mark.start < index.min() or mark.end > index.max():
            notes.append(f"{named}: reaches past the sequence, clipped")
        segments.append(Segment(mark.label, int(inside[0]), int(inside[-1])))
    return segments


def numbered_files(root: Path) -> list[Path]:
    """``root`` itself, or the files ``N.txt`` (or ``seq_N.txt``) under it, ordered by number."""
    if root.is_file():
        return [root]
    found = [p for p in root.rglob("*.txt") if _NUMBERED.fullmatch(p.stem) and p.is_file()]
    return sorted(found, key=lambda p: (str(p.parent), int(sequence_id(p))))


def annotations_beside(root: Path) -> Path | None:
    """The annotation file in or under a folder, or beside a file, else one or two levels up (the
    official archives unpack as shrec21/training_set/N.txt); None if none.

    A revised one wins (SHREC'21 ships both), and one of the part, training or test, that the path
    names: both parts count their sequences from 1.
    """
    here = root if root.is_dir() else root.parent
    found = _annotations(here.rglob("*.txt") if root.is_dir() else here.glob("*.txt"))
    for above in (here.parent, here.parent.parent):
        found = found or _annotations(above.glob("*.txt"))
    folders = (name.lower() for name in reversed(here.parts[-2:]))
    part = next((w for name in folders for w in ("test", "train") if w in name), "")
    other = {"test": "train", "train": "test"}.get(part, "\0")
    fit = [p for p in found if other not in p.name.lower()] or found
    return min(
        fit, key=lambda p: (part not in p.name, "revised" not in p.name, str(p)), default=None
    )


def _annotations(files: Iterable[Path]) -> list[Path]:
    words = ("annotation", "truth")
    return [p for p in files if p.is_file() and any(word in p.name.lower() for word in words)]


def sequence_id(path: Path) -> str:
    """The benchmark's number of a file ("17" for 17.txt and seq_017.txt), else the file's stem."""
    number = _NUMBERED.fullmatch(path.stem)
    return str(int(number[1])) if number else path.stem
