"""What a model has learnt from, so that it is not judged on it.

Takes are known by what they hold (``datasets.takes``), and so are streams spliced of them, which
are never twice the same. A continuous recording is known by its first frames, whatever its file is
called and in whatever format it lies. All of it travels with the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..datasets.base import DatasetError, HandSequence
from ..datasets.convert import Recording
from ..datasets.gestures import Gestures, first_of, in_order
from ..datasets.takes import (
    OFFICIAL,
    VALUES,
    Prints,
    Takes,
    among,
    fingerprints,
    packed,
    unpacked,
)
from ..recognition.bundle import ModelError
from ..skeleton import mirrored
from .truth import sequences_of

FIRST_FRAMES: Final = 8  #: of a recording, by which it is known
NO_PRINTS: Final = np.zeros((0, VALUES), np.float16)


def fingerprint(sequence: HandSequence) -> str:
    """12 hexadecimal digits of its first frames and their distances in time."""
    joints, time_ns = sequence.joints[:FIRST_FRAMES], sequence.time_ns[:FIRST_FRAMES]
    right = mirrored(joints) if sequence.side == "left" else joints
    digest = hashlib.blake2b(digest_size=6)
    # Zeros have a sign, which mirroring turns.
    digest.update(np.ascontiguousarray(right + 0.0, dtype="<f4").tobytes())
    digest.update((time_ns - time_ns[0]).astype("<i8").tobytes())
    return digest.hexdigest()


class _TakesTold(msgspec.Struct):
    data: str
    prints: str
    people: list[str] | None


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    """How it lies in a model's metadata."""

    takes: list[_TakesTold] = []
    recordings: list[str] = []


@dataclass(frozen=True)
class Learnt:
    """Takes, by data set, and the fingerprints of continuous recordings."""

    takes: tuple[Takes, ...] = ()
    recordings: frozenset[str] = frozenset()

    @classmethod
    def from_gestures(cls, *sets: Gestures) -> Learnt:
        return cls(tuple(Takes.of(g) for g in sets))

    @classmethod
    def from_sequences(cls, sequences: Iterable[HandSequence]) -> Learnt:
        recordings, spliced = set(), dict[str, list[Takes]]()
        for q in sequences:
            if q.takes is None:
                recordings.add(fingerprint(q))
            else:
                spliced.setdefault(q.takes.data, []).append(q.takes)
        takes = (
            Takes(
                data,
                np.unique(np.concatenate([t.prints for t in several]), axis=0),
                frozenset().union(*(t.people or () for t in several)),
            )
            for data, several in spliced.items()
        )
        return cls(tuple(takes), frozenset(recordings))

    @classmethod
    def from_metadata(cls, training: dict[str, Any]) -> Learnt:
        """Of a run or a model file. One that does not tell is known by the names of its data set
        and its people. Raises ModelError."""
        told = training.get("learnt")
        if told is None:
            people = training.get("subjects")
            named = None if people is None else frozenset(people)
            return cls((Takes(str(training.get("data", "")), NO_PRINTS, named),))
        try:
            found = msgspec.convert(told, _Told)
            takes = (
                Takes(t.data, unpacked(t.prints), None if t.people is None else frozenset(t.people))
                for t in found.takes
            )
            return cls(tuple(takes), frozenset(found.recordings))
        except ValueError:
            raise ModelError("what the model has learnt from cannot be read") from None

    def metadata(self) -> dict[str, Any]:
        """For ``from_metadata``."""
        takes = [
            _TakesTold(t.data, packed(t.prints), None if t.people is None else sorted(t.people))
            for t in self.takes
        ]
        told: dict[str, Any] = msgspec.to_builtins(_Told(takes, sorted(self.recordings)))
        return told

    def __or__(self, other: Learnt) -> Learnt:
        new = [t for t in other.takes if not any(_same(t, own) for own in self.takes)]
        return Learnt((*self.takes, *new), self.recordings | other.recordings)

    @property
    def count(self) -> int:
        """Takes."""
        return len(np.unique(np.concatenate([NO_PRINTS, *(t.prints for t in self.takes)]), axis=0))

    def of_gestures(
        self, gestures: Gestures, whole: Gestures | None = None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of the gestures, a part of ``whole`` [gestures], were learnt, (N,), and of which
        the person is known, (N,). People are compared where a name means the same person; see
        ``Takes.same_people``."""
        prints = fingerprints(gestures)
        everything = prints if whole is None else fingerprints(whole)
        takes, people = np.zeros((2, len(gestures)), dtype=np.bool_)
        for known in self.takes:
            takes |= among(prints, known.prints)
            if known.same_people((whole or gestures).data, everything):
                people |= known.people is None or np.isin(gestures.subjects, list(known.people))
        return takes, people

    def namesakes(self, gestures: Gestures) -> str:
        """Of gestures that are neither learnt nor of whom is known: their people who are called as
        those known are, in data of the user's, where that may be the same person; "" for none."""
        if gestures.data in OFFICIAL:
            return ""
        own = set(gestures.subjects) - {""}
        known = (t.people for t in self.takes if t.people and t.data not in OFFICIAL)
        return ", ".join(first_of(in_order({s for people in known for s in people & own})))

    def of_sequences(
        self, sequences: Sequence[HandSequence], *, people: bool = True
    ) -> NDArray[np.bool_]:
        """Which of the sequences were learnt, (N,): spliced ones where one of their takes was or,
        unless without ``people``, the person is known."""
        same = self._same_people([q.takes for q in sequences if q.takes is not None])
        return np.array(
            [
                fingerprint(q) in self.recordings
                if q.takes is None
                else any(
                    among(q.takes.prints, known.prints).any()
                    or (people and one and _share(q.takes, known))
                    for known, one in zip(self.takes, same[q.takes.data], strict=True)
                )
                for q in sequences
            ],
            dtype=np.bool_,
        )

    def _same_people(self, given: Sequence[Takes]) -> dict[str, list[bool]]:
        """Of each data set that is given, with which of those learnt it has its people's names."""
        whole: dict[str, list[Prints]] = {}
        for takes in given:
            whole.setdefault(takes.data, []).append(takes.prints)
        return {
            data: [k.same_people(data, np.concatenate(prints)) for k in self.takes]
            for data, prints in whole.items()
        }


def _same(one: Takes, other: Takes) -> bool:
    return (one.data, one.people) == (other.data, other.people) and np.array_equal(
        one.prints, other.prints
    )


def _share(one: Takes, other: Takes) -> bool:
    """Whether a person's name is in both, or may be."""
    return one.people is None or other.people is None or bool(one.people & other.people)


def unlearnt(training: dict[str, Any], recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings that a model with this ``training`` metadata has not learnt from; raises
    DatasetError when there is none."""
    learnt = Learnt.from_metadata(training)
    pieces: list[tuple[int, HandSequence]] = []
    for i, recording in enumerate(recordings):
        left_out: list[str] = []
        found = sequences_of(recording, left_out.append)
        if left_out:  # as it is in a benchmark's own files, of which nothing is
            found += sequences_of(recording, every=True)
        pieces += [(i, q) for q in found]
    known = learnt.of_sequences([q for _, q in pieces])
    old = {i for (i, _), learnt_from in zip(pieces, known, strict=True) if learnt_from}
    kept = [r for i, r in enumerate(recordings) if i not in old]
    if recordings and not kept:
        raise DatasetError(
            "this model was trained on all of these recordings: its figures there say nothing. "
            "Give it others, or train without --all"
        )
    return kept


def new_to(training: dict[str, Any], sequences: Sequence[HandSequence]) -> list[HandSequence]:
    """Those that a model with this ``training`` metadata has not learnt from, of whomever; raises
    DatasetError when there is none."""
    known = Learnt.from_metadata(training).of_sequences(sequences, people=False)
    kept = [q for q, old in zip(sequences, known, strict=True) if not old]
    if sequences and not kept:
        raise DatasetError("this model was trained on all of these recordings already")
    return kept
