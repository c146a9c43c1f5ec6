"""``hgr train --online``: from continuous recordings to a model file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..datasets.base import HandSequence
    from ..training.metrics import Report

DATASETS = ("shrec21", "shrec22")


def load_dataset(name: str, root: Path) -> list[HandSequence]:
    """A data set by name; raises click.ClickException when it cannot be read."""
    from ..datasets.base import DatasetError

    try:
        if name == "shrec21":
            from ..datasets.shrec21 import load_shrec21

            return load_shrec21(root)
        from ..datasets.shrec22 import load_shrec22

        return load_shrec22(root)
    except (DatasetError, OSError) as error:
        raise click.ClickException(str(error)) from None


def other_sensor(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """Check ``NAME=DIR`` options."""
    found = {}
    for value in values:
        name, _sep, root = value.partition("=")
        if name not in DATASETS or not root:
            raise click.BadParameter(
                f"{value!r} is not NAME=DIR with NAME of {', '.join(DATASETS)}"
            )
        found[name] = Path(root)
    return found


@click.command(
    epilog="""\b
Examples:
  hgr train --online --dataset shrec21 --root ~/shrec21 -o leap.pt
  hgr train --online --dataset shrec21 --root ~/shrec21 -o quick.pt --minutes 5
  hgr train --online --dataset shrec21 --root ~/shrec21 -o leap.pt --all --other shrec22=~/shrec22
  hgr train --online --dataset shrec21 --root ~/shrec21 --and shrec22=~/shrec22 -o any.pt --all
"""
)
@click.option(
    "--online", is_flag=True, help="Train on continuous sequences; without it: on whole gestures."
)
@click.option("--dataset", type=click.Choice(DATASETS), required=True, help="Whose layout is read.")
@click.option(
    "--root",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder of the data set.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="Model file to write.",
)  # fmt: skip
@click.option("--name", help="The model's name.  [default: the file's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.  [default: 140]")
@click.option("--minutes", type=click.FloatRange(min=0.1), help="Shorten the training to this.")
@click.option("--all", "everything", is_flag=True, help="Then train on with the held-out too.")
@click.option("--held-out", type=click.FloatRange(0, 0.9), default=0.2, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@click.option(
    "--and", "more", multiple=True, callback=other_sensor, metavar="NAME=DIR",
    help="Train on this data set too: one model with the labels of all; may be repeated.",
)  # fmt: skip
@click.option("--other", multiple=True, callback=other_sensor, metavar="NAME=DIR",
              help="Also score on another sensor's data set; may be given twice.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one JSON object.")
def train(
    online: bool,
    dataset: str,
    root: Path,
    output: Path,
    name: str | None,
    seed: int,
    epochs: int | None,
    minutes: float | None,
    everything: bool,
    held_out: float,
    threads: int | None,
    more: dict[str, Path],
    other: dict[str, Path],
    as_json: bool,
) -> None:
    """Train a model and write it as one file, with its scores in it.

    Whole sequences are held out; the decoder's settings are chosen on them and on distorted
    copies of them. Ctrl-C stops without writing anything.
    """
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder; make it first")
    try:
        import torch
    except ImportError:
        raise click.ClickException(
            "training needs torch: pip install 'hgr-stream[train]'"
        ) from None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..recognition.bundle import ModelError
    from ..training.recipe import Recipe, train_online, with_epochs, with_minutes

    torch.set_num_threads(threads or os.cpu_count() or 1)
    sequences = load_dataset(dataset, root)
    for another, folder in more.items():
        for sequence in load_dataset(another, folder):
            sequence.name = f"{another}:{sequence.name}"
            sequences.append(sequence)
    others: dict[str, Any] = {n: load_dataset(n, r) for n, r in other.items()}
    recipe = Recipe(name=name or output.stem, seed=seed, held_out=held_out, everything=everything)
    if epochs:
        recipe = with_epochs(recipe, epochs, sequences)
    if minutes:
        recipe = with_minutes(recipe, minutes)
    provenance = {
        "data": f"{'+'.join([dataset, *more])}, {len(sequences)} sequences",
        "command": shlex.join(["hgr", *sys.argv[1:]]),
    }
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:18}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def watch(stage: str, share: float, text: str) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=1.0, text="")
        bar.update(tasks[stage], completed=share, text=text)

    try:
        with bar:
            outcome = train_online(
                sequences, recipe, others=others, watch=watch, provenance=provenance
            )
        outcome.save(output)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; nothing was written") from None
    except (ValueError, ModelError, OSError) as error:
        raise click.ClickException(f"{dataset}: {error}") from None
    if as_json:
        click.echo(json.dumps({"model": str(output), "scores": outcome.metadata.scores}))
        return
    show(console, outcome.reports)
    console.print(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)")


def show(console: Any, reports: dict[str, Report]) -> None:
    """The scores as a table."""
    from rich.table import Table

    table = Table("", "DR", "FP", "JI", "overlap", "F1", "false/h", "told after s")
    for name, r in reports.items():
        figures = (r.detection_rate, r.false_positives, r.jaccard, r.overlap, r.f1)
        table.add_row(
            name, *(f"{x:.3f}" for x in figures), f"{r.false_per_hour:.1f}", f"{r.delay:.2f}"
        )
    console.print(table)
