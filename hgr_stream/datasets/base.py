"""What every foreign file is brought to: a sequence of one hand, or frames of any number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import Float32, HandSample, Lack, Side

if TYPE_CHECKING:
    from .takes import Takes


#: Of hands to which their source gives no number: by their side.
IDS: Final[dict[Side, int]] = {"left": 1, "right": 2, "unknown": 3}


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
    takes: Takes | None = None  #: the isolated gestures that it was spliced of


@dataclass(slots=True)
class HandFrame:
    """What a source saw at one instant, also when that is no hand.

    stream: whose hands they are, where a source tells people apart ("person0"); each is a device
    of its own in a recording.
    """

    time_ns: int
    index: int
    hands: list[HandSample]
    stream: str = ""


@dataclass
class HandFrames:
    """A recording of any number of hands, ordered by time; ``notes`` as in ``HandSequence``."""

    name: str
    frames: list[HandFrame]
    notes: list[str] = field(default_factory=list)
