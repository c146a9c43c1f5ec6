"""What a model was trained on, so that it is not judged on it.

A recording is known again by its first frames, whatever its file is called and in whatever format
it lies. Streams spliced of isolated gestures are never twice the same: they are known by whose
gestures they hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..datasets.base import DatasetError, HandSequence
from ..datasets.convert import Recording
from ..skeleton import mirrored
from .material import ISOLATED
from .truth import MIN_FRAMES, sequences_of


def fingerprint(sequence: HandSequence) -> str:
    """12 hexadecimal digits of its first frames and their distances in time."""
    joints, time_ns = sequence.joints[:MIN_FRAMES], sequence.time_ns[:MIN_FRAMES]
    right = mirrored(joints) if sequence.side == "left" else joints
    digest = hashlib.blake2b(digest_size=6)
    # Zeros have a sign, which mirroring turns.
    digest.update(np.ascontiguousarray(right + 0.0, dtype="<f4").tobytes())
    digest.update((time_ns - time_ns[0]).astype("<i8").tobytes())
    return digest.hexdigest()


def seen(sequences: Sequence[HandSequence]) -> list[str]:
    """Fingerprints of what a model learns from, for its metadata."""
    return sorted({fingerprint(q) for q in sequences})


def unseen(
    training: dict[str, Any], recordings: Sequence[Recording], dataset: str = "", split: str = ""
) -> list[Recording]:
    """The recordings that a model with this ``training`` metadata was not trained on.

    dataset, split: where streams were spliced of; those of its training part are of known people.
    Raises DatasetError when there is none.
    """
    if dataset in ISOLATED:
        kept = _of_others(training, recordings, dataset) if split == "train" else [*recordings]
    else:
        known = set(training.get("seen", ()))
        kept = [
            r
            for r in recordings
            if not known or known.isdisjoint(map(fingerprint, sequences_of(r)))
        ]
    if recordings and not kept:
        raise DatasetError(
            "this model was trained on all of these recordings: its figures there say nothing. "
            "Give it others, or train without --all"
        )
    return kept


def new_to(training: dict[str, Any], sequences: Sequence[HandSequence]) -> list[HandSequence]:
    """Those that a model with this ``training`` metadata has not learnt from; raises DatasetError
    when there is none."""
    known = set(training.get("seen", ()))
    kept = [q for q in sequences if fingerprint(q) not in known]
    if sequences and not kept:
        raise DatasetError("this model was trained on all of these recordings already")
    return kept


def _of_others(
    training: dict[str, Any], recordings: Sequence[Recording], dataset: str
) -> list[Recording]:
    """Spliced streams, PERSON.NUMBER, of people who were held out."""
    sources = str(training.get("data", "")).split(",")[0].strip().lower().split("+")
    if dataset not in sources:
        return list(recordings)
    if str(training.get("trained_on", "")).startswith("all sequences"):
        return []
    names = (str(name).rpartition(":") for name in training.get("held_out", []))
    held = {name.rpartition(".")[0] for source, _, name in names if source in ("", dataset)}
    return [r for r in recordings if r.name.rpartition(".")[0] in held]
