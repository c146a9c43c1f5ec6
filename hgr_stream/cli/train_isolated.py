"""``hgr train`` without ``--online``: from isolated gestures to a trained run."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from ..config import path_of
from .errors import errors_told, needs
from .numbers import Number
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
    from ..datasets.gestures import load_recordings, load_shrec17

    if dataset != "shrec17" and classes is not None:
        raise click.UsageError(
            "--classes is of shrec17; recordings have those of their labels file"
        )
    if dataset == "shrec17" and labels is not None:
        raise click.UsageError("--labels is of recordings; shrec17 brings its own")
    with errors_told():
        if dataset == "shrec17":
            return load_shrec17(root, 14 if classes == 14 else 28, split=split)
        return load_recordings(root, labels, rate_hz)


def official_part(dataset: str, root: Path) -> Literal["train"] | None:
    """Of SHREC'17 the official test list is not learnt from, unless a split file says who is."""
    listed = dataset == "shrec17" and any(root.rglob("train_gestures.txt"))
    return "train" if listed else None


def divided(gestures: Gestures, split: Path) -> tuple[Gestures, list[str]]:
    """The gestures that a split file names, and the people of its part test; raises
    click.ClickException, for people who are in both parts as well."""
    from ..datasets.gestures import in_order, read_split

    with errors_told():
        parts = read_split(split, gestures)
    train, test = ({gestures.subjects[i] for i in parts[part]} for part in ("train", "test"))
    if "" in train & test:
        raise click.ClickException(
            f"{split}: gestures that name no subject are in both parts; name the subjects"
        )
    if both := sorted(train & test):
        raise click.ClickException(
            f"{split}: subject {both[0]!r} is in both parts; a person is learnt or held out whole"
        )
    named = sorted(i for part in parts.values() for i in part.tolist())
    return gestures.take(named), in_order(test)


def name_and_root(told: str) -> tuple[str, Path | None]:
    """Of ``NAME=DIR``, whose ~ a shell leaves as it is; None where no folder is told."""
    name, _, root = told.partition("=")
    return name, path_of(root) if root else None


def load_others(named: tuple[str, ...], rate_hz: float) -> list[Gestures]:
    """Data sets as ``shrec21=DIR`` that are learnt beside, at ``rate_hz`` (shrec17 has its own);
    raises click.ClickException."""
    from ..datasets.gestures import load_continuous

    found = []
    for one in named:
        name, root = name_and_root(one)
        match name:
            case "shrec21" | "shrec22" if root:
                with errors_told():
                    found.append(load_continuous(name, root, rate_hz))
            case "shrec17" | "recordings" if root:
                part = official_part(name, root)
                found.append(load_gestures(name, root, None, None, rate_hz, part))
            case _:
                raise click.UsageError(
                    f"--also {one}: wants shrec17, shrec21, shrec22 or recordings, =DIR"
                )
    return found


def chosen_recipe(
    model: str, recipe: str, strength: float, teachers: tuple[Path, ...], **changes: Any
) -> Recipe:
    """The preset with what the options change; None changes nothing."""
    from ..training.isolated_recipe import FLAGSHIP, MODERN, ORIGINAL, scaled

    if model == "flagship" and recipe == "original":
        raise click.UsageError("--recipe original is the reference network's: add --model devineau")
    for name in ("width", "branches"):
        if model == "devineau" and changes.get(name):
            raise click.UsageError(f"--{name} is of the flagship; devineau has its own")
    if recipe == "original" and strength != 1:
        raise click.UsageError("--augment: --recipe original distorts nothing")
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


#: What says nothing of the run itself; the second may be given anew when it is resumed.
_APART: Final = frozenset({"device", "threads", "resume", "out", "as_json"})
_PLACES: Final = frozenset({"root", "labels", "also", "split"})


def options_of(context: click.Context) -> dict[str, Any]:
    """What a run is told, for its settings; folders wherever it is resumed from."""

    def plain(name: str, value: Any) -> Any:
        if name == "held_out_subjects":
            return ",".join(value) or None
        if name == "also":
            parts = (name_and_root(one) for one in value)
            return [f"{name}={(root or Path()).resolve()}" for name, root in parts]
        if isinstance(value, tuple):
            return [plain(name, v) for v in value]
        return str(value.resolve()) if isinstance(value, Path) else value

    return {k: plain(k, v) for k, v in sorted(context.params.items()) if k not in _APART}


def remembered(context: click.Context, _: click.Parameter, folder: Path | None) -> Path | None:
    """What the run in a folder was told is what it is not told now."""
    if folder is None:
        return None
    try:
        from ..training.isolated_recipe import TrainingError
        from ..training.runs import read_run, runs_in
    except ImportError as error:
        raise needs("training", error) from None
    with errors_told(TrainingError):
        before = read_run(runs_in(folder)[0]).get("options", {})
    context.meta["before"] = before
    context.default_map = {k: v for k, v in before.items() if v is not None and v != []}
    return folder


def refuse_changes(context: click.Context) -> None:
    """Raise click.UsageError for an option by which a resumed run would be another."""
    now = options_of(context)
    for name, before in context.meta.get("before", {}).items():
        if name not in _PLACES and now.get(name) != before:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            told = f"told {option} {before}" if before not in (None, []) else f"not told {option}"
            raise click.UsageError(f"--resume: the run was {told}, and goes on as it began")


def checked_folds(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Check ``5`` or ``all``."""
    if value is None or value == "all" or (value.isdecimal() and 2 <= int(value) <= 10_000):
        return value
    raise click.BadParameter(f"{value!r} is neither all nor a number of 2 or more")


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
  hgr train --resume runs/s17
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
@click.option("--rate", "rate_hz", type=Number(1, 1000), default=30.0, show_default=True,
              help="Frames a second of recordings, those of --also too.")  # fmt: skip
@click.option("--model", type=click.Choice(["flagship", "devineau"]), default="flagship",
              show_default=True)  # fmt: skip
@click.option("--recipe", type=click.Choice(["modern", "original"]), default="modern",
              show_default=True, help="original: the paper's, for devineau.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data.")
@click.option("--minutes", type=Number(min=0.05), help="Shorten the training to this.")
@click.option("--patience", type=click.IntRange(min=1),
              help="End after so many epochs that are no better.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="[default: 0]")
@click.option("--seeds", type=click.IntRange(min=1),
              help="As many trainings (of each fold), seeds 0, 1, ...")  # fmt: skip
@click.option("--width", type=click.IntRange(min=4), help="Channels of the flagship.")
@click.option("--branches", type=click.IntRange(min=1), help="Networks averaged in the flagship.")
@click.option("--augment", type=Number(0, 3), default=1.0, show_default=True,
              help="Strength of the distortions.")  # fmt: skip
@click.option("--sharpness", type=Number(0, 2), metavar="RADIUS",
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
@click.option("--split", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="FILE", help="CSV of lines 'what,part', as hgr evaluate reads it: learn "
              "the part train, validate on the people of the part test.")  # fmt: skip
@click.option("--folds", metavar="N|all", callback=checked_folds,
              help="A run for each of so many groups of subjects; all: leave one out.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="CPU threads; more than one only pays on idle cores.")  # fmt: skip
@click.option("--resume", type=click.Path(exists=True, file_okay=False, path_type=Path),
              is_eager=True, callback=remembered, metavar="DIR",
              help="Go on with an interrupted run, with what it was told.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="RUN_DIR",
              help="Folder of the run.  [default: that of --resume]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@click.pass_context
def train_isolated_command(
    context: click.Context,
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
    split: Path | None,
    folds: str | None,
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
    refuse_changes(context)
    run = out or resume
    if run is None:
        raise click.UsageError("name the run's folder with --out")
    if resume is not None and out is not None and resume.resolve() != out.resolve():
        raise click.UsageError(f"--resume {resume} goes on in that folder; leave --out away")
    if folds and (held_out_subjects or split):
        raise click.UsageError(
            "--folds holds out every subject once; leave --held-out-subjects and --split"
        )
    if split and held_out_subjects:
        raise click.UsageError("--split and --held-out-subjects: name one of them")
    if seeds and seed is not None:
        raise click.UsageError("--seed and --seeds: name one of them")
    if patience and not (held_out_subjects or split or folds):
        raise click.UsageError("--patience needs --held-out-subjects to be judged on")
    try:
        import torch

        from ..datasets.gestures import first_of
        from ..datasets.shrec17 import RATE_HZ
        from ..training.isolated import Outcome
        from ..training.isolated_folds import spread, train_folds
        from ..training.isolated_recipe import TrainingError
        from ..training.runs import LAST, write_json
    except ImportError as error:
        raise needs("training", error) from None
    if dataset == "shrec17" and rate_hz != RATE_HZ:
        raise click.UsageError(f"--rate is of recordings; shrec17 has {RATE_HZ}")
    torch.set_num_threads(threads)
    gestures = load_gestures(
        dataset, root, int(classes) if classes else None, labels, rate_hz,
        None if split else official_part(dataset, root),
    )  # fmt: skip
    for note in first_of(gestures.notes):
        click.echo(note, err=True)
    if split is not None:
        gestures, held_out_subjects = divided(gestures, split)
    settings = chosen_recipe(
        model, recipe, augment, teachers,
        epochs=epochs, minutes=minutes, patience=patience, seed=seed, width=width,
        branches=branches, sharpness=sharpness, beside=beside, backwards=backwards,
    )  # fmt: skip
    command = shlex.join(["hgr", *sys.argv[1:]])
    common: dict[str, Any] = {"device": device, "resume": resume is not None, "command": command}
    common["also"] = load_others(also, gestures.rate_hz)
    common["options"] = options_of(context)
    many_folds = len(set(gestures.subjects)) if folds == "all" else int(folds or 0)
    outcomes: list[Outcome] = []

    def which() -> str:
        """Of several runs the one that is under way."""
        done = len(outcomes)
        told = [f"fold {done % many_folds + 1}/{many_folds}"] if many_folds else []
        told += [f"seed {done // (many_folds or 1) + 1}/{seeds}"] if (seeds or 1) > 1 else []
        return "".join(f"{what}, " for what in told)

    try:
        with errors_told(TrainingError, written=run), Stages() as stages:

            def watch(epoch: int, epochs: int, figures: dict[str, float]) -> None:
                text = f"{which()}epoch {epoch}/{epochs}, loss {figures['loss/train']:.3f}"
                if "accuracy/validation" in figures:
                    text += f", held out {100 * figures['accuracy/validation']:.2f} %"
                stages("training", figures["share"], text)

            for outcome in train_folds(
                gestures, settings, run, many_folds, held_out=held_out_subjects,
                seeds=[*range(seeds)] if seeds else [], watch=watch, **common,
            ):  # fmt: skip
                outcomes.append(outcome)
                stages.again()
    except KeyboardInterrupt:
        if any(run.rglob(LAST)):
            raise click.ClickException(f"stopped; go on with --resume {run}") from None
        raise click.ClickException("stopped before an epoch was finished: begin anew") from None
    for note in dict.fromkeys(note for o in outcomes for note in o.notes):
        click.echo(note, err=True)
    found = [
        {"run": str(o.folder), "seed": o.seed, "epochs": o.epochs, "held_out": o.held_out}
        | o.figures
        for o in outcomes
    ]
    many = bool(folds) or (seeds or 1) > 1
    over = spread(outcomes) if many else {}
    if over:
        with errors_told(TrainingError):
            write_json(run / "report.json", {"runs": found, "spread": over})
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
