"""What is performed in one's own recordings: a truth file, and recordings as training sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..datasets.base import DatasetError, HandSequence, Segment
from ..datasets.convert import Recording, open_recordings
from ..datasets.tables import read_cells
from ..messages import Hand, Truth
from ..segmentation import impossible
from ..skeleton import Side, lacked

#: Without the hand for longer, nothing is known of its way: a recording is cut in two there.
MAX_GAP_NS: Final = 250_000_000
MIN_FRAMES: Final = 8
#: Share of a gesture that the hand must have been seen in without a break.
LEAST_SEEN: Final = 0.7
#: A shorter piece holds no whole gesture with its begin and end, and teaches next to nothing.
MIN_PIECE_NS: Final = 500_000_000
#: So much later than the last frame a gesture may end: annotated by eye, or on a video.
LATE_NS: Final = 1_000_000_000


def read_truths(path: Path, device: str) -> list[tuple[int, Truth]]:
    """A truth file of one's own: CSV lines ``label,start_s,end_s`` (a header is allowed), seconds
    from the recording's first frame, in any order, and comments; none where nobody gestures.

    Line numbers and truths, by their begin. Raises DatasetError naming the line.
    """
    found = []
    lines = [line for line in read_cells(path) if not line[1][0].startswith("#")]
    for k, (n, cells) in enumerate(lines):
        if any(cells[3:]):
            raise DatasetError(f"{path}:{n}: wants label,start_s,end_s and nothing more")
        if k == 0 and cells[0].lower() == "label":
            continue
        found.append((n, _truth(f"{path}:{n}", cells, device)))
    found.sort(key=lambda line: line[1].onset_ns)
    for (m, one), (n, other) in pairwise(found):
        if other.onset_ns < one.offset_ns:
            raise DatasetError(
                f"{path}:{max(m, n)}: says the same as line {min(m, n)}"
                if one == other
                else f"{path}:{n}: {other.label} begins before {one.label} of line {m} has ended"
            )
    return found


def _truth(place: str, cells: list[str], device: str) -> Truth:
    try:
        label, start_s, end_s = cells[0], float(cells[1]), float(cells[2])
    except (ValueError, IndexError):
        raise DatasetError(f"{place}: wants label,start_s,end_s") from None
    if not label:
        raise DatasetError(f"{place}: the gesture has no name")
    if label.lower() == "none":
        raise DatasetError(f"{place}: {label} is no gesture: leave the line out")
    if not (0 <= start_s < 1e6 and 0 <= end_s < 1e6):  # NaN too
        raise DatasetError(f"{place}: {cells[1]} to {cells[2]} are no seconds of a recording")
    if not start_s < end_s:
        raise DatasetError(f"{place}: start must come before end")
    return Truth(device, "", label, round(start_s * 1e9), round(end_s * 1e9))


def give_truth(recording: Recording, path: Path) -> None:
    """Set a recording's truth from a file of one's own; raises DatasetError."""
    first = next(iter(recording.frames), None)
    if first is None:
        raise DatasetError(f"{recording.file}: holds no frames")
    last_ns = max(frame.time_ns for frame in recording.frames)
    lines = read_truths(path, first.device)
    for n, truth in lines:
        if truth.offset_ns + first.time_ns > last_ns + LATE_NS:
            raise DatasetError(
                f"{path}:{n}: {truth.label} ends at {truth.offset_ns / 1e9:g} s, "
                f"after the end of {recording.file.name} "
                f"({(last_ns - first.time_ns) / 1e9:.1f} s): are its times seconds?"
            )
        truth.onset_ns += first.time_ns
        truth.offset_ns += first.time_ns
    recording.truths = [truth for _, truth in lines]
    recording.silent = not lines


def truth_beside(recording: Recording) -> Path | None:
    """``NAME.csv`` beside the recording NAME, where there is one; see ``_truth_path``."""
    path = _truth_path(recording)
    return path if path.is_file() else None


def _truth_path(recording: Recording) -> Path:
    """Where a truth file belongs: that of a recording that is called ``NAME.csv`` itself is
    ``NAME.truth.csv``."""
    plain = recording.name.rpartition("/")[2]
    path = recording.file.parent / f"{plain}.csv"
    return path if path != recording.file else recording.file.parent / f"{plain}.truth.csv"


def complete(
    recordings: Iterable[Recording], tell: Callable[[str], None] = lambda _: None
) -> list[Recording]:
    """The same, each given the truth that lies beside it; tell: hears where that replaces truth of
    the recording's own."""
    out = list(recordings)
    for recording in out:
        beside = truth_beside(recording)
        if beside is not None:
            own = len(recording.truths)
            give_truth(recording, beside)
            if own:
                tell(f"{beside}: taken instead of what {recording.file.name} itself tells")
    return out


def own_recordings(root: Path, rate_hz: float | None = None) -> list[Recording]:
    """One's own recordings of a file or folder, as yet without what lies beside them.

    rate_hz: frames a second of those that do not tell their times. Where they lie in several
    folders their names are paths from ``root``: names are what they are held out and asked for by.
    Raises DatasetError.
    """
    out = list(open_recordings([root], rate_hz=rate_hz))
    if len({recording.file.parent for recording in out}) > 1:
        for recording in out:
            folder = recording.file.relative_to(root).parent
            recording.name = (folder / recording.name).as_posix()
    return out


def unknown_labels(recordings: Iterable[Recording], labels: Sequence[str], model: str) -> list[str]:
    """A line for each gesture of the recordings that is none of the model's ``labels``, with the
    one that was perhaps meant."""
    strange = sorted({t.label for r in recordings for t in r.truths} - set(labels))
    known = {label.lower(): label for label in labels}
    lines = []
    for label in strange:
        near = get_close_matches(label.lower(), known, 1)
        meant = f"; did you mean {known[near[0]]}?" if near else ""
        lines.append(f"{model} does not know {label}{meant}")
    return lines


def nothing_told(recording: Recording) -> str:
    """What is wrong with a recording without truth, and the cure."""
    truth = _truth_path(recording).name
    return (
        f"{recording.file}: says nothing of what is performed; put a {truth} of "
        "label,start_s,end_s beside it, an empty one if nobody gestures"
    )


def load_streams(
    root: Path, tell: Callable[[str], None] = lambda _: None, rate_hz: float | None = None
) -> list[HandSequence]:
    """One's own continuous recordings with truth, as training sequences.

    Any file or folder that ``hgr process`` reads; what is performed is in the recording or in a
    truth file beside it, which is empty where nobody gestures. Of each recording the hand seen
    most is taken, and cut where it was lost; the pieces are held out together. tell: as of
    ``complete``, and of ``sequences_of``; rate_hz: of ``own_recordings``. Raises DatasetError
    naming a recording without truth, or without a hand.
    """
    out: list[HandSequence] = []
    for recording in complete(own_recordings(root, rate_hz), tell):
        if not (recording.truths or recording.silent):
            raise DatasetError(nothing_told(recording))
        found = sequences_of(recording, tell)
        if not found:
            raise DatasetError(f"{recording.file}: no hand in it for {MIN_PIECE_NS / 1e9:g} s")
        out += found
    return out


def sequences_of(
    recording: Recording, tell: Callable[[str], None] = lambda _: None, *, every: bool = False
) -> list[HandSequence]:
    """The hand seen most, cut where it was lost; none where no hand was. What was seen of a gesture
    is cut out if less than ``LEAST_SEEN``: half of one must be taught neither as one nor as none.
    Gestures are the hand's unless the truth names the other side.

    tell: hears how many those are, how many pieces were too short to be of use, and which hands
    impossible, and are left out; and of another hand that is seen during gestures, which may be
    its. every: they are not, as they are not from a benchmark's own files.
    """
    hands: dict[tuple[str, Side], list[tuple[int, Hand]]] = {}
    faults: Counter[str] = Counter()
    for frame in recording.frames:
        for hand in {h.side: h for h in reversed(frame.hands)}.values():
            if not every and (fault := impossible(hand.array())):
                faults[fault[1]] += 1
                continue
            seen = hands.setdefault((frame.device, hand.side), [])
            if not seen or frame.time_ns > seen[-1][0]:
                seen.append((frame.time_ns, hand))
    if faults:
        first, *_ = faults
        tell(f"{recording.file}: {faults.total()} hands left out: {first}")
    if not hands:
        return []
    (_, side), seen = max(hands.items(), key=lambda item: len(item[1]))
    truths = [t for t in recording.truths if {t.hand, side} != {"left", "right"}]
    others = sorted({s for (_, s), at in hands.items() if at is not seen and _during(truths, at)})
    if others:
        tell(
            f"{recording.file}: the {side} hand, seen most, is learnt; during gestures the "
            f"{' and the '.join(others)} one is seen, too: are they all the {side} one's?"
        )
    time_ns = np.array([t for t, _ in seen], dtype=np.int64)
    joints = np.stack([hand.array() for _, hand in seen]).astype(np.float32)
    half = [] if every else _half_seen(truths, time_ns)
    index = np.setdiff1d(np.arange(len(time_ns)), np.concatenate([[], *half]).astype(np.int64))
    if half:
        tell(f"{recording.file}: the hand was lost in {len(half)} gestures; they are left out")
    parted = (np.diff(time_ns[index]) > MAX_GAP_NS) | (np.diff(index) > 1)
    cuts = [0, *(np.flatnonzero(parted) + 1).tolist(), len(index)]
    pieces, short = [], 0
    for k, (a, b) in enumerate(pairwise(cuts)):
        kept = index[a:b]
        part = time_ns[kept]
        if b - a < MIN_FRAMES or (part[-1] - part[0] < MIN_PIECE_NS and not every):
            short += 1
            continue
        segments = []
        for truth in truths:
            inside = np.flatnonzero((part >= truth.onset_ns) & (part <= truth.offset_ns))
            if len(inside):
                segments.append(Segment(truth.label, int(inside[0]), int(inside[-1])))
        pieces.append(
            HandSequence(
                f"{recording.name}.{k}" if len(cuts) > 2 else recording.name,
                joints[kept],
                part,
                kept,
                side,
                recording.name,
                segments,
                lacks=lacked(seen[i][1].lacks for i in kept),
                takes=recording.takes,
            )
        )
    if short:
        tell(
            f"{recording.file}: the hand was seen for under {MIN_PIECE_NS / 1e9:g} s at a time "
            f"{short} times; left out"
        )
    return pieces


def _during(truths: Sequence[Truth], seen: Sequence[tuple[int, Hand]]) -> bool:
    """Whether a hand is seen in any gesture that is not said to be another's."""
    at = np.array([t for t, _ in seen])
    spans = [(t.onset_ns, t.offset_ns) for t in truths if t.hand not in ("left", "right")]
    return any(((at >= start) & (at <= end)).any() for start, end in spans)


def _half_seen(truths: Sequence[Truth], time_ns: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Of each gesture in which a hand was lost, that was seen at ``time_ns`` (T,), the positions of
    its frames in the stretches that show too little of it."""
    gaps = np.flatnonzero(np.diff(time_ns) > MAX_GAP_NS) + 1
    stretches = np.split(np.arange(len(time_ns)), gaps)
    found = []
    for truth in truths:
        poor = []
        for stretch in stretches:
            at = time_ns[stretch]
            inside = stretch[(at >= truth.onset_ns) & (at <= truth.offset_ns)]
            seen_ns = min(truth.offset_ns, at[-1]) - max(truth.onset_ns, at[0])
            if len(inside) and seen_ns < LEAST_SEEN * (truth.offset_ns - truth.onset_ns):
                poor.append(inside)
        if poor:
            found.append(np.concatenate(poor))
    return found
