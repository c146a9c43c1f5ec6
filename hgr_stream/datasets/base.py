"""One recorded sequence of one hand, the form that every data set is brought to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..skeleton import Float32, Lack, Side


class DatasetError(ValueError):
    """A file or folder that is not what it should be; the text names the file and the fault."""


@dataclass(frozen=True)
class Segment:
    """A labelled stretch; ``start`` and ``end`` are positions in the sequence, both included."""

    label: str
    start: int
    end: int


@dataclass
class HandSequence:
    """A sequence of one hand in canonical joints.

    joints: (T, 22, 3) float32, metres, canonical axes. time_ns: (T,) int64, strictly increasing.
    index: (T,) int64, the file's own frame numbers. segments: what is performed, in positions
    0..T-1 (not in the file's numbering).
    """

    name: str
    joints: Float32
    time_ns: NDArray[np.int64]
    index: NDArray[np.int64]
    side: Side = "right"
    subject: str = ""
    segments: list[Segment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: faults found and mended, one line each
    lacks: tuple[Lack, ...] = ()  #: what the source could not see of the hand
