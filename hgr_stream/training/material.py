"""Data sets for online models by name: continuous ones as they are, isolated ones spliced."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..datasets.base import DatasetError, HandSequence
from ..datasets.convert import Recording
from ..datasets.gestures import (
    RECORDINGS_HZ,
    Gestures,
    case_told,
    first_of,
    load_recordings,
    load_shrec17,
)
from ..datasets.shrec21 import load_shrec21
from ..datasets.shrec22 import load_shrec22
from ..datasets.stream_frames import StreamFrames, truths_of
from .learnt import fingerprint
from .splice import SpliceRule, idle_clips, splice
from .truth import load_streams

Tell = Callable[[str], None]
#: The part of a data set in a name: shrec21_online_train, training_set; not "latest".
_PART: Final = re.compile(r"(?<![a-z])(train|test)")

#: What tells its times has no use for the rate, which is None where nobody says one.
CONTINUOUS: Final[dict[str, Callable[[Path, float | None, Tell], list[HandSequence]]]] = {
    "shrec21": lambda root, rate_hz, tell: load_shrec21(part_of(root, "train")),
    "shrec22": lambda root, rate_hz, tell: load_shrec22(part_of(root, "train")),
    "streams": lambda root, rate_hz, tell: load_streams(root, tell, rate_hz),
}
ISOLATED: Final[dict[str, Callable[[Path, float | None], Gestures]]] = {
    "shrec17": lambda root, rate_hz: _shrec17(root, "train"),
    "recordings": lambda root, rate_hz: load_recordings(root, rate_hz=rate_hz or RECORDINGS_HZ),
}


def load(
    sources: Sequence[tuple[str, Path]],
    *,
    same: Mapping[str, str] | None = None,
    usual: Mapping[str, str] | None = None,
    rule: SpliceRule | None = None,
    seed: int = 0,
    rate_hz: float | None = None,
    watch: Tell = lambda _: None,
    tell: Tell = lambda _: None,
) -> list[HandSequence]:
    """All sequences of one or more data sets, each ``(name, folder)``.

    Isolated gestures are spliced into streams, with the idle stretches of the continuous sets among
    the sources. same: gestures that are called otherwise, old name -> new; usual: those that were
    before, and need not be there. Where there are several sources, names and subjects begin with
    the source's. rate_hz: frames a second of one's own recordings that do not tell their times.
    watch: gets what is being done; tell: what a person should know of one's own recordings. Raises
    DatasetError.
    """
    same = same or {}
    found: dict[int, list[HandSequence]] = {}
    begun: dict[str, str] = {}
    for i, (name, root) in enumerate(sources):
        if name in CONTINUOUS:
            watch(f"reading {name}")
            found[i] = _once(CONTINUOUS[name](root, rate_hz, tell), begun, tell)
    idle = idle_clips(q for sequences in found.values() for q in sequences)
    for i, (name, root) in enumerate(sources):
        if name in ISOLATED:
            gestures = _isolated(name, root, rate_hz, watch, tell)
            watch(f"splicing {name}: {len(gestures)} gestures")
            found[i] = splice(gestures, rule, idle=idle, seed=seed)
    known = {s.label for sequences in found.values() for q in sequences for s in q.segments}
    strange = sorted(set(same) - known)
    if strange:
        raise DatasetError(
            f"no gesture is called {strange[0]!r}; there are {', '.join(sorted(known))}"
        )
    called = {**(usual or {}), **same}
    out: list[HandSequence] = []
    for i, (name, _) in enumerate(sources):
        # Each counts its sequences from 1, and by their names they are held out.
        before = sum(other == name for other, _ in sources[:i])
        source = f"{name}.{before + 1}" if before else name
        for q in found[i]:
            if len(sources) > 1:
                q.name = f"{source}:{q.name}"
                q.subject = f"{name}:{q.subject}" if q.subject else ""
            q.segments = [replace(s, label=called.get(s.label, s.label)) for s in q.segments]
            out.append(q)
    if [name for name, _ in sources] != ["recordings"]:  # which tell it themselves
        for note in case_told("label", (s.label for q in out for s in q.segments)):
            tell(note)
    return out


def _isolated(name: str, root: Path, rate_hz: float | None, watch: Tell, tell: Tell) -> Gestures:
    watch(f"reading {name}")
    gestures = ISOLATED[name](root, rate_hz)
    for note in first_of(gestures.notes):
        tell(note)
    return gestures


def _once(
    sequences: Sequence[HandSequence], known: dict[str, str], tell: Tell
) -> list[HandSequence]:
    """Copies of a recording are left out: one might be learnt, and another judge. known: names of
    those before, by fingerprint; it grows."""
    kept = []
    for q in sequences:
        mark = fingerprint(q)
        if mark in known:
            tell(f"left out: {q.name} begins as {known[mark]} does: a copy, or a part of it")
        else:
            known[mark] = q.name
            kept.append(q)
    return kept


def load_beside(
    sources: Sequence[tuple[str, Path]],
    own: Sequence[HandSequence],
    *,
    rule: SpliceRule | None = None,
    seed: int = 0,
    rate_hz: float | None = None,
    watch: Tell = lambda _: None,
    tell: Tell = lambda _: None,
) -> dict[str, list[HandSequence]]:
    """Data sets by name that are learnt beside ``own``, whose idle stretches isolated gestures are
    spliced with; those of one name are one. rate_hz: see ``load``. Raises DatasetError."""
    found: dict[str, list[HandSequence]] = {}
    for name, root in sources:
        if name in CONTINUOUS:
            watch(f"reading {name}")
            sequences = CONTINUOUS[name](root, rate_hz, tell)
        else:
            gestures = _isolated(name, root, rate_hz, watch, tell)
            sequences = splice(gestures, rule, idle=idle_clips(own), seed=seed)
        found.setdefault(name, []).extend(sequences)
    return found


def spliced_recordings(
    name: str, root: Path, split: str, seed: int = 0, rate_hz: float | None = None
) -> list[Recording]:
    """An isolated data set as continuous recordings with truth, each gesture once.

    split: which official list of SHREC'17 is taken; other sets have none. rate_hz: see ``load``.
    Raises DatasetError.
    """
    gestures = _shrec17(root, split) if name == "shrec17" else ISOLATED[name](root, rate_hz)
    sequences = splice(gestures, SpliceRule(rounds=1), seed=seed)
    return [recording_of(q, root, name) for q in sequences]


def recording_of(sequence: HandSequence, file: Path, device: str) -> Recording:
    """A sequence as the recording of a device, with its segments as truth."""
    frames, truths = StreamFrames(sequence, device), truths_of(sequence, device)
    return Recording(sequence.name, file, frames, truths, sequence.notes, takes=sequence.takes)


def _shrec17(root: Path, split: str) -> Gestures:
    """One official list's gestures; where there are no lists (DHG), all of them."""
    listed = any(root.rglob("t*_gestures.txt"))
    return load_shrec17(
        root, 14, split=("test" if split == "test" else "train") if listed else None
    )


def part_of(root: Path, split: str) -> Path:
    """The folder of the wanted part, where ``root`` holds both under names with "train" and "test"
    in them; else ``root`` itself. Each part counts its sequences from 1."""
    if not root.is_dir():
        return root
    folders = [p for p in sorted(root.rglob("*")) if p.is_dir()]
    parts = {
        name: [p for p in folders if name in p.name.lower() and _holds_data(p)]
        for name in ("train", "test")
    }
    return parts[split][0] if all(parts.values()) else root


def part_told(root: Path, split: str) -> tuple[Path, str | None]:
    """``part_of``, and ``split`` where names in the folder tell that it is that part, else None.

    Raises DatasetError where they tell that it is the other part alone.
    """
    part = part_of(root, split)
    folder = part.resolve() if part.is_dir() else part.resolve().parent
    names = [folder.name, *(p.name for p in folder.rglob("*") if p.suffix == ".txt" or p.is_dir())]
    told = {m[1] for name in names if (m := _PART.search(name.lower()))}
    if len(told) == 1 and split not in told:
        (other,) = told
        raise DatasetError(f"{root}: holds the {other} part alone: --split {other}")
    return part, split if told == {split} else None


def _holds_data(folder: Path) -> bool:
    return any(p.suffix in {".txt", ".npz"} for p in folder.rglob("*"))
