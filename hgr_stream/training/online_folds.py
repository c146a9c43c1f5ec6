"""How good a model for streams is on recordings that it has not seen: cross-validation.

Folds are of whole recordings, or people where these are known, and each is judged by a model that
was made without it: neither its weights nor its settings have seen what it is judged on. What is
held out within a training (``recipe``) chooses its settings, and flatters it. One thing is not left
out: isolated gestures are spliced (``splice``) with idle stretches of all continuous recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ..datasets.base import HandSequence
from ..recognition.options import DecoderOptions, Metadata
from .intervals import rounded
from .learnt import Learnt
from .metrics import Grade, Report, Span, score_with_limits
from .recipe import SCORED, Outcome, Recipe, Trained, Watch, refuse_shared, train_online
from .streams import Stream, labels_of, to_streams
from .validate import decode, scored, spans, truths


@dataclass
class Judged:
    """Recordings that a model had not seen, with what is performed and what it told, in seconds."""

    truths: list[list[Span]] = field(default_factory=list)
    found: dict[Grade, list[list[Span]]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(
        self,
        trained: Trained,
        options: DecoderOptions,
        m: Metadata,
        streams: Sequence[Stream],
        labels: Sequence[str],
    ) -> None:
        """Judge one model, with the settings ``options``, on streams whose marks are ``labels``."""
        for item in scored(trained.net, streams, m.rate_hz, m.temperature, m.verify_temperature):
            self.truths.append(truths(item.stream, labels))
            self.seconds.append(item.stream.seconds)
            events = decode(item, options, m.labels, m.rate_hz, trained.verifier, trained.dater)
            for _, grade in SCORED:
                self.found.setdefault(grade, []).append(spans(events, grade))

    def told(self, name: str) -> tuple[dict[str, Report], dict[str, Any]]:
        """Reports of both grades of events, by ``name`` and ``name_early``; and for a model's
        metadata, with 95 % intervals."""
        reports, scores = {}, {}
        for rule, grade in SCORED:
            key = name if grade == "confirmed" else f"{name}_{grade}"
            found = self.found[grade]
            reports[key], limits = score_with_limits(self.truths, found, rule, self.seconds)
            scores[key] = {**reports[key].summary(), "intervals": rounded(limits)}
        return reports, scores


def folds_of(streams: Sequence[Stream], folds: int, seed: int) -> list[list[Stream]]:
    """So many parts of whole groups; none where there are fewer groups with gestures."""
    groups: dict[tuple[str, str], list[Stream]] = {}
    for s in streams:
        groups.setdefault((s.group, "" if s.group else s.name), []).append(s)
    told = [group for group in groups.values() if any(s.marks for s in group)]
    silent = [group for group in groups.values() if not any(s.marks for s in group)]
    if len(told) < folds:
        return []
    dealt = [told[i] for i in np.random.default_rng(seed).permutation(len(told))] + silent
    return [[s for group in dealt[k::folds] for s in group] for k in range(folds)]


def cross_validated(
    sequences: Sequence[HandSequence],
    recipe: Recipe,
    folds: int,
    *,
    beside: Mapping[str, Sequence[HandSequence]] | None = None,
    watch: Watch = lambda *_: None,
) -> Judged:
    """The whole recipe, as often as there are folds, each judged on its fold.

    Raises ValueError for too few recordings, or people, to be dealt out.
    """
    labels = labels_of(sequences)
    parts = folds_of(to_streams(sequences, labels), folds, recipe.seed)
    if not parts:
        raise ValueError(f"too few recordings, or people, with gestures for {folds} folds")
    asked = {s.name for part in parts for s in part}
    kept_out = Learnt.from_sequences(q for q in sequences if q.name in asked)
    refuse_shared(kept_out, beside or {}, "would be learnt beside, but is held out")
    judged = Judged()
    for k, part in enumerate(parts, 1):
        out = {s.name for s in part}

        def told(stage: str, share: float, text: str, k: int = k) -> None:
            watch(f"{stage} {k}/{folds}", share, text)

        outcome = train_online(
            [q for q in sequences if q.name not in out], recipe, beside=beside, watch=told
        )
        m = outcome.metadata
        judged.add(outcome.trained, m.decoder, m, part, labels)
    return judged


def with_folds(outcome: Outcome, judged: Judged, folds: int) -> Outcome:
    """A model that tells, beside its own scores, those of its recipe's cross-validation."""
    reports, scores = judged.told("left_out")
    m = outcome.metadata
    of = f"{m.scores['of']}; left_out: of {folds} models made like it, of recordings kept from each"
    metadata = msgspec.structs.replace(m, scores={**m.scores, **scores, "of": of})
    return Outcome(outcome.trained, metadata, {**outcome.reports, **reports})
