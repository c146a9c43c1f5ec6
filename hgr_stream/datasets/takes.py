"""Isolated gestures, known again by what they hold.

A take is known by a few numbers of its joints, whatever its file is called, in whatever format it
lies, rounded or not: 12 bytes each.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import N_JOINTS, Float32, with_palm
from .gestures import Gestures

Prints = NDArray[np.float16]  # (N, VALUES)

VALUES: Final = 6
#: Share of a take's largest value by which its values may differ: a millimetre or so. The two most
#: alike of SHREC'17's 1,960 takes are three times as far apart.
CLOSE: Final = 1.5e-3
#: The same of all values of two takes that are one, written twice: a tenth of a millimetre.
SAME: Final = 3e-4
#: Data sets that name each of their people the same wherever they lie.
OFFICIAL: Final = frozenset({"shrec17", "dhg"})


def fingerprints(gestures: Gestures) -> Prints:
    """(N, VALUES): sums of the first, the middle and the last frame's channels with weights that
    look like chance. Of a hand only the depths, which SHREC'17's shear does not move."""
    out = np.empty((len(gestures), VALUES))
    for i, sequence in enumerate(gestures.sequences):
        frames = sequence[[0, (len(sequence) - 1) // 2, -1]]
        given = _telling(frames, gestures.canonical).astype(np.float64).ravel()
        k = np.arange(given.size)
        weights = np.cos(np.arange(1, VALUES + 1)[:, None] * k * k)
        out[i] = weights @ given / np.sqrt(given.size)
    limit = float(np.finfo(np.float16).max)
    return np.clip(out, -limit, limit).astype(np.float16)


def _telling(frames: Float32, canonical: bool) -> Float32:
    if not canonical:
        return frames
    joints = with_palm(frames.reshape(-1, N_JOINTS, 3).copy())
    flat = not np.ptp(joints[..., 2])  # a picture's hands have no depth
    return joints if flat else joints[..., 2]


def among(given: Prints, known: Prints) -> NDArray[np.bool_]:
    """Which of the given takes are among those known, (N,)."""
    known = known.astype(np.float64)
    return np.array(
        [
            bool((np.abs(known - row).max(1, initial=0.0) <= CLOSE * np.abs(row).max()).any())
            for row in given.astype(np.float64)
        ],
        dtype=np.bool_,
    )


def copies(gestures: Gestures) -> list[tuple[int, int]]:
    """Positions of takes that are there again, each with that of the one before it: of the same
    numbers, however they were rounded, under another name."""
    sequences = gestures.sequences
    order = sorted((len(s), float(s.mean(dtype=np.float64)), i) for i, s in enumerate(sequences))
    again: dict[int, int] = {}
    for at, (length, mean, i) in enumerate(order):
        limit = SAME * float(np.abs(sequences[i]).max())
        for n, other, j in order[at + 1 :]:
            if n != length or other - mean > limit:
                break
            if np.abs(sequences[i] - sequences[j]).max() <= limit:
                again.setdefault(max(i, j), min(i, j))
    return sorted(again.items())


def copies_told(gestures: Gestures, how: str) -> list[str]:
    """A line on them, if there are any; ``how`` they are taken."""
    found = copies(gestures)
    if not found:
        return []
    i, j = (gestures.names[k] for k in found[0])
    return [f"{len(found)} of the gestures are copies, the first being {i} of {j}: {how}"]


def packed(prints: Prints) -> str:
    """Each take once, 16 characters."""
    return base64.b64encode(np.unique(prints, axis=0).astype("<f2").tobytes()).decode()


def unpacked(text: str) -> Prints:
    """Raises ValueError for what ``packed`` does not give."""
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2")
    return values.reshape(-1, VALUES).astype(np.float16)


@dataclass(frozen=True)
class Takes:
    """Takes of one data set, and whose they are: ``people`` is None where that is not told, so that
    it may be anybody."""

    data: str
    prints: Prints
    people: frozenset[str] | None

    @classmethod
    def of(cls, gestures: Gestures) -> Takes:
        return cls(gestures.data, fingerprints(gestures), frozenset(gestures.subjects))

    def same_people(self, data: str, prints: Prints) -> bool:
        """Whether a subject's name means the same person in another data set, of takes ``prints``:
        in an official one, and where takes are there again."""
        if data == self.data and (data in OFFICIAL or not len(self.prints)):
            return True
        return bool(among(prints, self.prints).any())
