"""How detections are scored: the benchmarks' own rules, and what matters to a user besides.

Sources: SHREC'21 (Caputo et al. 2021) and SHREC'22 (Emporio et al. 2022) contest reports. Both
average over the classes. Their Jaccard index is TP / (TP + FP + FN), which their published
figures obey; the overlap in time (as in ChaLearn) is given beside it as ``overlap``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .intervals import Interval, by_recording, byar

Rule = Literal["shrec21", "shrec22", "any"]
#: Which events are judged: those told at the gesture's end, or the labels that were told early.
Grade = Literal["confirmed", "early"]


@dataclass(frozen=True)
class Span:
    """A gesture, true or detected. Times in any one unit; ``end`` included or not, consistently.

    ``report``: when a detection was told, in the same unit.
    """

    label: str
    start: float
    end: float
    report: float = 0.0

    @property
    def length(self) -> float:
        return max(self.end - self.start, 0.0)


def overlap(a: Span, b: Span) -> float:
    """Length of the common stretch."""
    return max(min(a.end, b.end) - max(a.start, b.start), 0.0)


def meets(a: Span, b: Span) -> bool:
    """Whether they have time in common or, where one is a single frame, that frame."""
    single = not (a.length and b.length)
    return overlap(a, b) > 0 or (single and a.start <= b.end and b.start <= a.end)


def matches(truth: Span, found: Span, rule: Rule) -> bool:
    """Whether ``found`` counts as ``truth`` detected.

    shrec21: same label, more than half of the truth's length overlapped. shrec22: same label, at
    least half of it, and no more than twice as long. any: same label, any overlap. Of a single
    frame's truth the frame is all.
    """
    if truth.label != found.label or not meets(truth, found):
        return False
    common = overlap(truth, found)
    if rule == "shrec21":
        return common > 0.5 * truth.length or not truth.length
    if rule == "shrec22":
        return common >= 0.5 * truth.length and found.length <= 2 * truth.length
    return True


def pair(truths: Sequence[Span], found: Sequence[Span], rule: Rule) -> list[tuple[int, int]]:
    """(truth, detection) index pairs; each is used once, largest overlaps first."""
    options = sorted(
        (
            (-overlap(t, f), i, j)
            for i, t in enumerate(truths)
            for j, f in enumerate(found)
            if matches(t, f, rule)
        ),
    )
    pairs, used_t, used_f = [], set(), set()
    for _, i, j in options:
        if i not in used_t and j not in used_f:
            used_t.add(i)
            used_f.add(j)
            pairs.append((i, j))
    return pairs


@dataclass(frozen=True)
class ClassScore:
    """Counts of one class over all sequences."""

    label: str
    truths: int
    hits: int
    false: int
    union: float
    common: float


@dataclass(frozen=True)
class Report:
    """Scores over a set of sequences. Rates are macro-averaged where the benchmarks do so."""

    detection_rate: float
    false_positives: float
    jaccard: float
    overlap: float  #: in time: common / (truth + detected - common), macro-averaged
    delay: float  #: mean report - start of the hits, in the spans' unit
    precision: float  #: events, same label and any overlap
    recall: float
    f1: float
    false_per_hour: float  #: strays, by the hours outside the truths
    time_to_detect: float  #: mean (report - start) / length of any-overlap hits that have a length
    strays: int  #: events that meet no truth at all
    idle_h: float  #: outside the truths
    per_class: tuple[ClassScore, ...]

    def summary(self) -> dict[str, float]:
        """The figures without the table, rounded, for a model's metadata."""
        names = (
            "detection_rate false_positives jaccard overlap delay precision recall f1 "
            "false_per_hour time_to_detect"
        )
        return {name: round(float(getattr(self, name)), 4) for name in names.split()}


def score(
    truths: Sequence[Sequence[Span]],
    found: Sequence[Sequence[Span]],
    rule: Rule,
    seconds: Sequence[float] | None = None,
    gesture_s: Sequence[float] | None = None,
) -> Report:
    """Score detections against truths, one list a sequence.

    seconds: each sequence's duration, for the false events an hour. gesture_s: for how long of it
    gestures are performed, where the spans are in another unit than seconds. Averages are over the
    classes of the truths; detections of others count as false events, and have a row in the table.
    """
    tallies = _Tallies.of(truths, found, rule, seconds, gesture_s)
    return tallies.report(range(len(truths)))


def score_with_limits(
    truths: Sequence[Sequence[Span]],
    found: Sequence[Sequence[Span]],
    rule: Rule,
    seconds: Sequence[float],
    gesture_s: Sequence[float] | None = None,
) -> tuple[Report, dict[str, Interval]]:
    """``score``, and the 95 % intervals of what it tells; none of a single recording's shares."""
    tallies = _Tallies.of(truths, found, rule, seconds, gesture_s)

    def figures(of: Sequence[int]) -> dict[str, float]:
        drawn = tallies.report(of)
        asked = any(c.truths for c in drawn.per_class)
        undefined = {
            "false_per_hour",  # what happens seldom is not to be had by drawing anew
            *(["delay"] if not drawn.detection_rate else []),
            *(["time_to_detect"] if not drawn.recall else []),
        }
        # Of recordings in which nobody gestures nothing is to be found: no share of it, not 0.
        return {k: v for k, v in drawn.summary().items() if asked and k not in undefined}

    report = tallies.report(range(len(truths)))
    limits = by_recording(len(truths), figures)
    if report.idle_h:
        limits["false_per_hour"] = byar(report.strays, report.idle_h)
    return report, limits


@dataclass(frozen=True)
class _Tallies:
    """What is counted in each of R sequences, so that any of them are scored by adding up.

    classes: (R, L, 5), of each label how many truths, hits and false ones, and union and common
    time. events: (R, 7), how many hits by any overlap, events and strays; the sums of the hits'
    delays and of the times to detect, and of how many these are; the time without gestures, in s.
    """

    labels: list[str]
    classes: NDArray[np.float64]
    events: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        truths: Sequence[Sequence[Span]],
        found: Sequence[Sequence[Span]],
        rule: Rule,
        seconds: Sequence[float] | None,
        gesture_s: Sequence[float] | None,
    ) -> _Tallies:
        labels = sorted({span.label for spans in (*truths, *found) for span in spans})
        row = {label: i for i, label in enumerate(labels)}
        classes = np.zeros((len(truths), len(labels), 5))
        events = np.zeros((len(truths), 7))
        for n, (ts, fs) in enumerate(zip(truths, found, strict=True)):
            pairs, loose = pair(ts, fs, rule), pair(ts, fs, "any")
            hit = {j for _, j in pairs}
            for t in ts:
                classes[n, row[t.label]] += 1, 0, 0, t.length, 0
            for j, f in enumerate(fs):
                common = sum(overlap(t, f) for t in ts if t.label == f.label)
                classes[n, row[f.label]] += 0, 0, j not in hit, f.length - common, common
            for i, _ in pairs:
                classes[n, row[ts[i].label], 1] += 1
            strays = sum(not any(meets(t, f) for t in ts) for f in fs)
            waited = [fs[j].report - ts[i].start for i, j in pairs]
            shares = [(fs[j].report - ts[i].start) / ts[i].length for i, j in loose if ts[i].length]
            performed = sum(t.length for t in ts) if gesture_s is None else gesture_s[n]
            idle = seconds[n] - performed if seconds is not None else 0.0
            events[n] = len(loose), len(fs), strays, sum(waited), sum(shares), len(shares), idle
        return cls(labels, classes, events)

    def report(self, of: Sequence[int]) -> Report:
        """Of these sequences, some of them perhaps twice."""
        some = list(of)
        counted = self.events[some].sum(0).tolist()
        hit_any, n_found, strays, waited, shares, n_shares, idle_s = counted
        table = tuple(
            ClassScore(label, int(n), int(hits), int(false), union, common)
            for label, (n, hits, false, union, common) in zip(
                self.labels, self.classes[some].sum(0).tolist(), strict=True
            )
        )
        asked = [c for c in table if c.truths]
        n_truths = sum(c.truths for c in asked)
        hits = sum(c.hits for c in asked)
        precision = hit_any / n_found if n_found else 1.0
        recall = hit_any / n_truths if n_truths else 1.0
        idle_h = max(idle_s, 0.0) / 3600
        return Report(
            detection_rate=_mean([c.hits / c.truths for c in asked]),
            false_positives=_mean([c.false / c.truths for c in asked]),
            jaccard=_mean([c.hits / (c.truths + c.false) for c in asked]),
            overlap=_mean([c.common / c.union if c.union else 0.0 for c in asked]),
            delay=waited / hits if hits else 0.0,
            precision=precision,
            recall=recall,
            f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            false_per_hour=strays / idle_h if idle_h else 0.0,
            time_to_detect=shares / n_shares if n_shares else 0.0,
            strays=int(strays),
            idle_h=idle_h,
            per_class=table,
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def calibration_error(told: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |confidence - share right|, averaged over equal-width bins."""
    if not len(told):
        return 0.0
    at = np.minimum((told * bins).astype(int), bins - 1)
    error = 0.0
    for b in range(bins):
        mine = at == b
        if mine.any():
            error += mine.mean() * abs(told[mine].mean() - right[mine].mean())
    return float(error)
