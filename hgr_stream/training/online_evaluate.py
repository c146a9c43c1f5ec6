"""A model on continuous recordings with known truth: the whole pipeline, in lock step, scored.

Nothing is shortened here: the same ``Pipeline`` as ``hgr process`` runs over the recordings, and
its events are scored by the benchmarks' own rules (in the files' frame numbers) and by what a user
feels (in seconds). Spans and delays are in frames; ``frame_s`` says how long one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..config import Config, Segmentation
from ..datasets.base import DatasetError
from ..datasets.convert import Recording
from ..datasets.numbering import FrameNumbers
from ..messages import Event
from ..pipeline import BATCH, Pipeline, recording_notes, run_recording
from ..recognition.bundle import Bundle
from ..recognition.choice import Choice
from ..recognition.recogniser import Recogniser, Scores
from ..segmentation import Segmenter, WindowSpec
from .intervals import Interval
from .metrics import Grade, Report, Rule, Span, calibration_error, pair, score_with_limits

GRADES: tuple[Grade, ...] = ("confirmed", "early")


@dataclass(frozen=True)
class FrameSpan(Span):
    """A span in frame numbers, end included, and its times in seconds of the recording."""

    start_s: float = 0.0
    end_s: float = 0.0
    report_s: float = 0.0


@dataclass
class Played:
    """One recording's truth and events."""

    name: str
    truths: list[FrameSpan]
    found: dict[Grade, list[FrameSpan]]
    confidences: dict[Grade, list[float]]
    seconds: float
    frame_s: float  #: from one frame number to the next
    events: list[Event] = field(default_factory=list)
    hand_s: float = 0.0  #: for how long a hand was in view
    notes: list[str] = field(default_factory=list)  #: what people should know of the recording

    @property
    def gesture_s(self) -> float:
        """For how long gestures are performed."""
        return sum(t.end_s - t.start_s for t in self.truths)


def play(
    bundle: Bundle,
    recording: Recording,
    config: Config | None = None,
) -> Played:
    """Run the pipeline over one recording of one device; raises DatasetError of several. config:
    a daemon's, of which [recognition] and [segmentation] hold here too."""
    config = config or Config()
    pipeline = Pipeline(bundle, config.segmentation, batch=BATCH, asked=config.recognition)
    events, devices = run_recording(pipeline, recording.frames)
    if len(devices) != 1:
        raise DatasetError(f"{recording.file}: holds {len(devices)} devices; one is wanted")
    played = judged(recording, events, next(iter(devices.values())))
    played.notes = [*recording.notes, *recording_notes(pipeline, devices)]
    return played


def judged(recording: Recording, events: list[Event], numbers: FrameNumbers) -> Played:
    """A recording's truth and its events as spans."""
    last_ns = int(numbers.times_ns[-1])

    def span(label: str, start_ns: int, end_ns: int, report_ns: int) -> FrameSpan:
        return FrameSpan(
            label,
            numbers.nearest(start_ns),
            numbers.nearest(end_ns),
            numbers.latest(report_ns),
            numbers.seconds(start_ns),
            numbers.seconds(min(end_ns, last_ns)),  # a truth may end a little after the last frame
            numbers.seconds(report_ns),
        )

    last = {e.id: e for e in events if e.final}
    found: dict[Grade, list[FrameSpan]] = {grade: [] for grade in GRADES}
    confidences: dict[Grade, list[float]] = {grade: [] for grade in GRADES}
    for event in events:
        if event.kind not in GRADES:
            continue
        # An early label is judged with the end that its gesture turned out to have; one that was
        # cancelled counts all the same: it had been told.
        final = last.get(event.id, event)
        end_ns = max(final.offset_ns or final.decided_ns, event.onset_ns)
        start_ns = event.onset_ns if event.kind == "early" else final.onset_ns
        found[event.kind].append(span(event.label, start_ns, end_ns, event.report_ns))
        confidences[event.kind].append(event.confidence)
    return Played(
        recording.name,
        [span(t.label, t.onset_ns, t.offset_ns, t.offset_ns) for t in recording.truths],
        found,
        confidences,
        numbers.seconds(last_ns),
        numbers.frame_s(),
        events,
        numbers.hand_seconds(),
    )


@dataclass
class OnlineReport:
    """Scores of one grade of events over a set of recordings."""

    benchmark: Report
    edit_accuracy: float  #: 1 - Levenshtein distance of the label sequences / length of the truth
    commit_lag_ms: float  #: median report - true end (confirmed) or true start (early)
    calibration_error: float  #: expected, ten bins of told confidence against being right
    intervals: dict[str, Interval]  #: 95 %, of what ``benchmark`` tells; empty for one recording

    def summary(self) -> dict[str, Any]:
        return {
            **self.benchmark.summary(),
            "edit_accuracy": round(self.edit_accuracy, 4),
            "commit_lag_ms": round(self.commit_lag_ms, 1),
            "calibration_error": round(self.calibration_error, 4),
        }


def report(played: Sequence[Played], grade: Grade, rule: Rule) -> OnlineReport:
    """Score recordings that have been played."""
    truths = [p.truths for p in played]
    found = [p.found[grade] for p in played]
    lags, told, right = [], [], []
    for p in played:
        pairs = pair(p.truths, p.found[grade], "any")
        hits = {j for _, j in pairs}
        for i, j in pairs:
            since_s = p.truths[i].end_s if grade == "confirmed" else p.truths[i].start_s
            lags.append((p.found[grade][j].report_s - since_s) * 1e3)
        told += p.confidences[grade]
        right += [j in hits for j in range(len(p.found[grade]))]
    lengths = sum(len(t) for t in truths)
    edits = sum(
        edit_distance([s.label for s in sorted(t, key=_start)], [s.label for s in f])
        for t, f in zip(truths, found, strict=True)
    )
    seconds, gesture_s = [p.seconds for p in played], [p.gesture_s for p in played]
    benchmark, intervals = score_with_limits(truths, found, rule, seconds, gesture_s)
    return OnlineReport(
        benchmark,
        1.0 - edits / max(lengths, 1),
        float(np.median(lags)) if lags else 0.0,
        calibration_error(np.array(told), np.array(right, dtype=bool)),
        intervals,
    )


def _start(span: Span) -> float:
    return span.start


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance between two sequences of labels."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def evaluate(
    bundle: Bundle,
    recordings: Iterable[Recording],
    rule: Rule,
    *,
    config: Config | None = None,
    shared: bool = False,
    silent: bool = False,
    watch: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[list[Played], dict[Grade, OnlineReport]]:
    """Play every recording and score both grades; raises DatasetError when there is no truth.

    config: see ``play``. shared: gestures that the model does not know, or the config does not
    tell, are not asked for. silent: the recordings hold no gesture, so that every event is a false
    one. tell: hears what people should know of the recordings, such as hands that are refused.
    """
    choice = Choice((config or Config()).recognition)
    told = {label for label in bundle.metadata.labels if choice.wanted(label)}
    played = []
    for recording in recordings:
        watch(recording.name)
        one = play(bundle, recording, config)
        for note in one.notes:
            tell(f"{one.name}: {note}")
        if shared:
            one.truths = [t for t in one.truths if t.label in told]
        if silent:
            one.truths = []
        played.append(one)
    if not silent and not any(p.truths for p in played):
        raise DatasetError(
            "none of these recordings says what is performed in it: put a NAME.csv of "
            "label,start_s,end_s beside each, a NAME.truth.csv where NAME.csv is the recording "
            "(or --truth; or --silent if nobody gestures)"
        )
    return played, {grade: report(played, grade, rule) for grade in GRADES}


# -- pictures -----------------------------------------------------------------------------------


#: Inches, at ``DPI`` dots: a wider picture takes gigabytes, and few programs show it.
WIDEST: Final = 250.0
DPI: Final = 110


def timeline(
    bundle: Bundle,
    recording: Recording,
    played: Played,
    path: Path,
    segmentation: Segmentation | None = None,
) -> None:
    """Truth above, events below, scores behind, as a PNG. segmentation: as the events were made."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # not pyplot: a notebook's own backend is left alone

    labels = bundle.metadata.labels
    colours = {label: colormaps["tab20"](i % 20) for i, label in enumerate(labels)}
    width = min(max(8.0, played.seconds / 4), WIDEST)
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    axes = figure.subplots()
    for times, probs in _scores(bundle, recording, segmentation):
        for i, label in enumerate(labels):
            axes.plot(times, probs[:, i + 1], color=colours[label], lw=0.8, alpha=0.7)
    first_ns = _first_ns(recording)
    for truth in recording.truths:
        start_s, end_s = (truth.onset_ns - first_ns) / 1e9, (truth.offset_ns - first_ns) / 1e9
        _bar(axes, start_s, end_s, 1.08, truth.label, colours.get(truth.label, "grey"))
    for event in played.events:
        at_s, end_s = (event.onset_ns - first_ns) / 1e9, (event.offset_ns - first_ns) / 1e9
        if event.kind == "confirmed":
            _bar(axes, at_s, end_s, -0.22, event.label, colours[event.label])
        elif event.kind == "early":
            told_s = (event.decided_ns - first_ns) / 1e9
            axes.plot([told_s], [-0.04], "v", color=colours[event.label], ms=6)
    axes.set_ylim(-0.28, 1.26)
    axes.set_xlim(0, max(played.seconds, 0.1))
    axes.set_yticks([-0.15, 0, 0.5, 1.0, 1.15], ["told", "0", "0.5", "1", "truth"])
    axes.set_xlabel("seconds")
    axes.set_title(f"{recording.name}: {bundle.metadata.name} (triangles: label told early)")
    figure.savefig(path, dpi=DPI)


def _bar(axes: Any, start_s: float, end_s: float, y: float, label: str, colour: Any) -> None:
    axes.barh(y + 0.07, end_s - start_s, left=start_s, height=0.14, color=colour, alpha=0.85)
    axes.text((start_s + end_s) / 2, y + 0.07, label, ha="center", va="center", fontsize=7)


def _first_ns(recording: Recording) -> int:
    return next(iter(recording.frames)).time_ns


def _scores(
    bundle: Bundle, recording: Recording, segmentation: Segmentation | None
) -> list[tuple[NDArray[np.float64], NDArray]]:
    """(n,) seconds and (n, 1+C) probabilities of every tick, of each unbroken track by itself; by
    what is told, which of a mirrored hand is another label than the network's."""
    m = bundle.metadata
    segmenter = Segmenter(WindowSpec(m.rate_hz, m.size, m.hop), segmentation)
    recogniser = Recogniser(bundle)
    tracks: dict[str, list[Scores]] = {}
    for frame in recording.frames:
        for scores in recogniser.push(segmenter.push(frame)):
            if not scores.window.ended:
                tracks.setdefault(scores.window.track, []).append(scores)
    first_ns, found = _first_ns(recording), []
    for track in tracks.values():
        side = track[0].window.side
        told = [0, *(1 + m.labels.index(m.told(label, side)) for label in m.labels)]
        times = np.concatenate([(s.times_ns - first_ns) / 1e9 for s in track])
        found.append((times, np.concatenate([s.probs for s in track])[:, told]))
    return found
