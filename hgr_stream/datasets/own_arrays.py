"""One's own recordings as plain numbers: ``.npy``, ``.npz`` and CSV, a frame a row, as training
takes them (``gestures``) and as streams."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import (
    MEDIAPIPE_21,
    N_JOINTS,
    OPENXR_26,
    Float32,
    Lack,
    from_layout,
    from_shrec21,
)
from .arrays import arrays, load_array
from .base import DatasetError, HandSequence
from .files import DEFAULT_FPS
from .tables import read_table, read_text, rows_numbered, shortened, split_line

ENDINGS: Final = (".npy", ".npz", ".csv")
#: Joints of the hands that are known, in three dimensions.
KNOWN_JOINTS: Final = (20, 21, N_JOINTS, 26)
_HANDS: Final = "20, 21, 22 or 26 joints in 3 dimensions, in metres"


def load_numbers(path: Path) -> NDArray:
    """The one array of a file, of any shape; raises DatasetError naming the file."""
    if path.suffix == ".csv":
        return _csv(path)
    return _checked(path, load_array(path))


def as_hand(numbers: NDArray) -> Float32 | None:
    """(T, 3 J) or (T, J, 3) -> (T, 22, 3) if these are the joints of a known hand, else None."""
    points = numbers
    if numbers.ndim == 2 and numbers.shape[1] % 3 == 0:
        points = numbers.reshape(len(numbers), numbers.shape[1] // 3, 3)
    match points.shape[1:]:
        case (22, 3):
            return points
        case (21, 3):
            return from_layout(points, MEDIAPIPE_21)
        case (26, 3):
            return from_layout(points, OPENXR_26)
        case (20, 3):
            return from_shrec21(points)
    return None


def lacked_depth(joints: NDArray) -> tuple[Lack, ...]:
    """("depth",) if z is 0 throughout: an array does not say that it is of pictures."""
    return () if joints[..., 2].any() else ("depth",)


def load_own_arrays(path: Path, fps: float | None = None) -> list[HandSequence]:
    """A file's recordings, one for each array in an ``.npz``, of one hand whose side is unknown, as
    in training; ``fps`` frames a second [30]. Raises DatasetError naming file and fault."""
    if path.suffix == ".npz":
        found = [(name, _checked(path, load())) for name, load in arrays(path)]
        if len(found) == 1:
            found = [(path.stem, found[0][1])]
    else:
        found = [(path.stem, load_numbers(path))]
    return [_sequence(path, name, numbers, fps or DEFAULT_FPS) for name, numbers in found]


def _sequence(path: Path, name: str, numbers: NDArray, fps: float) -> HandSequence:
    with np.errstate(all="ignore"):  # what is then infinite is left out
        hand = as_hand(numbers.astype(np.float32)) if numbers.ndim in {2, 3} else None
    if hand is None:
        raise DatasetError(f"{path}: shape {numbers.shape} is no hand's; a stream carries {_HANDS}")
    finite = np.isfinite(hand).all(axis=(1, 2))
    if not finite.any():
        raise DatasetError(f"{path}: holds no frames" + " of numbers" * bool(len(hand)))
    index = np.flatnonzero(finite).astype(np.int64)
    bad = np.flatnonzero(~finite).tolist()
    notes = [f"NaN or infinity in frame {shortened(bad)}, left out"] if bad else []
    time_ns = np.rint(index * (1e9 / fps)).astype(np.int64)
    lacks = lacked_depth(hand[finite])
    return HandSequence(name, hand[finite], time_ns, index, "unknown", notes=notes, lacks=lacks)


def _checked(path: Path, loaded: NDArray) -> NDArray:
    if loaded.dtype.kind not in "fiu":
        raise DatasetError(f"{path}: holds {loaded.dtype}, not numbers")
    return loaded


def _csv(path: Path) -> NDArray:
    lines = read_text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    fields, separator = split_line(first)
    values = read_table(path, len(fields), separator, strict=True).values
    return values[:, 1:] if rows_numbered(fields) else values
