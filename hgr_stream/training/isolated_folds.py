"""Trainings for each group of held-out subjects and each seed, and what they show together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.gestures import Gestures, fold_subjects
from .isolated import Outcome, Watch, parts, quiet, train_isolated
from .isolated_recipe import Recipe, TrainingError
from .runs import LAST, refuse_among_others


def train_folds(
    gestures: Gestures,
    recipe: Recipe,
    out: str | Path,
    folds: int = 0,
    *,
    held_out: Sequence[str] = (),
    seeds: Sequence[int] = (),
    device: str = "auto",
    resume: bool = False,
    watch: Watch = quiet,
    command: str = "",
    also: Sequence[Gestures] = (),
    options: dict[str, Any] | None = None,
) -> Iterator[Outcome]:
    """A run for each group of subjects (as many folds as subjects leave one out) and each seed.

    Runs are ``out/fold-K``, with several seeds ``out/seed-S/fold-K``; with no folds ``held_out``
    are left out every time and runs are ``out/seed-S``. What cannot be done raises TrainingError or
    DatasetError before the first of them.
    """
    groups = fold_subjects(gestures.subjects, folds) if folds else [list(held_out)]
    gestures.check()
    for group in groups:
        parts(gestures, group)
    single = not folds and len(seeds) < 2
    if not resume:
        refuse_among_others(Path(out))
    elif not single and (Path(out) / LAST).exists():
        raise TrainingError(f"{out}: one run of several; resume the folder that holds them all")
    for seed in seeds or (recipe.seed,):
        base = Path(out) / f"seed-{seed}" if len(seeds) > 1 else Path(out)
        for k, group in enumerate(groups):
            folder = base / f"fold-{k + 1}" if folds else base
            go_on = resume and (single or (folder / LAST).exists())
            yield train_isolated(
                gestures, replace(recipe, seed=seed), folder, held_out=group, device=device,
                resume=go_on, watch=watch, command=command, also=also,
                options=options,
            )  # fmt: skip


def spread(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Held-out accuracies over runs: mean, by seed, and deviations of the seeds and of all runs."""
    found: dict[str, dict[str, Any]] = {}
    for name in outcomes[0].figures:
        if "accuracy/validation" not in name:
            continue
        seeds: dict[int, list[tuple[float, int]]] = {}
        for o in outcomes:
            seeds.setdefault(o.seed, []).append((o.figures[name], o.gestures))
        means = {s: sum(a * n for a, n in r) / sum(n for _, n in r) for s, r in seeds.items()}
        found[name] = {
            "mean": float(np.mean(list(means.values()))),
            "by seed": {str(s): m for s, m in means.items()},
            "deviation of seeds": float(np.std(list(means.values()), ddof=min(len(means) - 1, 1))),
            "deviation of runs": float(np.std([o.figures[name] for o in outcomes])),
        }
    return found
