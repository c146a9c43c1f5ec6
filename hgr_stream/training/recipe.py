"""From a data set to a model file: what ``hgr train --online`` runs.

1. Whole sequences are held out. Network, verifier and dater are trained on the rest.
2. Both temperatures and the decoder's settings are chosen on the held-out sequences and on
   distorted copies of them: the proxy, and *far* ones, as another sensor's might be.
3. Scores are taken on all three, and on any other sensor's recordings given beside.
4. With ``everything``, all are trained on with all sequences, and keep the settings of 2; the
   scores of 3 are then those before that step, and the metadata says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from ..datasets.base import HandSequence
from ..recognition import bundle, causal, segments
from ..recognition.options import FORMAT, DecoderOptions, Metadata, mirror_pairs, needs_left
from ..skeleton import lacked
from .draw import NO_SHARES, ChunkRule, Shares
from .learnt import Learnt
from .made_with import versions
from .metrics import Grade, Report, Rule
from .online import Progress, Schedule, train_dater, train_network, train_verifier
from .online_beside import BesideSet
from .streams import Stream, labels_of, split, to_streams
from .validate import (
    calibrate,
    calibrate_verifier,
    duration_bounds,
    evaluate,
    proxy,
    scored,
    tune,
    tune_early,
)

#: How long the training on all sequences is, beside the first.
CONTINUED = 0.4
#: By whose rule, and which grade of events: the benchmarks' own.
SCORED: Final[tuple[tuple[Rule, Grade], ...]] = (("shrec21", "confirmed"), ("shrec22", "early"))


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, besides the data."""

    name: str = "model"
    rate_hz: float = 25.0
    boundary_delay_s: float = 0.24
    release_s: float = 0.2
    held_out: float = 0.2
    proxy_rounds: int = 4
    far_rounds: int = 2
    tuned_on: int = 160  #: streams that the decoder's settings are chosen on, at most
    seed: int = 0
    everything: bool = False
    shares: Shares = NO_SHARES
    margin_s: float = 0.0  #: see ``DecoderOptions``; by cross-validation, not by ``tune``
    network: Schedule = field(default_factory=Schedule)
    verifier: Schedule = field(default_factory=lambda: Schedule(steps=2000, batch=64))
    dater: Schedule = field(default_factory=lambda: Schedule(steps=1200, batch=64))


@dataclass
class Trained:
    """What is trained, in eval mode, and the steps that each took."""

    net: causal.CausalNet
    verifier: segments.SegmentVerifier
    dater: segments.SegmentDater
    steps: dict[str, int]


@dataclass
class Outcome:
    """What was trained, its settings, and the reports by name."""

    trained: Trained
    metadata: Metadata
    reports: dict[str, Report]

    def save(self, path: str | Path) -> None:
        """Write the model file; raises ModelError if it would not load again."""
        t = self.trained
        bundle.save(causal.export(t.net, t.verifier, t.dater), self.metadata, path)


#: (stage, share of it done, what to show)
Watch = Callable[[str, float, str], None]


def train_online(
    sequences: Sequence[HandSequence],
    recipe: Recipe,
    *,
    others: dict[str, Sequence[HandSequence]] | None = None,
    beside: Mapping[str, Sequence[HandSequence]] | None = None,
    watch: Watch = lambda *_: None,
    provenance: dict[str, Any] | None = None,
) -> Outcome:
    """Train, tune and score as the module says; nothing is written.

    others: other sensors' recordings, by name, scored on the gestures they share. beside: learnt
    with label sets of their own, all of them; see ``online_beside``. provenance: what the metadata
    shall say of data and command. Raises ValueError for data that cannot do, and where others or
    beside hold what must not be in them.
    """
    labels = labels_of(sequences)
    streams = to_streams(sequences, labels)
    if not labels or len(streams) < 2:
        raise ValueError(
            f"{len(streams)} usable sequences with {len(labels)} kinds of gesture: too few to train"
        )
    if "none" in labels:
        raise ValueError("'none' is what is told of no gesture: call the gesture otherwise")
    beside = beside or {}
    inside, outside = split(streams, recipe.held_out, recipe.seed)
    held_out = {s.name for s in outside}
    kept_out = Learnt.from_sequences(q for q in sequences if q.name in held_out)
    refuse_shared(kept_out, beside, "would be learnt beside, but is held out")
    sets = [BesideSet.of(name, found) for name, found in beside.items()]
    own = [q for q in sequences if recipe.everything or q.name not in held_out]
    learnt = Learnt.from_sequences([*own, *(q for group in beside.values() for q in group)])
    refuse_shared(learnt, others or {}, "would judge what is learnt")
    trained = fit(inside, len(labels), recipe, watch, sets)
    net, verifier, dater = trained.net, trained.verifier, trained.dater
    checks = {
        "held_out": outside,
        "proxy": proxy(outside, recipe.proxy_rounds, recipe.seed + 1),
        "far": proxy(outside, recipe.far_rounds, recipe.seed + 7, wide=1.0),
    }
    items = {name: scored(net, group, recipe.rate_hz) for name, group in checks.items()}
    pool = [item for group in items.values() for item in group]
    temperature = calibrate(pool, recipe.rate_hz) if pool else 1.0
    verify_temperature = 1.0
    options = duration_bounds(
        inside,
        DecoderOptions(
            begin=0.4,
            end=0.3,
            end_hold_s=0.16,
            early=0.9,
            early_hold_s=0.08,
            accept=0.2,
            boundary_delay_s=recipe.boundary_delay_s,
            release_s=recipe.release_s,
        ),
        labels,
    )
    if pool:
        verify_temperature = calibrate_verifier(
            pool, options, labels, recipe.rate_hz, verifier, dater
        )
        tried = [0]
        drawn = np.random.default_rng(recipe.seed).permutation(len(pool))[: recipe.tuned_on]
        pool = [pool[i] for i in sorted(drawn)]

        def say(text: str) -> None:
            tried[0] += 1
            watch("settings", min(tried[0] / 30, 1.0), text)

        options = tune(pool, options, labels, recipe.rate_hz, verifier, dater, say=say)
        options = tune_early(pool, options, labels, recipe.rate_hz, verifier, dater, say)
        watch("settings", 1.0, "")
    options = msgspec.structs.replace(options, margin_s=recipe.margin_s)
    for name, foreign in (others or {}).items():
        streams_there = to_streams(foreign, labels)
        items[name] = scored(net, streams_there, recipe.rate_hz, temperature, verify_temperature)
    reports, told_early = (
        {
            name: evaluate(group, options, labels, recipe.rate_hz, verifier, rule, dater, kind)
            for name, group in items.items()
            if group
        }
        for rule, kind in SCORED
    )
    if recipe.everything:
        trained = fit(streams, len(labels), _continued(recipe), watch, sets, trained, " (all)")
    metadata = Metadata(
        format=FORMAT,
        name=recipe.name,
        kind="streaming",
        labels=labels,
        rate_hz=recipe.rate_hz,
        size=1,
        hop=1,
        mirror_labels=mirror_pairs(labels),
        needs=needs_left(lacked(q.lacks for q in own)),
        temperature=temperature,
        verify_temperature=verify_temperature,
        refine_margin_s=segments.SegmentDater.MARGIN_S,
        decoder=options,
        training={
            **(provenance or {}),
            "seed": recipe.seed,
            "held_out": sorted((s.name for s in outside), key=_natural),
            "learnt": learnt.metadata(),
            "trained_on": "all sequences at the end"
            if recipe.everything
            else "all but the held-out",
            "steps": trained.steps,
            "versions": versions(),
        },
        scores={
            **{name: report.summary() for name, report in reports.items()},
            **{f"{name}_early": report.summary() for name, report in told_early.items()},
            "of": "the model before it was trained on with the held-out sequences"
            if recipe.everything
            else "this file",
        },
    )
    return Outcome(trained, metadata, reports)


def refuse_shared(learnt: Learnt, sets: Mapping[str, Sequence[HandSequence]], why: str) -> None:
    """Raises ValueError where a sequence of one of the sets, or its person, is in ``learnt``."""
    for name, sequences in sets.items():
        found = learnt.of_sequences(sequences)
        if found.any():
            raise ValueError(f"{name}: {why} ({found.sum()} of {len(found)} sequences)")


def fit(
    streams: Sequence[Stream],
    classes: int,
    recipe: Recipe,
    watch: Watch,
    beside: Sequence[BesideSet] = (),
    start: Trained | None = None,
    note: str = "",
) -> Trained:
    """Train all three, anew or on from ``start``. note: what is told besides the stages' names."""

    def told(stage: str) -> Progress:
        return lambda share, text: watch(stage + note, share, text)

    rate_hz, seed = recipe.rate_hz, recipe.seed
    rule = ChunkRule(
        rate_hz,
        recipe.network.frames,
        recipe.boundary_delay_s,
        recipe.release_s,
        shares=recipe.shares,
    )
    net, n = train_network(
        streams, classes, rule, recipe.network, seed, told("network"),
        start.net if start else None, beside,
    )  # fmt: skip
    verifier, v = train_verifier(
        streams, classes, rate_hz, recipe.verifier, seed, told("verifier"),
        start.verifier if start else None, beside, recipe.shares,
    )  # fmt: skip
    dater, d = train_dater(
        streams, classes, rate_hz, recipe.dater, seed, told("dater"),
        start.dater if start else None,
    )  # fmt: skip
    made = {"network": n, "verifier": v, "dater": d}
    before = start.steps if start else {}
    return Trained(net, verifier, dater, {k: before.get(k, 0) + made[k] for k in made})


def _continued(recipe: Recipe) -> Recipe:
    """Shorter and gentler, and other chance."""

    def shorter(schedule: Schedule) -> Schedule:
        return replace(
            schedule,
            steps=max(round(schedule.steps * CONTINUED), 1),
            seconds=schedule.seconds * CONTINUED,
            rate=schedule.rate * 0.5,
        )

    return replace(
        recipe,
        seed=recipe.seed + 1000,
        network=shorter(recipe.network),
        verifier=shorter(recipe.verifier),
        dater=shorter(recipe.dater),
    )


def _natural(name: str) -> tuple[int, str]:
    return (int(name) if name.isdigit() else 0, name)


def with_epochs(recipe: Recipe, epochs: int, sequences: Sequence[HandSequence]) -> Recipe:
    """As many network steps as it takes to draw about the whole data ``epochs`` times."""
    seconds = sum(float(q.time_ns[-1] - q.time_ns[0]) / 1e9 for q in sequences)
    drawn_s = recipe.network.batch * recipe.network.frames / recipe.rate_hz
    steps = max(round(epochs * seconds / drawn_s), 1)
    return replace(
        recipe,
        network=replace(recipe.network, steps=steps),
        verifier=replace(recipe.verifier, steps=round(1.33 * steps)),
        dater=replace(recipe.dater, steps=round(0.8 * steps)),
    )


def with_minutes(recipe: Recipe, minutes: float) -> Recipe:
    """Cap the training at about this long; the schedules are shortened, not cut off."""
    seconds = minutes * 60 * 0.9 / (1 + CONTINUED * recipe.everything)
    return replace(
        recipe,
        network=replace(recipe.network, seconds=0.6 * seconds),
        verifier=replace(recipe.verifier, seconds=0.25 * seconds),
        dater=replace(recipe.dater, seconds=0.15 * seconds),
    )
