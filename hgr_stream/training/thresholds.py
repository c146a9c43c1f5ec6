"""Thresholds for a wanted rate of false events an hour, from recordings with known truth.

The pipeline runs once with the model's own thresholds; then, while there are too many false
events, the threshold is raised that loses the fewest true ones for each false one it removes. None
is ever lowered: a recording without false events is no reason to be less strict elsewhere. What the
chosen thresholds bring is measured by running again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Recognition
from ..datasets.convert import Recording
from ..recognition.bundle import Bundle
from ..recognition.choice import settings
from .metrics import overlap, pair
from .online_evaluate import OnlineReport, Played, play, report


@dataclass(frozen=True)
class Candidate:
    """A confirmed event: how sure, and whether it was one (``stray``: it touches no gesture)."""

    label: str
    confidence: float
    right: bool
    stray: bool


@dataclass
class Tuned:
    """The thresholds, and the recordings' figures without and with them."""

    threshold: dict[str, float]
    before: OnlineReport
    after: OnlineReport


def candidates(played: Sequence[Played]) -> list[Candidate]:
    """Every confirmed event of the recordings, judged by any overlap with the right label."""
    out = []
    for p in played:
        found = p.found["confirmed"]
        right = {j for _, j in pair(p.truths, found, "any")}
        for j, (span, confidence) in enumerate(zip(found, p.confidences["confirmed"], strict=True)):
            stray = all(overlap(truth, span) == 0 for truth in p.truths)
            out.append(Candidate(span.label, confidence, j in right, stray))
    return out


def choose(found: Sequence[Candidate], allowed: int) -> dict[str, float]:
    """Thresholds under which at most ``allowed`` strays are left; gesture -> least confidence."""
    threshold: dict[str, float] = {}
    kept = list(found)
    while sum(c.stray for c in kept) > allowed:
        best: tuple[float, str, float] | None = None
        for label in {c.label for c in kept if c.stray}:
            mine = [c for c in kept if c.label == label]
            for stray in (c for c in mine if c.stray):
                gone = [c for c in mine if c.confidence <= stray.confidence]
                cost = sum(c.right for c in gone) / sum(c.stray for c in gone)
                if best is None or (cost, label) < best[:2]:
                    best = (cost, label, stray.confidence)
        assert best is not None
        _, label, at = best
        above = min((c.confidence for c in kept if c.label == label and c.confidence > at),
                    default=1.0)  # fmt: skip
        threshold[label] = round(min((at + above) / 2, 1.0), 4)
        kept = [c for c in kept if c.label != label or c.confidence > at]
    return threshold


def tune(bundle: Bundle, recordings: Sequence[Recording], false_per_hour: float) -> Tuned:
    """Find thresholds for at most so many false events an hour of these recordings' idle time."""
    base = bundle.metadata.decoder
    played = [play(bundle, r) for r in recordings]
    before = report(played, "confirmed", "any")
    idle_s = sum(p.seconds - p.frame_s * sum(truth.length for truth in p.truths) for p in played)
    threshold = choose(candidates(played), int(false_per_hour * max(idle_s, 0.0) / 3600))
    chosen = settings(bundle.metadata, Recognition(threshold=threshold), base)
    after = report([play(bundle, r, chosen) for r in recordings], "confirmed", "any")
    return Tuned(threshold, before, after)
