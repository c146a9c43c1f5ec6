"""``hgr train --online``: from recordings, continuous or isolated, to a model file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .errors import errors_told, needs
from .model import show_scores
from .numbers import Number
from .progress import Stages
from .rates import rate_of, rate_option, refuse_rate
from .telling import tell, tell_left_out
from .train_isolated import name_and_root

if TYPE_CHECKING:
    from ..datasets.base import HandSequence
    from ..recognition.bundle import Bundle
    from ..training.recipe import Outcome, Recipe

DATASETS = ("shrec21", "shrec22", "streams", "shrec17", "recordings")


def name_and_folder(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, Path]]:
    """Check ``NAME=DIR`` options."""
    found = []
    for value in values:
        name, root = name_and_root(value)
        if name not in DATASETS or root is None:
            raise click.BadParameter(
                f"{value!r} is not NAME=DIR with NAME of {', '.join(DATASETS)}"
            )
        found.append((name, root))
    return found


def other_names(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Check ``OLD=NEW`` options."""
    pairs = dict(value.partition("=")[::2] for value in values)
    for old, new in pairs.items():
        if not old or not new:
            raise click.BadParameter(f"{old or new!r} is not OLD=NEW")
    return pairs


@click.command(
    epilog="""\b
Examples:
  hgr train --online --dataset shrec21 --root ~/shrec21 -o leap.pt
  hgr train --online --dataset shrec21 --root ~/shrec21 -o quick.pt --minutes 5
  hgr train --online --dataset shrec21 --root ~/shrec21 -o leap.pt --all --folds 5
  hgr train --online --dataset shrec21 --root ~/shrec21 -o leap.pt --all --other shrec22=~/shrec22
  hgr train --online --dataset shrec21 --root ~/shrec21 --and shrec22=~/shrec22 -o any.pt --all
  hgr train --online --dataset shrec22 --root ~/shrec22 --also shrec17=~/shrec17 -o hololens.pt
  hgr train --online --dataset streams --root sessions/ -o mine.pt
  hgr train --online --dataset streams --root sessions/ -o mine.pt --from leap
  hgr train --online --dataset recordings --root takes/ --rate 60 -o mine.pt
  hgr train --online --dataset recordings --root takes/ --and shrec21=~/shrec21 -o mine.pt
  hgr train --online --dataset shrec17 --root ~/shrec17 --and shrec21=~/shrec21 -o both.pt \\
      --same SWIPE_LEFT=LEFT --same SWIPE_RIGHT=RIGHT --same SWIPE_X=CROSS --same SWIPE_V=V
\b
Data sets:
  shrec21, shrec22  continuous, in their official layout
  streams           your own: recordings as hgr process reads them, what is performed in them or in
                    a NAME.csv beside each (label,start_s,end_s), an empty one if nobody gestures;
                    of a recording that is NAME.csv it is NAME.truth.csv
  shrec17           isolated, in its official layout
  recordings        your own, one gesture a file, and a labels.csv (file,label,subject); MCAP has
                    its times, what has none (.npy, .npz, .csv) those of --rate
Isolated gestures are spliced into streams, one person's gestures at a time, joined by moves, holds
and, with a continuous set beside them, true idle stretches of that one.
\b
--from brings a model to a sensor, a place or hands that it has not seen: ten recordings with every
gesture two or three times are a start. It keeps its gestures; others are learnt as none of them.
"""
)
@click.option(
    "--online", is_flag=True, help="A model for streams; without it: one for whole gestures."
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
@click.option(
    "--from",
    "base",
    metavar="MODEL",
    help="Train this model on, briefly: a shipped name, or a file of hgr train --online.",
)
@rate_option("Frames a second of recordings and streams that tell no times, those of --and, --also "
             "and --other too.  [default: as the model of --from was trained with, or 30, or as "
             "the file says]")  # fmt: skip
@click.option("--name", help="The model's name.  [default: the file's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Passes over the data.  [default: 1500 steps]"
)
@click.option("--minutes", type=Number(min=0.1), help="Shorten the training to this.")
@click.option("--all", "everything", is_flag=True, help="Then train on with the held-out too.")
@click.option("--held-out", type=Number(0, 0.9), default=0.2, show_default=True)
@click.option("--folds", type=click.IntRange(min=2), metavar="N",
              help="Also make N models like it, as long each, without an Nth of the recordings (or "
              "people), and judge them on these: scores that nothing was chosen on.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@click.option(
    "--and", "more", multiple=True, callback=name_and_folder, metavar="NAME=DIR",
    help="Train on this data set too: one model with the labels of all; may be repeated.",
)  # fmt: skip
@click.option(
    "--same", multiple=True, callback=other_names, metavar="OLD=NEW",
    help="Call gesture OLD of any data set NEW, also when the model is judged; may be repeated.",
)  # fmt: skip
@click.option(
    "--also", multiple=True, callback=name_and_folder, metavar="NAME=DIR",
    help="Learn this data set beside, with labels of its own that the model does not get; may be "
    "repeated.",
)  # fmt: skip
@click.option("--other-sensors", type=Number(0, 1), default=0.0, metavar="SHARE",
              help="Put the joints of so much of the material where another tracker's model of the "
              "hand would have them.")  # fmt: skip
@click.option("--still", type=Number(0, 0.5), default=0.0, metavar="SHARE",
              help="In so much of the material let a hand take up a movement's posture, hold still "
              "and go back, as none: for recordings in which nobody does so.")  # fmt: skip
@click.option("--margin", type=Number(0, 1), default=0.0, metavar="SECONDS",
              help="Tell both ends of a gesture so much wider: where half of a short one counts.",
              )  # fmt: skip
@click.option("--other", multiple=True, callback=name_and_folder, metavar="NAME=DIR",
              help="Also score on another sensor's data set; may be given twice.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the scores as one JSON object.")
def train(
    online: bool,
    dataset: str,
    root: Path,
    output: Path,
    base: str | None,
    rate_hz: float | None,
    name: str | None,
    seed: int,
    epochs: int | None,
    minutes: float | None,
    everything: bool,
    held_out: float,
    folds: int | None,
    threads: int | None,
    more: list[tuple[str, Path]],
    same: dict[str, str],
    also: list[tuple[str, Path]],
    other_sensors: float,
    still: float,
    margin: float,
    other: list[tuple[str, Path]],
    as_json: bool,
) -> None:
    """Train a model for streams and write it as one file, with its scores in it.

    Whole sequences, and of isolated gestures whole people, are held out; the decoder's settings are
    chosen on them and on distorted copies of them, which flatters their scores a little: --folds
    gives others. Ctrl-C stops without writing anything.
    """
    if base is not None:
        _refuse_with_from("epochs", "everything", "held_out", "folds", "margin", "also", "other")
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder; make it first")
    refuse_rate(rate_hz, [dataset, *(n for n, _ in (*more, *also, *other))])
    try:
        import torch
        from rich.console import Console

        from ..training.draw import Shares
        from ..training.material import load, load_beside
        from ..training.online_folds import cross_validated, with_folds
        from ..training.recipe import Recipe, train_online, with_epochs, with_minutes
        from ..training.streams import splits
    except ImportError as error:
        raise needs("training", error) from None

    torch.set_num_threads(threads or os.cpu_count() or 1)
    console = Console(stderr=True, markup=False)
    bundle = _trainable(base) if base is not None else None
    if bundle is not None:
        rate_hz = rate_of(bundle, rate_hz)
    usual: dict[str, str] = bundle.metadata.training.get("same", {}) if bundle is not None else {}

    with errors_told(), console.status("reading") as status:
        sequences = load(
            [(dataset, root), *more], same=same, usual=usual, seed=seed, rate_hz=rate_hz,
            watch=status.update, tell=tell,
        )  # fmt: skip
        beside = load_beside(
            also, sequences, seed=seed, rate_hz=rate_hz, watch=status.update, tell=tell
        )
        others: dict[str, Any] = {}
        for n, r in other:
            others.setdefault(n, []).extend(load([(n, r)], seed=seed, rate_hz=rate_hz, tell=tell))
        same = {**usual, **same}
        for sequence in (q for group in others.values() for q in group):
            sequence.segments = [
                replace(s, label=same.get(s.label, s.label)) for s in sequence.segments
            ]
    provenance: dict[str, Any] = {
        "data": f"{'+'.join([dataset, *(n for n, _ in more)])}, {len(sequences)} sequences",
        "command": shlex.join(["hgr", *sys.argv[1:]]),
    }
    if rate_hz is not None:
        provenance["recordings_hz"] = rate_hz
    if same:
        provenance["same"] = same
    if beside:
        provenance["beside"] = ", ".join(f"{n}: {len(q)} sequences" for n, q in beside.items())
    if bundle is None and held_out and not splits(sequences, held_out, seed):
        tell(
            "warning: nothing can be held out: each recording, or person, performs gestures that "
            "no other does. The model gets no scores, and untuned settings: record more of each"
        )
    recipe = Recipe(
        name=name or output.stem,
        seed=seed,
        held_out=held_out,
        everything=everything,
        shares=Shares(other_sensors, still),
        margin_s=margin,
    )
    if epochs:
        recipe = with_epochs(recipe, epochs, sequences)
    if minutes:
        recipe = with_minutes(recipe, minutes)
    try:
        with errors_told(), Stages(console) as watch:
            if bundle is not None:
                outcome = _adapted(bundle, sequences, recipe, minutes, watch, provenance)
            else:
                judged = None
                if folds:
                    judged = cross_validated(sequences, recipe, folds, beside=beside, watch=watch)
                outcome = train_online(
                    sequences,
                    recipe,
                    others=others,
                    beside=beside,
                    watch=watch,
                    provenance=provenance,
                )
                if folds and judged:
                    outcome = with_folds(outcome, judged, folds)
        with errors_told(written=output):
            outcome.save(output)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; nothing was written") from None
    except ValueError as error:
        raise click.ClickException(f"{dataset}: {error}") from None
    if as_json:
        click.echo(json.dumps({"model": str(output), "scores": outcome.metadata.scores}))
        return
    show_scores(console, outcome.metadata.scores)
    held, steps = outcome.reports.get("held_out"), outcome.trained.steps["network"]
    if held is not None and held.recall == 0:
        console.print(
            f"warning: finds none of the held-out gestures after {steps} steps: "
            "train longer, or on more recordings"
        )
    console.print(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)")


def _refuse_with_from(*names: str) -> None:
    """Options that mean nothing where a model is trained on."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and given is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]} cannot be used with --from")


def _trainable(base: str) -> Bundle:
    """The model of ``--from``; one that cannot be trained on is refused before data are read."""
    from ..recognition.bundle import load
    from ..recognition.unfold import unfolded

    with errors_told():
        bundle = load(base)
        unfolded(bundle)
    return bundle


def _adapted(
    bundle: Bundle,
    sequences: list[HandSequence],
    recipe: Recipe,
    minutes: float | None,
    watch: Stages,
    provenance: dict[str, Any],
) -> Outcome:
    """``bundle`` trained on with what it has not learnt from; tells what is left out, and of what
    it knows nothing."""
    from ..training.adapt import FOLDS, adapt, gentle
    from ..training.learnt import new_to
    from ..training.recipe import with_minutes
    from ..training.streams import labels_of

    m = bundle.metadata
    kept = new_to(m.training, sequences)
    tell_left_out(len(sequences) - len(kept), m.name)
    if strange := sorted(set(labels_of(kept)) - set(m.labels)):
        tell(f"no gestures of {m.name}, learnt as none of them: {', '.join(strange)}")
    own = gentle(m, recipe.name, recipe.seed, recipe.shares)
    if minutes:
        own = with_minutes(own, minutes / (1 + FOLDS))
    return adapt(bundle, kept, own, watch=watch, provenance=provenance)
