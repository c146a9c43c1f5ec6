"""Each gesture's least confidence, chosen on recordings with known truth.

For *few false events*: while there are too many, the threshold is raised that loses the fewest true
events for each false one it removes; of several, and where nobody gestures, that of the least sure
false event. None is lowered: a recording without false events is no reason to be less strict
elsewhere. False events that are as sure as can be no threshold refuses: their gestures are told.

For *F1*, as on a sensor that the model never saw: there the network still names most gestures, but
its verifier is less sure of them, and right ones are refused. Thresholds are lowered as well as
raised. Each gesture gets the one that its own events, and with a weight of ``PRIOR`` of them those
of all gestures, are best parted by; a gesture that was not performed gets that of all. What it is
worth is told by cross-validation over recordings. If it clearly loses there, nothing is changed;
a little is not believed, because the folds choose on still fewer recordings (measured: it lost .02
to .05 where the recordings to come then won .03 to .04).

The network runs once; other thresholds are tried on its ``tape``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from ..config import Config, Recognition
from ..datasets.convert import Recording
from ..recognition.bundle import Bundle
from ..recognition.choice import Choice
from .metrics import meets, pair
from .online_evaluate import OnlineReport, Played, judged, report
from .tape import Tape, tape

#: How many of a gesture's own events those of all gestures weigh.
PRIOR: Final = 10.0
FOLDS: Final = 4
LEAST_RECORDINGS: Final = 3  #: for cross-validation
CLEAR_LOSS: Final = 0.05  #: of F1, in cross-validation
SUREST: Final = 1.0  #: what is so sure is refused by no threshold
NONE: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Candidate:
    """A confirmed event: how sure, and whether it was one (``stray``: it touches no gesture)."""

    label: str
    confidence: float
    right: bool
    stray: bool


@dataclass
class Tuned:
    """The thresholds chosen, and the recordings' figures without and with them.

    usual_f1, expected_f1: on recordings that were not used for choosing, without and with them;
    None where that was not asked for, or there are too few recordings. unrefused: gestures of which
    there are more false events than allowed, and no threshold refuses them.
    """

    threshold: dict[str, float]
    before: OnlineReport
    after: OnlineReport
    usual_f1: float | None = None
    expected_f1: float | None = None
    unrefused: list[str] = field(default_factory=list)


def candidates(played: Sequence[Played]) -> list[Candidate]:
    """Every confirmed event of the recordings, judged by any overlap with the right label."""
    out = []
    for p in played:
        found = p.found["confirmed"]
        right = {j for _, j in pair(p.truths, found, "any")}
        for j, (span, confidence) in enumerate(zip(found, p.confidences["confirmed"], strict=True)):
            stray = not any(meets(truth, span) for truth in p.truths)
            out.append(Candidate(span.label, confidence, j in right, stray))
    return out


def choose(found: Sequence[Candidate], allowed: int) -> dict[str, float]:
    """Thresholds under which at most ``allowed`` strays are left, or of the ``SUREST`` as many as
    there are; gesture -> least confidence."""
    threshold: dict[str, float] = {}
    kept = list(found)
    while sum(c.stray for c in kept) > allowed:
        best: tuple[float, float, str] | None = None
        for label in {c.label for c in kept if c.stray}:
            mine = [c for c in kept if c.label == label]
            for stray in (c for c in mine if c.stray and c.confidence < SUREST):
                gone = [c for c in mine if c.confidence <= stray.confidence]
                cost = sum(c.right for c in gone) / sum(c.stray for c in gone)
                better = (cost, stray.confidence, label)
                best = better if best is None else min(best, better)
        if best is None:
            break
        _, at, label = best
        above = min((c.confidence for c in kept if c.label == label and c.confidence > at),
                    default=SUREST)  # fmt: skip
        between = round((at + above) / 2, 4)
        threshold[label] = between if at < between <= above else above
        kept = [c for c in kept if c.label != label or c.confidence > at]
    return threshold


def unrefused(found: Sequence[Candidate], allowed: int) -> list[str]:
    """Gestures whose strays are the ``SUREST``, if those alone are more than ``allowed``."""
    sure = [c.label for c in found if c.stray and c.confidence >= SUREST]
    return sorted(set(sure)) if len(sure) > allowed else []


def best_f1(found: Sequence[Candidate], labels: Sequence[str]) -> dict[str, float]:
    """Every gesture's threshold for the highest F1, from events that nothing was refused of."""
    at = np.linspace(0.02, 0.9, 45)
    sure = np.array([c.confidence for c in found])
    # A true event won for a false one suffered: near F1's optimum that is about the exchange rate.
    gain = np.where(np.array([c.right for c in found], dtype=bool), 1.0, -1.0)
    worth = (sure[:, None] >= at) * gain[:, None]
    every = worth.sum(0) / max(len(found), 1)
    threshold = {}
    for label in labels:
        mine = np.array([c.label == label for c in found], dtype=bool)
        value = worth[mine].sum(0) + PRIOR * every
        # Of a plateau the middle: the next recording will not repeat this one to the digit.
        good = np.flatnonzero(value >= value.max() - 1e-9)
        threshold[label] = round(float(at[good[len(good) // 2]]), 3)
    return threshold


def tune(
    bundle: Bundle,
    recordings: Sequence[Recording],
    false_per_hour: float | None,
    *,
    for_f1: bool = False,
    config: Config | None = None,
    watch: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Find thresholds: for the highest F1 if asked for, then for at most so many false events an
    hour of these recordings' idle time unless that is None. config: a daemon's, of which
    [recognition] and [segmentation] hold here too; its own thresholds are where the search begins.
    tell: hears what people should know of the recordings, such as hands that are refused.
    """
    config = config or Config()
    asked, tapes = config.recognition, []
    for recording in recordings:
        watch(recording.name)
        tapes.append(tape(bundle, recording, config.segmentation))
        for note in tapes[-1].notes:
            tell(f"{recording.name}: {note}")
    before = report(_played(tapes, asked), "confirmed", "any")
    threshold: dict[str, float] = {}
    usual = expected = None
    too_sure: list[str] = []
    if for_f1:
        threshold = _for_f1(tapes, asked)
        if len(tapes) >= LEAST_RECORDINGS:
            watch("cross-validation")
            usual, expected = _cross_validated(tapes, asked)
            if expected < usual - CLEAR_LOSS:
                threshold = {}
    if false_per_hour is not None:
        threshold, too_sure = _quiet(tapes, asked, threshold, false_per_hour)
    after = report(_played(tapes, asked, threshold), "confirmed", "any")
    return Tuned(threshold, before, after, usual, expected, too_sure)


def _quiet(
    tapes: Sequence[Tape], asked: Recognition, threshold: Mapping[str, float], false_per_hour: float
) -> tuple[dict[str, float], list[str]]:
    """``threshold`` raised until no more events are false than that, and what is ``unrefused``."""
    chosen = dict(threshold)
    while True:
        played = _played(tapes, asked, chosen)
        idle_s = sum(p.seconds - p.gesture_s for p in played)
        allowed = int(false_per_hour * max(idle_s, 0.0) / 3600)
        found = candidates(played)
        higher = choose(found, allowed)
        if not higher:
            return chosen, unrefused(found, allowed)
        # A high threshold is also the early label's: without one a gesture may come otherwise, and
        # another event be false than were seen. So it is played again.
        chosen |= higher


def _for_f1(tapes: Sequence[Tape], asked: Recognition) -> dict[str, float]:
    choice = Choice(asked)
    labels = [label for label in tapes[0].bundle.metadata.labels if choice.wanted(label)]
    return best_f1(candidates(_played(tapes, asked, dict.fromkeys(labels, 0.0))), labels)


def _cross_validated(tapes: Sequence[Tape], asked: Recognition) -> tuple[float, float]:
    """F1 on recordings left out of the choice: with the model's own thresholds, and with chosen."""
    own: list[Played] = []
    chosen: list[Played] = []
    folds = min(FOLDS, len(tapes))
    for k in range(folds):
        out = tapes[k::folds]
        others = [t for i, t in enumerate(tapes) if i % folds != k]
        own += _played(out, asked)
        chosen += _played(out, asked, _for_f1(others, asked))
    return _f1(own), _f1(chosen)


def _played(
    tapes: Sequence[Tape], asked: Recognition, threshold: Mapping[str, float] = NONE
) -> list[Played]:
    """The recordings judged as ``asked``, with these thresholds instead of those there; gestures
    that the model does not know, or that are not told, are not asked for."""
    asked = msgspec.structs.replace(asked, threshold={**asked.threshold, **threshold})
    out = []
    for t in tapes:
        metadata, choice = t.bundle.metadata, Choice(asked)
        p = judged(t.recording, t.events(asked=asked), t.numbers)
        p.truths = [
            truth
            for truth in p.truths
            if truth.label in metadata.labels and choice.wanted(truth.label)
        ]
        out.append(p)
    return out


def _f1(played: Sequence[Played]) -> float:
    """Of confirmed events, any overlap, pooled."""
    hits = sum(len(pair(p.truths, p.found["confirmed"], "any")) for p in played)
    both = sum(len(p.truths) + len(p.found["confirmed"]) for p in played)
    return 2 * hits / both if both else 1.0
