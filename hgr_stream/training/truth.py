"""What is performed in one's own recordings: a truth file, and recordings as training sequences."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from ..datasets.base import DatasetError, HandSequence, Segment
from ..datasets.convert import Recording, open_recordings
from ..messages import Truth
from ..skeleton import Float32, Side

#: Without the hand for longer, a recording is cut in two: a line across tells nothing.
MAX_GAP_NS: Final = 250_000_000
MIN_FRAMES: Final = 8


def truths_of(path: Path, device: str) -> list[Truth]:
    """A truth file of one's own: CSV lines ``label,start_s,end_s`` (a header is allowed), seconds
    from the recording's first frame. Raises DatasetError naming the line."""
    truths = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for n, row in enumerate(csv.reader(file), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or cells[0].startswith("#") or (n == 1 and cells[0] == "label"):
                    continue
                try:
                    label, start_s, end_s = cells[0], float(cells[1]), float(cells[2])
                except (ValueError, IndexError):
                    raise DatasetError(f"{path}:{n}: wants label,start_s,end_s") from None
                if not (label and 0 <= start_s < end_s < 1e6):
                    raise DatasetError(f"{path}:{n}: start must come before end")
                truths.append(Truth(device, "", label, round(start_s * 1e9), round(end_s * 1e9)))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file (byte {error.start})") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    return truths


def give_truth(recording: Recording, path: Path) -> None:
    """Set a recording's truth from a file of one's own; raises DatasetError."""
    first = next(iter(recording.frames), None)
    if first is None:
        raise DatasetError(f"{recording.file}: holds no frames")
    recording.truths = truths_of(path, first.device)
    last_ns = max(frame.time_ns for frame in recording.frames)
    for truth in recording.truths:
        truth.onset_ns += first.time_ns
        truth.offset_ns += first.time_ns
        if truth.onset_ns > last_ns:
            raise DatasetError(
                f"{path}: {truth.label} begins at {(truth.onset_ns - first.time_ns) / 1e9:g} s, "
                f"after the end of {recording.file.name} "
                f"({(last_ns - first.time_ns) / 1e9:.1f} s): are its times seconds?"
            )


def truth_beside(recording: Recording) -> Path | None:
    """``NAME.csv`` beside the recording NAME, where there is one."""
    path = recording.file.parent / f"{recording.name}.csv"
    return path if path.is_file() and path != recording.file else None


def complete(recordings: Iterable[Recording]) -> list[Recording]:
    """The same, those without a truth of their own given the one that lies beside them."""
    out = list(recordings)
    for recording in out:
        beside = None if recording.truths else truth_beside(recording)
        if beside is not None:
            give_truth(recording, beside)
    return out


def load_streams(root: Path) -> list[HandSequence]:
    """One's own continuous recordings with truth, as training sequences.

    Any file or folder that ``hgr process`` reads; what is performed is in the recording or in a
    ``NAME.csv`` beside it. Of each recording the hand seen most is taken, and cut where it was
    lost; the pieces are held out together. Raises DatasetError naming a recording without truth.
    """
    out: list[HandSequence] = []
    for recording in complete(open_recordings([root])):
        if not recording.truths:
            raise DatasetError(
                f"{recording.file}: says nothing of what is performed; put a "
                f"{recording.name}.csv of label,start_s,end_s beside it"
            )
        found = sequences_of(recording)
        if not found:
            raise DatasetError(f"{recording.file}: no hand in it")
        out += found
    return out


def sequences_of(recording: Recording) -> list[HandSequence]:
    """The hand seen most, cut where it was lost; none where no hand was."""
    hands: dict[tuple[str, Side], list[tuple[int, Float32]]] = {}
    for frame in recording.frames:
        for hand in {h.side: h for h in reversed(frame.hands)}.values():
            seen = hands.setdefault((frame.device, hand.side), [])
            if not seen or frame.time_ns > seen[-1][0]:
                seen.append((frame.time_ns, hand.array()))
    if not hands:
        return []
    (_, side), seen = max(hands.items(), key=lambda item: len(item[1]))
    time_ns = np.array([t for t, _ in seen], dtype=np.int64)
    joints = np.stack([j for _, j in seen]).astype(np.float32)
    cuts = [0, *(np.flatnonzero(np.diff(time_ns) > MAX_GAP_NS) + 1).tolist(), len(time_ns)]
    pieces = []
    for k, (a, b) in enumerate(pairwise(cuts)):
        if b - a < MIN_FRAMES:
            continue
        part = time_ns[a:b]
        notes, segments = [], []
        for truth in recording.truths:
            inside = np.flatnonzero((part >= truth.onset_ns) & (part <= truth.offset_ns))
            lasted_ns = truth.offset_ns - truth.onset_ns
            if not len(inside):
                continue
            seen_ns = int(part[inside[-1]] - part[inside[0]])
            if seen_ns < 0.7 * lasted_ns:
                # Half a gesture must be taught neither as one nor as none: see ``to_streams``.
                notes.append(f"annotation {truth.label}: the hand was lost in it")
            else:
                segments.append(Segment(truth.label, int(inside[0]), int(inside[-1])))
        pieces.append(
            HandSequence(
                f"{recording.name}.{k}" if len(cuts) > 2 else recording.name,
                joints[a:b],
                part,
                np.arange(a, b, dtype=np.int64),
                side,
                recording.name,
                segments,
                notes,
            )
        )
    return pieces
