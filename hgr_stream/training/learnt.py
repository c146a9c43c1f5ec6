"""Which isolated gestures a model has learnt from, so that it is not judged on them.

A take is known again by a few numbers of its joints, whatever its file is called, in whatever
format it lies, rounded or not; ``seen`` is the same for streams. They travel with the model: 12
bytes a take.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..datasets.gestures import Gestures, in_order
from ..recognition.bundle import ModelError
from ..skeleton import N_JOINTS, Float32, with_palm

Prints = NDArray[np.float16]  # (N, VALUES)

VALUES: Final = 6
#: Share of a take's largest value by which its values may differ: a millimetre or so. The two most
#: alike of SHREC'17's 1,960 takes are three times as far apart.
CLOSE: Final = 1.5e-3
#: Data sets that name each of their people the same wherever they lie.
OFFICIAL: Final = frozenset({"shrec17"})


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


def packed(*prints: Prints) -> str:
    """For a model's metadata: each take once, 16 characters."""
    once = np.unique(np.concatenate(prints), axis=0)
    return base64.b64encode(once.astype("<f2").tobytes()).decode()


def unpacked(training: dict[str, Any]) -> Prints | None:
    """From a model's or a run's metadata; None where an older one does not tell; ModelError."""
    text = training.get("learnt")
    if text is None:
        return None
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2")
        return values.reshape(-1, VALUES).astype(np.float16)
    except (binascii.Error, ValueError, TypeError):
        raise ModelError("what the model has learnt from cannot be read") from None


def same_people(data: str, gestures: Gestures, known: Prints) -> bool:
    """Whether a subject's name means the same person in ``gestures`` as in the data set ``data``,
    of which takes are ``known``: in an official data set, and where takes are there again."""
    if data == gestures.data and data in OFFICIAL:
        return True
    return bool(among(fingerprints(gestures), known).any())


def shared(
    training: dict[str, Any], gestures: Gestures, whole: Gestures
) -> tuple[list[int], list[str]]:
    """What a model has learnt from of ``gestures``, a part of ``whole``: takes, by position, which
    are known again by what they hold, and people.

    People are compared where a name means the same person: in the same official data set, and where
    takes of ``whole`` were learnt. A model that does not tell its takes is known by the name of its
    data set; there, one that does not tell its subjects may have learnt from everybody.
    """
    known = unpacked(training)
    if known is None:
        takes: list[int] = []
        same = training.get("data") == gestures.data
    else:
        takes = np.flatnonzero(among(fingerprints(gestures), known)).tolist()
        same = same_people(str(training.get("data", "")), whole, known)
    people, told = set(gestures.subjects) if same else set(), training.get("subjects")
    return takes, in_order(people if told is None else people & set(told))


def shows(others: Gestures, gestures: Gestures, held: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the others show a take of ``gestures[held]``, or one of its people, (N,)."""
    if not len(held):
        return np.zeros(len(others), dtype=np.bool_)
    prints = fingerprints(gestures)
    out = among(fingerprints(others), prints[held])
    if same_people(gestures.data, others, prints):
        out |= np.isin(np.array(others.subjects), [gestures.subjects[i] for i in held])
    return out
