"""From a data set to a model file: what ``hgr train --online`` runs.

1. Whole sequences are held out. Network and verifier are trained on the rest.
2. The temperature and the decoder's settings are chosen on the held-out sequences and on
   distorted copies of them (the proxy).
3. Scores are taken on both, and on any other sensor's recordings given beside.
4. With ``everything``, both are trained on with all sequences, and keep the settings of 2; the
   scores of 3 are then those before that step, and the metadata says so.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..datasets.base import HandSequence
from ..recognition import bundle, causal
from ..recognition.options import FORMAT, DecoderOptions, Metadata, mirror_pairs
from .metrics import Report
from .online import Progress, Schedule, train_network, train_verifier
from .streams import ChunkRule, Stream, labels_of, split, to_streams
from .validate import calibrate, duration_bounds, evaluate, proxy, scored, tune

#: How long the training on all sequences is, beside the first.
CONTINUED = 0.4


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, besides the data."""

    name: str = "model"
    rate_hz: float = 25.0
    boundary_delay_s: float = 0.24
    release_s: float = 0.2
    held_out: float = 0.2
    proxy_rounds: int = 4
    seed: int = 0
    everything: bool = False
    network: Schedule = field(default_factory=Schedule)
    verifier: Schedule = field(default_factory=lambda: Schedule(steps=3000, batch=64))


@dataclass
class Outcome:
    """The trained pair, its settings, and the reports by name."""

    net: causal.CausalNet
    verifier: causal.SegmentVerifier
    metadata: Metadata
    reports: dict[str, Report]

    def save(self, path: str | Path) -> None:
        """Write the model file; raises ModelError if it would not load again."""
        bundle.save(causal.export(self.net, self.verifier), self.metadata, path)


#: (stage, share of it done, what to show)
Watch = Callable[[str, float, str], None]


def train_online(
    sequences: Sequence[HandSequence],
    recipe: Recipe,
    *,
    others: dict[str, Sequence[HandSequence]] | None = None,
    watch: Watch = lambda *_: None,
    provenance: dict[str, Any] | None = None,
) -> Outcome:
    """Train, tune and score as the module says; nothing is written.

    others: other sensors' recordings, by name, scored on the gestures they share. provenance:
    what the metadata shall say of data and command. Raises ValueError for data that cannot do.
    """
    labels = labels_of(sequences)
    streams = to_streams(sequences, labels)
    if len(labels) < 2 or len(streams) < 2:
        raise ValueError(
            f"{len(streams)} usable sequences with {len(labels)} kinds of gesture: too few to train"
        )
    inside, outside = split(streams, recipe.held_out, recipe.seed)
    net, verifier, steps = _fit(inside, len(labels), recipe, watch)
    checks = {"held_out": outside, "proxy": proxy(outside, recipe.proxy_rounds, recipe.seed + 1)}
    items = {name: scored(net, group, recipe.rate_hz) for name, group in checks.items()}
    pool = [item for group in items.values() for item in group]
    temperature = calibrate(pool, recipe.rate_hz) if pool else 1.0
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
        tried = [0]

        def say(text: str) -> None:
            tried[0] += 1
            watch("settings", min(tried[0] / 20, 1.0), text)

        options = tune(pool, options, labels, recipe.rate_hz, verifier, say=say)
        watch("settings", 1.0, "")
    for name, foreign in (others or {}).items():
        streams_there = to_streams(foreign, labels)
        items[name] = scored(net, streams_there, recipe.rate_hz, temperature)
    reports = {
        name: evaluate(group, options, labels, recipe.rate_hz, verifier)
        for name, group in items.items()
        if group
    }
    if recipe.everything:
        net, verifier, more = _fit(streams, len(labels), recipe, watch, (net, verifier))
        steps = (steps[0] + more[0], steps[1] + more[1])
    metadata = Metadata(
        format=FORMAT,
        name=recipe.name,
        kind="streaming",
        labels=labels,
        rate_hz=recipe.rate_hz,
        size=1,
        hop=1,
        mirror_labels=mirror_pairs(labels),
        temperature=temperature,
        decoder=options,
        training={
            **(provenance or {}),
            "seed": recipe.seed,
            "held_out": sorted((s.name for s in outside), key=_natural),
            "trained_on": "all sequences at the end"
            if recipe.everything
            else "all but the held-out",
            "steps": {"network": steps[0], "verifier": steps[1]},
            "versions": {
                "hgr-stream": __version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        },
        scores={
            **{name: report.summary() for name, report in reports.items()},
            "of": "the model before it was trained on with the held-out sequences"
            if recipe.everything
            else "this file",
        },
    )
    return Outcome(net, verifier, metadata, reports)


def _fit(
    streams: Sequence[Stream],
    classes: int,
    recipe: Recipe,
    watch: Watch,
    start: tuple[causal.CausalNet, causal.SegmentVerifier] | None = None,
) -> tuple[causal.CausalNet, causal.SegmentVerifier, tuple[int, int]]:
    """Train the pair, anew or on from ``start`` with a shorter and gentler schedule."""
    note, schedules = "", (recipe.network, recipe.verifier)
    if start:
        note, schedules = " (all)", (_continued(recipe.network), _continued(recipe.verifier))

    def told(stage: str) -> Progress:
        return lambda share, text: watch(stage + note, share, text)

    net0, verifier0 = start or (None, None)
    rule = ChunkRule(
        recipe.rate_hz, recipe.network.frames, recipe.boundary_delay_s, recipe.release_s
    )
    seed = recipe.seed + (1000 if start else 0)
    net, n_steps = train_network(streams, classes, rule, schedules[0], seed, told("network"), net0)
    verifier, v_steps = train_verifier(
        streams, classes, recipe.rate_hz, schedules[1], seed, told("verifier"), verifier0
    )
    return net, verifier, (n_steps, v_steps)


def _continued(schedule: Schedule) -> Schedule:
    return replace(
        schedule,
        steps=max(round(schedule.steps * CONTINUED), 1),
        seconds=schedule.seconds * CONTINUED,
        rate=schedule.rate * 0.5,
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
        verifier=replace(recipe.verifier, steps=2 * steps),
    )


def with_minutes(recipe: Recipe, minutes: float) -> Recipe:
    """Cap the training at about this long; the schedules are shortened, not cut off."""
    seconds = minutes * 60 * 0.9 / (1 + CONTINUED * recipe.everything)
    return replace(
        recipe,
        network=replace(recipe.network, seconds=0.75 * seconds),
        verifier=replace(recipe.verifier, seconds=0.25 * seconds),
    )
