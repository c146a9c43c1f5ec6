"""``hgr train`` without ``--online``: from isolated gestures to a trained run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .progress import Stages

if TYPE_CHECKING:
    from ..datasets.gestures import Gestures
    from ..training.isolated_recipe import Recipe

DATASETS = ("shrec17", "recordings")


def load_gestures(
    dataset: str,
    root: Path,
    classes: int | None,
    labels: Path | None,
    rate_hz: float,
    split: Literal["train", "test"] | None = None,
) -> Gestures:
    """A data set of isolated gestures by name; raises click.ClickException."""
    from ..datasets.base import DatasetError
    from ..datasets.gestures import load_recordings, load_shrec17

    if dataset != "shrec17" and classes is not None:
        raise click.UsageError(
            "--classes is of shrec17; recordings have those of their labels file"
        )
    if dataset == "shrec17" and labels is not None:
        raise click.UsageError("--labels is of recordings; shrec17 brings its own")
    try:
        if dataset == "shrec17":
            return load_shrec17(root, 14 if classes == 14 else 28, split=split)
        return load_recordings(root, labels, rate_hz)
    except (DatasetError, OSError) as error:
        raise click.ClickException(str(error)) from None


def load_others(named: tuple[str, ...]) -> list[Gestures]:
    """Data sets as ``shrec21=DIR`` that are learnt beside; raises click.ClickException."""
    from ..datasets.base import DatasetError
    from ..datasets.gestures import load_continuous

    found = []
    for one in named:
        name, _, root = one.partition("=")
        try:
            match name:
                case "shrec21" | "shrec22" if root:
                    found.append(load_continuous(name, root))
                case "shrec17" | "recordings" if root:
                    found.append(load_gestures(name, Path(root), None, None, 30.0))
                case _:
                    raise click.UsageError(
                        f"--also {one}: wants shrec17, shrec21, shrec22 or recordings, =DIR"
                    )
        except (DatasetError, OSError) as error:
            raise click.ClickException(str(error)) from None
    return found


def chosen_recipe(
    model: str, recipe: str, strength: float, teachers: tuple[Path, ...], **changes: Any
) -> Recipe:
    """The preset with what the options change; None changes nothing."""
    from ..training.isolated_recipe import FLAGSHIP, MODERN, ORIGINAL, scaled

    if model == "flagship" and recipe == "original":
        raise click.UsageError("--recipe original is the reference network's: add --model devineau")
    reference = ORIGINAL if recipe == "original" else MODERN
    base = FLAGSHIP if model == "flagship" else reference
    if (changes.get("width") or 0) % 4:
        raise click.UsageError(f"--width {changes['width']} is not divisible by 4")
    return scaled(
        base,
        distortion=base.distortion.scaled(strength) if base.distortion else None,
        teachers=tuple(str(t) for t in teachers) or None,
        **changes,
    )


def subjects(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    """Check ``1,2,3``."""
    return [s.strip() for s in value.split(",") if s.strip()] if value else []


@click.command(
    "train",
    epilog="""\b
Examples:
  hgr train --dataset shrec17 --root ~/SHREC2017 --out runs/s17 --held-out-subjects 4,13,14,22
  hgr train --dataset shrec17 --root ~/SHREC2017 --classes 14 --model devineau --out runs/paper \\
            --recipe original --held-out-subjects 4,13,14,22
  hgr train --dataset shrec17 --root ~/SHREC2017 --folds 5 --out runs/folds
  hgr train --dataset shrec17 --root ~/SHREC2017 --folds 5 --seeds 5 --teacher runs/folds \\
            --out runs/taught
  hgr train --dataset recordings --root my_gestures --out runs/mine --minutes 5
  hgr train --dataset shrec17 --root ~/SHREC2017 --out runs/s17 --resume runs/s17
\b
Then: hgr evaluate runs/s17 ..., hgr export runs/s17 -o mine.pt, tensorboard --logdir runs
""",
)
@click.option("--dataset", type=click.Choice(DATASETS), required=True, help="Whose layout is read.")
@click.option("--root", type=click.Path(exists=True, path_type=Path), required=True,
              help="Folder of the data set.")  # fmt: skip
@click.option("--classes", type=click.Choice(["14", "28"]), help="Of shrec17.  [default: 28]")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV of file,label[,subject].  [default: ROOT/labels.csv]")  # fmt: skip
@click.option("--rate", "rate_hz", type=click.FloatRange(1, 1000), default=30.0, show_default=True,
              help="Frames a second of the recordings.")  # fmt: skip
@click.option("--model", type=click.Choice(["flagship", "devineau"]), default="flagship",
              show_default=True)  # fmt: skip
@click.option("--recipe", type=click.Choice(["modern", "original"]), default="modern",
              show_default=True, help="original: the paper's, for devineau.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.")
@click.option("--minutes", type=click.FloatRange(min=0.05), help="Shorten the training to this.")
@click.option("--patience", type=click.IntRange(min=1),
              help="End after so many epochs that are no better.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="[default: 0]")
@click.option("--seeds", type=click.IntRange(min=1),
              help="As many trainings (of each fold), seeds 0, 1, ...")  # fmt: skip
@click.option("--width", type=click.IntRange(min=4), help="Channels of the flagship.")
@click.option("--branches", type=click.IntRange(min=1), help="Networks averaged in the flagship.")
@click.option("--augment", type=click.FloatRange(0, 3), default=1.0, show_default=True,
              help="Strength of the distortions.")  # fmt: skip
@click.option("--sharpness", type=click.FloatRange(0, 2), metavar="RADIUS",
              help="Sharpness-aware: lower the loss in this neighbourhood of the weights; twice "
              "the work.")  # fmt: skip
@click.option("--teacher", "teachers", multiple=True, metavar="RUN_DIR",
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Learn this run's scores as well, or of folds those of the ones that "
              "have not seen whom is held out (repeatable).")  # fmt: skip
@click.option("--also", multiple=True, metavar="NAME=DIR",
              help="Learn another data set beside, its labels apart: shrec17, shrec21, shrec22, "
              "recordings (repeatable).")  # fmt: skip
@click.option("--beside", type=click.IntRange(0, 256),
              help="Gestures of each of these in every batch.")  # fmt: skip
@click.option("--backwards/--no-backwards", default=None,
              help="Learn the gestures played backwards beside.")  # fmt: skip
@click.option("--held-out-subjects", callback=subjects, metavar="A,B,...",
              help="Validate on these and never train on them.")  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2),
              help="A run for each of so many groups of subjects; all: leave one out.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="CPU threads; more than one only pays on idle cores.")  # fmt: skip
@click.option("--resume", type=click.Path(exists=True, file_okay=False, path_type=Path),
              metavar="DIR", help="Go on with an interrupted run.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="RUN_DIR",
              help="Folder of the run.  [default: that of --resume]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def train_isolated_command(
    dataset: str,
    root: Path,
    classes: str | None,
    labels: Path | None,
    rate_hz: float,
    model: str,
    recipe: str,
    epochs: int | None,
    minutes: float | None,
    patience: int | None,
    seed: int | None,
    seeds: int | None,
    width: int | None,
    branches: int | None,
    augment: float,
    sharpness: float | None,
    teachers: tuple[Path, ...],
    also: tuple[str, ...],
    beside: int | None,
    backwards: bool | None,
    held_out_subjects: list[str],
    folds: int | None,
    device: str,
    threads: int,
    resume: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train on isolated gestures into a run folder: settings, checkpoints, curves, best network.

    Hold subjects out to learn how good it is; hold nobody out for the model that is used. A run
    that was interrupted goes on with --resume, with its own settings.
    """
    run = out or resume
    if run is None:
        raise click.UsageError("name the run's folder with --out")
    if resume is not None and out is not None and resume.resolve() != out.resolve():
        raise click.UsageError(f"--resume {resume} goes on in that folder; leave --out away")
    if folds and held_out_subjects:
        raise click.UsageError("--folds holds out every subject once; leave --held-out-subjects")
    if seeds and seed is not None:
        raise click.UsageError("--seed and --seeds: name one of them")
    if patience and not (held_out_subjects or folds):
        raise click.UsageError("--patience needs --held-out-subjects to be judged on")
    try:
        import torch

        from ..datasets.base import DatasetError
        from ..recognition.bundle import ModelError
        from ..training.isolated import Outcome
        from ..training.isolated_folds import spread, train_folds
        from ..training.isolated_recipe import TrainingError
    except ImportError as error:
        raise click.ClickException(
            f"training needs {error.name}: pip install 'hgr-stream[train]'"
        ) from None
    torch.set_num_threads(threads)
    gestures = load_gestures(
        dataset, root, int(classes) if classes else None, labels, rate_hz,
        "train" if dataset == "shrec17" and any(root.rglob("train_gestures.txt")) else None,
    )  # fmt: skip
    for note in gestures.notes[:5]:
        click.echo(note, err=True)
    settings = chosen_recipe(
        model, recipe, augment, teachers,
        epochs=epochs, minutes=minutes, patience=patience, seed=seed, width=width,
        branches=branches, sharpness=sharpness, beside=beside, backwards=backwards,
    )  # fmt: skip
    command = shlex.join(["hgr", *sys.argv[1:]])
    common: dict[str, Any] = {"device": device, "resume": resume is not None, "command": command}
    common["also"] = load_others(also)
    outcomes: list[Outcome] = []
    try:
        with Stages() as stages:

            def watch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
                text = f"{epoch}/{epochs}, loss {figures['loss/train']:.3f}"
                if "accuracy/validation" in figures:
                    text += f", held out {100 * figures['accuracy/validation']:.2f} %"
                stages("epochs", epoch / epochs, text)

            for outcome in train_folds(
                gestures, settings, run, folds or 0, held_out=held_out_subjects,
                seeds=[*range(seeds)] if seeds else [], watch=watch, **common,
            ):  # fmt: skip
                outcomes.append(outcome)
                stages.again()
    except KeyboardInterrupt:
        raise click.ClickException(f"stopped; go on with --resume {run}") from None
    except (TrainingError, DatasetError, ModelError, OSError) as error:
        raise click.ClickException(str(error)) from None
    found = [
        {"run": str(o.folder), "seed": o.seed, "epochs": o.epochs, "held_out": o.held_out}
        | o.figures
        for o in outcomes
    ]
    many = bool(folds) or (seeds or 1) > 1
    over = spread(outcomes) if many else {}
    if over:
        (run / "report.json").write_text(json.dumps({"runs": found, "spread": over}, indent=1))
    if as_json:
        click.echo(json.dumps({"runs": found, "spread": over} if many else found[0]))
        return
    for one in found:
        scores = ", ".join(f"{k} {v:.4f}" for k, v in one.items() if "accuracy/val" in str(k))
        click.echo(f"{one['run']}: {one['epochs']} epochs; {scores or 'nobody was held out'}")
    for name, row in over.items():
        seeds_by, runs_by = (100 * row[f"deviation of {what}"] for what in ("seeds", "runs"))
        click.echo(
            f"{name}: mean {100 * row['mean']:.2f} %, deviation {seeds_by:.2f} over "
            f"{len(row['by seed'])} seeds, {runs_by:.2f} over {len(found)} runs"
        )
