"""A trained model brought to a sensor or a place that it has not seen, by a few recordings of it:
what ``hgr train --online --from MODEL`` runs.

1. The file's networks are unfolded and trained on with the recordings, briefly and gently; batch
   norms keep their statistics.
2. The outcome is taken between the weights before and after (``SHARE``): what lies there is as good
   on the new sensor as what was trained to the end, or better, and still knows the gestures that
   nobody performed in these recordings (Wortsman et al., *Robust fine-tuning of zero-shot models*,
   CVPR 2022).
3. The decoder's settings stay; only limits of duration are widened to what was recorded.
4. What it is worth is told by cross-validation over whole recordings, or people where these are
   known, before and after. The file is trained on all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from torch import nn

from ..datasets.base import HandSequence
from ..recognition.bundle import Bundle
from ..recognition.options import ClassOptions, DecoderOptions, Metadata, needs_left
from ..recognition.unfold import unfolded
from ..skeleton import lacked
from .average import draw_towards
from .draw import NO_SHARES, Shares
from .learnt import Learnt
from .made_with import versions
from .metrics import Report
from .online import Schedule
from .online_folds import Judged, folds_of
from .recipe import Outcome, Recipe, Trained, Watch, fit
from .streams import Stream, to_streams
from .validate import duration_bounds

#: How far from the weights before (0) to those after (1).
SHARE: Final = 0.6
FOLDS: Final = 3

M = TypeVar("M", bound=nn.Module)


def gentle(base: Metadata, name: str, seed: int = 0, shares: Shares = NO_SHARES) -> Recipe:
    """Schedules for some minutes of recordings, and what ``base`` was trained to tell."""
    rate = 2e-4
    return Recipe(
        name=name,
        rate_hz=base.rate_hz,
        boundary_delay_s=base.decoder.boundary_delay_s,
        release_s=base.decoder.release_s,
        seed=seed,
        shares=shares,
        network=Schedule(steps=200, rate=rate),
        verifier=Schedule(steps=300, batch=64, rate=rate),
        dater=Schedule(steps=200, batch=64, rate=rate),
    )


def adapt(
    base: Bundle,
    sequences: Sequence[HandSequence],
    recipe: Recipe,
    *,
    watch: Watch = lambda *_: None,
    provenance: dict[str, Any] | None = None,
) -> Outcome:
    """Train on, and score as the module says; nothing is written.

    Gestures that the model does not know are learnt as none of its own. Raises ValueError where the
    recordings hold none that it knows, ModelError for a model that cannot be trained on.
    """
    m = base.metadata
    networks = unfolded(base)
    streams = to_streams(sequences, m.labels)
    if not any(s.marks for s in streams):
        raise ValueError(f"no gesture that {m.name} knows is performed in these recordings")
    start = Trained(networks.net, networks.verifier, networks.dater, {})
    folds = folds_of(streams, FOLDS, recipe.seed)
    judged: dict[str, Judged] = {}
    for k, out in enumerate(folds, 1):
        inside = [s for fold in folds if fold is not out for s in fold]
        trained = _between(start, inside, recipe, watch, f" {k}/{len(folds)}", len(m.labels))
        for name, form, options in (
            ("before", start, m.decoder),
            ("left_out", trained, widened(m.decoder, inside, m.labels)),
        ):
            judged.setdefault(name, Judged()).add(form, options, m, out, m.labels)
    reports: dict[str, Report] = {}
    scores: dict[str, Any] = {}
    for name, found in judged.items():
        one, told = found.told(name)
        reports.update(one)
        scores.update(told)
    note = " (all)" if folds else ""
    outcome = _between(start, streams, recipe, watch, note, len(m.labels))
    known = {k: v for k, v in m.training.items() if k != "learnt"}
    learnt = Learnt.from_metadata(m.training) | Learnt.from_sequences(sequences)
    metadata = msgspec.structs.replace(
        m,
        name=recipe.name,
        decoder=widened(m.decoder, streams, m.labels),
        needs=needs_left(lacked(q.lacks for q in sequences), m.needs),
        training={
            **(provenance or {}),
            "seed": recipe.seed,
            "from": {"name": m.name, **known},
            "learnt": learnt.metadata(),
            "trained_on": "all recordings at the end",
            "steps": outcome.steps,
            "versions": versions(),
        },
        scores={
            **scores,
            "of": f"{m.name} before, and after training with the other recordings; "
            f"{sum(len(s.marks) for s in streams)} gestures: one more or less is often chance"
            if folds
            else "nothing: too few recordings to leave some out",
        },
    )
    return Outcome(outcome, metadata, reports)


def widened(
    options: DecoderOptions, streams: Sequence[Stream], labels: Sequence[str]
) -> DecoderOptions:
    """Limits of duration that allow what these hold, too."""
    limits = dict(options.per_class)
    for label, new in duration_bounds(streams, options, labels).per_class.items():
        old = limits.get(label, ClassOptions())
        limits[label] = msgspec.structs.replace(
            old,
            min_duration_s=min(options.of(label, "min_duration_s"), new.min_duration_s or 0.0),
            max_duration_s=max(options.of(label, "max_duration_s"), new.max_duration_s or 0.0),
        )
    return msgspec.structs.replace(options, per_class=limits)


def _between(
    start: Trained, streams: Sequence[Stream], recipe: Recipe, watch: Watch, note: str, classes: int
) -> Trained:
    after = fit(streams, classes, recipe, watch, start=start, note=note)
    return replace(
        after,
        net=mixed(start.net, after.net),
        verifier=mixed(start.verifier, after.verifier),
        dater=mixed(start.dater, after.dater),
    )


def mixed(before: M, after: M, share: float = SHARE) -> M:
    """A network with every weight at ``share`` of the way from one to the other."""
    found = copy.deepcopy(before).eval()
    draw_towards(found, after, share)
    return found
