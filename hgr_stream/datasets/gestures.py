"""Isolated gestures as arrays, and how they are divided by subject.

``load_shrec17`` and ``load_recordings`` bring a data set into one ``Gestures``; the rest of the
module decides who is trained on and who is held out. People differ more than takes of one person
do: every division here keeps each subject whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..config import Segmentation
from ..messages import Hand
from ..recognition.options import mirror_pairs
from ..recording import Reader, RecordingError
from ..segmentation import MAX_COORDINATE_M
from ..skeleton import (
    N_JOINTS,
    Float32,
    Lack,
    Side,
    lacked,
    mirrored,
)
from .base import DatasetError
from .files import DEFAULT_FPS
from .own_arrays import ENDINGS, as_hand, lacked_depth, load_numbers
from .shrec17 import LABELS_14, LABELS_28, RATE_HZ, Shrec17Sequence, load_shrec17_sequences
from .shrec21 import load_shrec21
from .shrec22 import load_shrec22
from .tables import read_cells

RECORDINGS: Final = (".mcap", *ENDINGS)
RECORDINGS_HZ: Final = DEFAULT_FPS  # of those that tell no times, if nothing else is said
MIN_FRAMES: Final = 2
MIN_CUT: Final = 6  # frames of a gesture cut out of a continuous recording
GLITCH_M: Final = 1.5  # a hand that far from where it mostly is was never there
MAX_CHANNEL: Final = 1e6  # of channels whose unit is not known: pixels and millimetres are less
#: Why what is no hand cannot be exported, and what can be done.
NO_STREAM: Final = (
    "a model of them can be trained and evaluated but not exported, since a stream carries hands; "
    "for a model file give 20, 21, 22 or 26 joints in 3 dimensions"
)

Classes = Literal[14, 28]


@dataclass
class Gestures:
    """One gesture a sequence.

    sequences: N arrays (T_i, C) float32: frames of C channels, joint by joint x y z (or x y).
    labels: (N,) int64 into ``classes``. subjects, names: N strings; "" where nobody is named.
    coarse_of: for each class its coarse class in ``coarse_classes``, or empty. canonical: the
    channels are the canonical hand's 22 x 3 in metres.
    """

    data: str
    sequences: list[Float32]
    labels: NDArray[np.int64]
    classes: list[str]
    subjects: list[str]
    names: list[str]
    rate_hz: float
    canonical: bool = True
    coarse_of: tuple[int, ...] = ()
    coarse_classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: What the source could not see of each gesture's hand; empty where that is not told.
    lacks: list[tuple[Lack, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def channels(self) -> int:
        """Numbers in a frame."""
        return int(self.sequences[0].shape[1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each gesture, (N,)."""
        return np.array([len(s) for s in self.sequences], dtype=np.int64)

    @property
    def coarse_labels(self) -> NDArray[np.int64]:
        """(N,) int64 into ``coarse_classes``."""
        return np.array(self.coarse_of, dtype=np.int64)[self.labels]

    def joints(self, i: int) -> Float32:
        """Gesture ``i`` as (T, 22, 3) metres; raises DatasetError unless the hand is canonical."""
        if not self.canonical:
            raise DatasetError(f"{self.names[i]}: {self.channels} channels are no canonical hand")
        return self.sequences[i].reshape(-1, N_JOINTS, 3)

    def padded(self) -> tuple[Float32, NDArray[np.int64]]:
        """(N, T, C) with zeros after each gesture's end, and the lengths (N,)."""
        lengths = self.lengths
        out = np.zeros((len(self), int(lengths.max()), self.channels), dtype=np.float32)
        for i, sequence in enumerate(self.sequences):
            out[i, : len(sequence)] = sequence
        return out, lengths

    def take(self, index: NDArray[np.int64] | Sequence[int]) -> Gestures:
        """Those of ``index``, in its order, with the classes unchanged."""
        chosen = [int(i) for i in index]
        return replace(
            self,
            sequences=[self.sequences[i] for i in chosen],
            labels=self.labels[chosen],
            subjects=[self.subjects[i] for i in chosen],
            names=[self.names[i] for i in chosen],
            lacks=[self.lacks[i] for i in chosen] if self.lacks else [],
        )

    def of_coarse(self) -> Gestures:
        """The same gestures labelled by their coarse classes alone."""
        return replace(
            self,
            labels=self.coarse_labels,
            classes=list(self.coarse_classes),
            coarse_of=(),
            coarse_classes=[],
        )

    def check(self) -> Gestures:
        """Itself, if it can be trained on; raises DatasetError naming the first fault."""
        if not self.sequences:
            raise DatasetError(f"{self.data}: no gestures")
        counts = {len(self.labels), len(self.subjects), len(self.names), len(self.sequences)}
        if len(counts) != 1:
            raise DatasetError(f"{self.data}: {sorted(counts)} sequences, labels, subjects, names")
        for name, sequence, label in zip(self.names, self.sequences, self.labels, strict=True):
            if sequence.ndim != 2 or sequence.shape[1] != self.channels:
                raise DatasetError(
                    f"{name}: shape {sequence.shape}, where {self.names[0]} has "
                    f"{self.channels} channels a frame"
                )
            if len(sequence) < MIN_FRAMES:
                raise DatasetError(f"{name}: {len(sequence)} frames, wants {MIN_FRAMES} or more")
            finite = np.isfinite(sequence).all(axis=1)
            if not finite.all():
                raise DatasetError(f"{name}: NaN or infinity in frame {int(np.argmin(finite))}")
            far = np.abs(sequence).max(1)
            if far.max() > (MAX_COORDINATE_M if self.canonical else MAX_CHANNEL):
                raise DatasetError(
                    f"{name}: {far.max():.3g} in frame {int(far.argmax())} is beyond any hand"
                    + ("; are its joints in metres?" if self.canonical else "")
                )
            if not 0 <= label < len(self.classes):
                raise DatasetError(
                    f"{name}: label {label} is not one of the {len(self.classes)} classes (from 0)"
                )
        missing = set(range(len(self.classes))) - set(self.labels.tolist())
        if missing:
            raise DatasetError(f"class {self.classes[min(missing)]!r} has no gesture")
        return self


def first_of(notes: list[str], most: int = 5) -> list[str]:
    """The first few notes, then how many more there are."""
    more = len(notes) - most
    return notes[:most] + ([f"and {more} more"] if more > 0 else [])


def load_shrec17(
    root: str | Path,
    classes: Classes = 28,
    *,
    unshear: bool = True,
    split: Literal["train", "test"] | None = None,
) -> Gestures:
    """SHREC'17 or DHG-14/28 under ``root``, in the official layout, as arrays.

    ``.sequences``: N arrays (T, 66) float32, metres, canonical axes (x right, y up, z to the
    user) and joint order, 30 frames a second; ``.joints(i)`` the same as (T, 22, 3); ``.labels``
    (N,) int64 from 0 in the order of ``.classes``; ``.subjects`` N strings. With 28 classes
    ``.coarse_labels`` are the 14. ``unshear`` takes out the data set's shear, so that a live
    RealSense hand matches; joint 1 is the computed palm either way, some 6 mm from the file's.
    ``split`` keeps one official list. Of DHG's sequences only the gesture is taken, as its trim
    list gives it. Raises DatasetError, and ValueError for other ``classes``.
    """
    if classes not in get_args(Classes):
        raise ValueError(f"SHREC'17 has 14 or 28 classes, not {classes!r}")
    sequences = load_shrec17_sequences(Path(root).expanduser(), unshear=unshear, split=split)
    unknown = next((s.name for s in sequences if not s.label28), None)
    if unknown is not None:
        raise DatasetError(f"{unknown}: neither a list nor its path tells its label")
    gestures = Gestures(
        "dhg" if any(s.dhg for s in sequences) else "shrec17",
        [_gesture(s) for s in sequences],
        np.array([s.label28 - 1 for s in sequences], dtype=np.int64),
        list(LABELS_28),
        [s.subject for s in sequences],
        [s.name for s in sequences],
        float(RATE_HZ),
        coarse_of=tuple(i // 2 for i in range(28)),
        coarse_classes=list(LABELS_14),
        notes=[f"{s.name}: {note}" for s in sequences for note in s.notes],
    )
    return gestures.of_coarse() if classes == 14 else gestures


def _gesture(sequence: Shrec17Sequence) -> Float32:
    """(T, 66): the frames of its segment."""
    (segment,) = sequence.segments
    joints: Float32 = sequence.joints[segment.start : segment.end + 1]
    return joints.reshape(len(joints), -1)


def load_continuous(
    name: Literal["shrec21", "shrec22"], root: str | Path, rate_hz: float = 30.0
) -> Gestures:
    """The annotated gestures of a data set of continuous recordings, each cut out by itself.

    Left hands are mirrored, times brought to ``rate_hz`` by linear interpolation; nobody says who
    performed them. Gestures of which less than MIN_CUT frames are left are noted and left out.
    Raises DatasetError.
    """
    loaded = (load_shrec21 if name == "shrec21" else load_shrec22)(Path(root).expanduser())
    classes = sorted({s.label for q in loaded for s in q.segments})
    sequences: list[Float32] = []
    labels, names, notes = [], [], []
    for q in loaded:
        joints = mirrored(q.joints) if q.side == "left" else q.joints
        time_s = (q.time_ns - q.time_ns[0]) / 1e9
        for segment in q.segments:
            part = slice(segment.start, segment.end + 1)
            cut = at_rate(joints[part].reshape(-1, 3 * N_JOINTS), time_s[part], rate_hz)
            what = f"{q.name}:{segment.start}-{segment.end}"
            far_m = float(np.abs(cut - np.median(cut, 0)).max())
            if len(cut) < MIN_CUT or far_m > GLITCH_M:
                notes.append(f"{what}: {len(cut)} frames, {far_m:.1f} m apart: left out")
                continue
            sequences.append(cut)
            labels.append(classes.index(segment.label))
            names.append(what)
    numbers = np.array(labels, dtype=np.int64)
    return Gestures(
        name, sequences, numbers, classes, [""] * len(names), names, rate_hz, notes=notes
    ).check()


def at_rate(flat: Float32, time_s: NDArray[np.float64], rate_hz: float) -> Float32:
    """(T, C) at ``time_s`` (T,) -> ``rate_hz`` frames a second from the first to the last, by
    linear interpolation."""
    at_s = time_s[0] + np.arange(int((time_s[-1] - time_s[0]) * rate_hz + 1e-6) + 1) / rate_hz
    return np.stack([np.interp(at_s, time_s, c) for c in flat.T], 1).astype(np.float32)


def case_told(what: str, names: Iterable[str]) -> list[str]:
    """A line for each name that differs from another by case alone; ``what`` they name."""
    first: dict[str, str] = {}
    found = ((first.setdefault(name.casefold(), name), name) for name in sorted(set(names)))
    return [
        f"{what} {other!r} and {name!r} count as two: meant as one?"
        for other, name in found
        if other != name
    ]


def load_recordings(
    folder: str | Path, labels: str | Path | None = None, rate_hz: float = RECORDINGS_HZ
) -> Gestures:
    """A folder of the user's own recordings, one gesture a file: MCAP, .npy, .npz or CSV.

    Arrays are (frames, channels), or (frames, joints, 2 or 3), and ``rate_hz`` frames a second; a
    CSV is a frame a line, under a line of names or none.
    MCAP has times, by which it is brought to that rate; of it the hand seen most is taken. A left
    one is mirrored, and so is its label: LEFT is the right hand's RIGHT.

    ``labels``: a CSV of ``file,label`` or ``file,label,subject`` [``labels.csv`` in the folder]; a
    first line that names these columns is skipped. 22 joints in 3 dimensions are taken as the
    canonical hand; 21 (MediaPipe), 26 (OpenXR) and 20 (SHREC'21) are mapped onto it; metres are
    expected. Anything else stays as it is and can be trained on by the reference network. Raises
    DatasetError naming file and fault.
    """
    folder = Path(folder).expanduser()
    table = Path(labels).expanduser() if labels is not None else folder / "labels.csv"
    rows = _labels(table)
    notes = []
    if others := _not_named(folder, table, [name for name, _, _ in rows]):
        notes.append(f"{others} other recordings in {folder} are not in {table.name}: left out")
    for what, column in (("label", 1), ("subject", 2)):
        notes += case_told(what, (row[column] for row in rows))
    mirror = mirror_pairs(sorted({label for _, label, _ in rows}))
    recordings, given, lost, lacks = [], [], list[str](), list[tuple[Lack, ...]]()
    for name, label, _ in rows:
        recording, side, lack = _recording(folder / name, rate_hz, lost)
        if recording.ndim not in {2, 3} or not recording.size:
            raise DatasetError(
                f"{name}: shape {recording.shape} is not (frames, channels), {MIN_FRAMES} frames "
                "or more"
            )
        with np.errstate(over="ignore"):  # what is then infinite is refused below
            recordings.append(recording.astype(np.float32))
        given.append(mirror.get(label, label) if side == "left" else label)
        lacks.append(lack)
    hands = [h for r in recordings if (h := as_hand(r)) is not None]
    canonical = len(hands) == len(recordings)
    sequences = [r.reshape(len(r), -1) for r in (hands if canonical else recordings)]
    for i, sequence in enumerate(sequences if canonical else []):
        lacks[i] = lacks[i] or lacked_depth(sequence.reshape(len(sequence), -1, 3))
    classes = sorted(set(given))
    gestures = Gestures(
        folder.name,
        sequences,
        np.array([classes.index(label) for label in given], dtype=np.int64),
        classes,
        [subject for _, _, subject in rows],
        [name for name, _, _ in rows],
        rate_hz,
        canonical,
        notes=notes,
        lacks=lacks,
    ).check()
    if lost:
        notes.append(f"in {len(lost)} recordings the hand was lost: {lost[0]}")
    empty = [int((~s.any(axis=1)).sum()) for s in sequences]
    if any(empty):
        notes.append(
            f"{sum(empty)} frames of {np.count_nonzero(empty)} recordings are all zeros, the first "
            f"in {gestures.names[int(np.argmax(np.array(empty) > 0))]}: was the hand lost?"
        )
    if canonical:
        size_m = float(np.median([np.abs(s[:, 30:33] - s[:, 0:3]).max() for s in sequences]))
        if not 0.02 < size_m < 0.5:
            notes.append(f"hands are {size_m:.3g} from wrist to knuckle: not metres?")
    else:
        rises = np.all([(np.diff(s, axis=0) > 0).all(axis=0) for s in sequences], axis=0)
        if rises.any():  # beside which joints, seen in one unit with it, would be lost
            notes.append(
                f"column {int(np.argmax(rises)) + 1} rises with every frame of all recordings: if "
                "it is a time or a frame's number, leave it out"
            )
        notes.append(f"{gestures.channels} channels are no hand: {NO_STREAM}")
    return gestures


def _not_named(folder: Path, table: Path, names: Sequence[str]) -> int:
    """How many recordings lie beside those named, of the same kinds."""
    folder, table = Path(os.path.abspath(folder)), Path(os.path.abspath(table))
    named = {Path(os.path.abspath(folder / name)) for name in names}
    kinds = {path.suffix for path in named} & set(RECORDINGS)
    beside = {p for f in {path.parent for path in named} if f.is_dir() for p in f.iterdir()}
    return sum(p.suffix in kinds for p in beside - named - {table})


def _labels(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such labels file; it holds lines 'file,label[,subject]'")
    rows: list[tuple[str, str, str]] = []
    for number, cells in read_cells(path):
        if number == 1 and cells[:2] == ["file", "label"]:
            continue
        if len(cells) not in {2, 3} or not cells[0] or not cells[1]:
            raise DatasetError(f"{path} line {number}: not 'file,label' or 'file,label,subject'")
        rows.append((cells[0], cells[1], cells[2] if len(cells) == 3 else ""))
    if not rows:
        raise DatasetError(f"{path}: names no recordings")
    twice = next((name for name, n in Counter(r[0] for r in rows).items() if n > 1), None)
    if twice is not None:
        raise DatasetError(f"{path}: names {twice} twice")
    return rows


def _recording(
    path: Path, rate_hz: float, lost: list[str]
) -> tuple[NDArray, Side, tuple[Lack, ...]]:
    """Its frames, (T, ...) at ``rate_hz`` where it tells times, the hand that they were of, and
    what that lacks; left ones are mirrored. lost: what is not taken is told there."""
    if path.suffix not in RECORDINGS:
        raise DatasetError(f"{path}: not one of {', '.join(RECORDINGS)}")
    if not path.is_file():
        raise DatasetError(f"{path}: {'a folder, no file' if path.is_dir() else 'no such file'}")
    if path.suffix == ".mcap":
        return _mcap(path, rate_hz, lost)
    return load_numbers(path), "unknown", ()


def _mcap(path: Path, rate_hz: float, told: list[str]) -> tuple[Float32, Side, tuple[Lack, ...]]:
    """The hand seen in most frames, as a right hand: its longest stretch without a gap at which
    the stream, too, would lose it."""
    hands: dict[tuple[str, Side], list[tuple[int, Hand]]] = {}
    try:
        for frame in Reader(path).frames():
            for hand in {h.side: h for h in reversed(frame.hands)}.values():
                seen = hands.setdefault((frame.device, hand.side), [])
                if not seen or frame.time_ns > seen[-1][0]:
                    seen.append((frame.time_ns, hand))
    except RecordingError as error:
        raise DatasetError(str(error)) from None
    if not hands:
        raise DatasetError(f"{path}: no hand in it")
    (_, side), seen = max(hands.items(), key=lambda item: len(item[1]))
    time_s = np.array([t - seen[0][0] for t, _ in seen]) / 1e9
    lost = np.flatnonzero(np.diff(time_s) > Segmentation().max_gap_s) + 1
    a, b = max(pairwise([0, *lost.tolist(), len(seen)]), key=lambda span: span[1] - span[0])
    if b - a < len(seen):
        told.append(f"of {path.name} the longest stretch is taken, {b - a} of {len(seen)} frames")
    joints = np.stack([hand.array() for _, hand in seen[a:b]])
    right = mirrored(joints) if side == "left" else joints
    flat = at_rate(right.reshape(len(right), -1), time_s[a:b], rate_hz)
    return flat, side, lacked(hand.lacks for _, hand in seen[a:b])


# ---- who is held out ----------------------------------------------------------------------------


def in_order(subjects: Iterable[str]) -> list[str]:
    """Each once, 9 before 10."""
    return sorted(set(subjects), key=lambda s: (len(s), s))


def fold_subjects(subjects: Sequence[str], folds: int) -> list[list[str]]:
    """Subjects in ``folds`` groups of about equally many gestures, the same at every call.

    Raises DatasetError for fewer subjects than folds.
    """
    counts = Counter(subjects)
    if "" in counts:
        raise DatasetError(f"{counts['']} gestures name no subject: folds by subject need them all")
    if not 2 <= folds <= len(counts):
        possible = f"wants 2 to {len(counts)}" if len(counts) > 1 else "wants two subjects or more"
        raise DatasetError(f"{folds} folds of {len(counts)} subjects: {possible}")
    most = -(-len(counts) // folds)
    groups: list[list[str]] = [[] for _ in range(folds)]
    for subject in sorted(counts, key=lambda s: (-counts[s], len(s), s)):
        open_groups = [g for g in groups if len(g) < most]
        min(open_groups, key=lambda g: sum(counts[s] for s in g)).append(subject)
    return groups


def divide(
    subjects: Sequence[str], held_out: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and positions held out; raises DatasetError for unknown subjects."""
    unknown = sorted(set(held_out) - set(subjects))
    if unknown:
        known = ", ".join(in_order(subjects))
        raise DatasetError(f"no subject {unknown[0]!r} in the data (there are: {known})")
    out = np.isin(np.array(subjects), list(held_out))
    if held_out and out.all():
        raise DatasetError("every subject is held out: nobody is left to train on")
    return np.flatnonzero(~out), np.flatnonzero(out)


def read_split(path: str | Path, gestures: Gestures) -> dict[str, NDArray[np.int64]]:
    """A user's split, a CSV of ``what,part``: what is a gesture's name or a subject, part is
    ``train`` or ``test`` -> positions by part. Raises DatasetError naming the line."""
    parts: dict[str, list[int]] = {"train": [], "test": []}
    taken: dict[int, int] = {}
    names = {name: [i] for i, name in enumerate(gestures.names)}
    people: dict[str, list[int]] = {}
    for i, subject in enumerate(gestures.subjects):
        people.setdefault(subject, []).append(i)
    for number, cells in read_cells(Path(path)):
        if number == 1 and cells == ["what", "part"]:
            continue
        if len(cells) != 2 or cells[1] not in parts:
            raise DatasetError(f"{path} line {number}: not 'name,train' or 'name,test'")
        found = names.get(cells[0]) or people.get(cells[0])
        if not found:
            raise DatasetError(f"{path} line {number}: no gesture and no subject {cells[0]!r}")
        for i in found:
            if i in taken:
                raise DatasetError(f"{path} line {number}: {gestures.names[i]} comes twice")
            taken[i] = number
            parts[cells[1]].append(i)
    return {part: np.array(sorted(index), dtype=np.int64) for part, index in parts.items()}
