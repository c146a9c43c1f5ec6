"""``hgr evaluate`` and ``hgr export``: how good a trained model is, and its file."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .errors import errors_told, needs
from .numbers import Number
from .train_isolated import DATASETS, load_gestures

if TYPE_CHECKING:
    from ..datasets.gestures import Gestures
    from ..training.evaluate import Report

PATIENT = "--patience chose the epoch on these people: the accuracy flatters"


@click.command(
    epilog="""\b
Examples:
  hgr evaluate --root ~/SHREC2017 --split test                     the shipped shrec17-14
  hgr evaluate runs/s17 --root ~/SHREC2017 --split held-out        a run, on whom it held out
  hgr evaluate runs/folds --root ~/SHREC2017 --split held-out      all folds, pooled
  hgr evaluate runs/seeds --root ~/SHREC2017 --split test          the mean of all seeds
  hgr evaluate mine.pt --dataset recordings --root new_takes --json
  hgr evaluate mine.pt --root ~/SHREC2017 --split my_split.csv --out report/
\b
A split file holds lines 'what,part': a gesture's name or a subject, and train or test.
"""
)
@click.argument("model", required=False)
@click.option("--model", "named", metavar="NAME|FILE|RUN_DIR", help="The same as MODEL.")
@click.option("--dataset", type=click.Choice(DATASETS), default="shrec17", show_default=True)
@click.option("--root", type=click.Path(exists=True, path_type=Path), required=True,
              help="Folder of the data set.")  # fmt: skip
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV of file,label[,subject].  [default: ROOT/labels.csv]")  # fmt: skip
@click.option("--split", default="", metavar="test|train|all|held-out|FILE",
              help="Which gestures.  [default: test where a list says who, else all]")  # fmt: skip
@click.option("--coarse", is_flag=True, help="Judge a run by its coarse classes: the 14 of 28.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Write report.json and confusion.png there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def evaluate(
    model: str | None,
    named: str | None,
    dataset: str,
    root: Path,
    labels: Path | None,
    split: str,
    coarse: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Accuracy of a model on isolated gestures of people that it has not seen.

    Recordings without times count at the rate that the model was trained with. With its 95 %
    intervals (Wilson's, and with whole people drawn anew), a table by class, the spread over
    subjects, the calibration error, and the accuracy when only a part of the gesture was seen. A
    model that has learnt from any gesture or person that it would be evaluated on is refused.
    """
    chosen = model or named or "shrec17-14"
    if model and named and model != named:
        raise click.UsageError("MODEL and --model name two models")
    listed = dataset == "shrec17" and any(root.rglob("*_gestures.txt"))  # DHG has no lists
    split = split or ("test" if listed else "all")
    try:
        from ..training.evaluate import OverlapError
        from ..training.isolated_recipe import TrainingError
    except ImportError as error:
        raise needs("evaluating", error) from None
    try:
        with errors_told(TrainingError):
            gestures, whole = _gestures(dataset, root, labels, split, _rate_hz(chosen))
            found = _report(chosen, gestures, whole, split, coarse)
    except OverlapError as error:
        raise click.ClickException(f"{chosen}: refused: {error}") from None
    except ImportError as error:  # scipy, of a model whose gestures are stretched by splines
        raise needs("evaluating", error) from None
    told = {"model": chosen, "split": split} | found.to_dict()
    if as_json:
        click.echo(json.dumps(told))
    else:
        _show(chosen, found)
    if out is not None:  # last: what cannot be written costs no evaluation
        _write(told, found, out)


def _write(told: dict[str, Any], found: Report, out: Path) -> None:
    """The report and its picture into a folder; raises click.ClickException."""
    from ..training.evaluate import draw_confusion

    report, picture = out / "report.json", out / "confusion.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(told, indent=1))
        draw_confusion(found, picture)
    except OSError as error:
        raise click.ClickException(f"{out}: cannot be written: {error.strerror or error}") from None
    except ImportError as error:
        raise needs(f"{report} is written; its picture", error) from None
    click.echo(f"wrote {report} and {picture}", err=True)


def _rate_hz(chosen: str) -> float:
    """Of the gestures that a model file or a folder of runs was trained on; of a model for streams,
    which has a rate of its own, those of ``hgr train --online --rate``."""
    from ..datasets.gestures import RECORDINGS_HZ
    from ..recognition.bundle import read_metadata
    from ..training.runs import read_run, runs_in

    if Path(chosen).is_dir():
        return float(read_run(runs_in(chosen)[0])["rate_hz"])
    metadata = read_metadata(chosen)
    own = RECORDINGS_HZ if metadata.kind == "streaming" else metadata.rate_hz
    training = metadata.training
    return float(training.get("rate_hz") or training.get("recordings_hz") or own)


def _gestures(
    dataset: str, root: Path, labels: Path | None, split: str, rate_hz: float
) -> tuple[Gestures, Gestures]:
    """Those to judge, and all that were read."""
    from ..datasets.gestures import read_split

    lists: dict[str, Literal["train", "test"]] = {"test": "test", "train": "train"}
    official = lists.get(split) if dataset == "shrec17" else None
    if split in lists and official is None:
        raise click.UsageError(f"--split {split} is of shrec17; name a split file, or all")
    whole = gestures = load_gestures(dataset, root, None, labels, rate_hz, official)
    if official is None and split not in {"all", "held-out"}:
        if not Path(split).is_file():
            raise click.UsageError(f"--split {split}: not test, train, all, held-out, nor a file")
        tested = read_split(split, gestures)["test"]
        if not len(tested):
            raise click.ClickException(f"{split}: names nothing to test on")
        gestures = whole.take(tested)
    return gestures, whole


def _report(chosen: str, gestures: Gestures, whole: Gestures, split: str, coarse: bool) -> Report:
    """Of a model file, of a run, of the folds in a folder, each on those it held out, or of the
    seeds in it."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from ..datasets.takes import copies_told
    from ..training import evaluate as ev
    from ..training.learnt import Learnt
    from ..training.runs import runs_in

    runs = runs_in(chosen) if Path(chosen).is_dir() else []
    if coarse and not runs:
        raise click.UsageError("--coarse wants a run's folder; a model file has its classes")
    if split == "held-out" and not runs:
        raise click.UsageError("--split held-out wants a run's folder, which tells who was")
    models: list[tuple[ev.Model, list[str] | None]] = []
    seeds: list[int] = []
    told: list[dict[str, Any]] = []
    for run in runs:
        model, settings = _of_run(run, coarse)
        seeds.append(settings["recipe"]["seed"])
        told.append(settings)
        models.append((model, settings["held_out"] if split == "held-out" else None))
    if _are_folds(told) and split != "held-out":
        raise click.UsageError(f"{chosen} holds {len(runs)} folds; evaluate it on held-out")
    if not runs:
        models.append((ev.Model(chosen), None))
    torch.set_num_threads(1)  # as a model file runs: these steps are small, more only wait
    parts: list[tuple[Gestures, Any]] = []
    with Progress(console=Console(stderr=True, markup=False), transient=True) as bar:
        for model, people in models:
            own = ev.align(model.labels, gestures)
            if people is not None:
                own = own.take([i for i, s in enumerate(own.subjects) if s in people])
                if not len(own):
                    raise click.ClickException(f"{chosen}: held nobody out who is in the data")
            ev.refuse_overlap(model.bundle.metadata.training, own, whole)
            task = bar.add_task("gestures", total=1.0)
            found = ev.scores(model, own, watch=lambda s, t=task: bar.update(t, completed=s))  # type: ignore[misc]
            parts.append((own, found))
    notes = [note for own, _ in parts for note in copies_told(own, "they count twice")]
    for (model, _), (own, _) in zip(models, parts, strict=True):
        if same := Learnt.from_metadata(model.bundle.metadata.training).namesakes(own):
            notes.append(f"taken for others than those trained on, though called as they: {same}")
    more: list[str] = []
    if split == "held-out":
        parts, more = _not_fitted_to_them(parts, [model for model, _ in models])
        more += _not_held_out(told)
    else:
        more = _chosen_on(models[0][0].bundle.metadata.training, gestures)
    report = ev.pooled(parts, seeds)
    report.notes.extend(dict.fromkeys(notes + more))
    return report


def _not_held_out(told: list[dict[str, Any]]) -> list[str]:
    """Whom the folds of a seed miss, by runs' settings: what was stopped, or run in part."""
    if not _are_folds(told):
        return []
    everyone = {s for one in told for s in (*one["subjects"], *one["held_out"])}
    held: dict[int, set[str]] = {}
    for one in told:
        held.setdefault(one["recipe"]["seed"], set()).update(one["held_out"])
    return [
        f"seed {seed}: {len(left)} of {len(everyone)} people are held out by no run there"
        for seed, people in sorted(held.items())
        if (left := everyone - people)
    ]


def _are_folds(told: list[dict[str, Any]]) -> bool:
    """Whether runs, by their settings, held out one group after the other; seeds of one training
    did not, and are all judged on the same people, whoever these are."""
    return len({tuple(one["held_out"]) for one in told}) > 1


def _chosen_on(training: dict[str, Any], gestures: Gestures) -> list[str]:
    """What was chosen on people who are judged: its training held them out for that."""
    them = set(training.get("held_out", ())) & set(gestures.subjects)
    if training.get("data") != gestures.data or not them:
        return []
    recipe = training.get("recipe", {})
    notes = [PATIENT] if recipe.get("patience") else []
    if not recipe.get("temperature"):
        notes.append("the temperature was fitted to people judged here: the calibration flatters")
    return notes


def _not_fitted_to_them(
    parts: list[tuple[Gestures, Any]], models: list[Any]
) -> tuple[list[tuple[Gestures, Any]], list[str]]:
    """The held-out's scores with temperatures that were not fitted to them, and what to know of
    them: a run's own was, and with patience its epoch was chosen on them."""
    from ..training.evaluate import calibrated_apart

    notes: list[str] = []
    recipes = [model.bundle.metadata.training["recipe"] for model in models]
    if any(recipe["patience"] for recipe in recipes):
        notes.append(PATIENT)
    if all(recipe["temperature"] for recipe in recipes):
        return parts, notes
    if len({s for g, _ in parts for s in g.subjects}) < 2:
        notes.append("the temperature was fitted to this very person: the calibration flatters")
        return parts, notes
    found = calibrated_apart(parts, [model.bundle.metadata.temperature for model in models])
    notes.append("calibration: each person's temperature was fitted to the other people")
    return [(g, p) for (g, _), p in zip(parts, found, strict=True)], notes


def _of_run(run: Path, coarse: bool) -> tuple[Any, dict[str, Any]]:
    """A run's network as in the model file it would become, and the run's settings."""
    from ..recognition.bundle import Bundle
    from ..training.evaluate import Model
    from ..training.runs import model_of, read_run

    module, metadata = model_of(run, name=run.name, coarse=coarse)
    has_none = metadata.kind == "streaming"
    return Model(Bundle(metadata, module, run, has_none=has_none)), read_run(run)


def _show(chosen: str, found: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    console.print(
        f"{chosen}: {100 * found.accuracy:.2f} % of {found.gestures} gestures "
        f"(95 % interval {100 * found.low:.1f} to {100 * found.high:.1f})",
        highlight=False,
    )
    if found.by_people:
        low, high = found.by_people
        console.print(
            f"95 % interval of other people, {len(found.per_subject)} having been judged: "
            f"{100 * low:.1f} to {100 * high:.1f}",
            highlight=False,
        )
    if found.by_seed:
        each = ", ".join(f"{100 * a:.2f}" for a in found.by_seed.values())
        console.print(f"mean of {len(found.by_seed)} seeds: {each} "
                      f"(deviation {100 * found.seed_spread:.2f})", highlight=False)  # fmt: skip
    table = Table("class", "gestures", "precision", "recall", "F1")
    for name, row in found.per_class.items():
        figures = (f"{100 * row[k]:.1f}" for k in ("precision", "recall", "f1"))
        table.add_row(name, str(int(row["gestures"])), *figures)
    console.print(table)
    people = ", ".join(f"{s or '?'} {100 * a:.1f}" for s, a in found.per_subject.items())
    seen = ", ".join(f"{float(f):.0%} {100 * a:.1f}" for f, a in found.by_fraction.items())
    console.print(f"by subject: {people} (deviation {100 * found.subject_spread:.1f})")
    console.print(f"by share of the gesture seen: {seen}")
    console.print(f"calibration error: {found.calibration_error:.3f}")
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)


@click.command(
    epilog="""\b
Examples:
  hgr export runs/s17 -o mine.pt
  hgr export runs/s17 -o shrec17-14.pt --coarse
"""
)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path),
                metavar="RUN_DIR")  # fmt: skip
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Model file to write.")  # fmt: skip
@click.option("--name", default="", help="The model's name.  [default: the file's]")
@click.option("--coarse", is_flag=True, help="Give the coarse classes: the 14 of shrec17's 28.")
@click.option("--temperature", type=Number(0.05, 20),
              help="Of the scores.  [default: calibrated on the held-out]")  # fmt: skip
@click.option("--int8", is_flag=True, help="The reference network's first layer in 8 bits.")
@click.option("--scores", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A report.json of hgr evaluate, to be named in the file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the metadata.")
def export(
    run: Path,
    output: Path,
    name: str,
    coarse: bool,
    temperature: float | None,
    int8: bool,
    scores: Path | None,
    as_json: bool,
) -> None:
    """Write a trained run as one model file, with its data, seed, command and scores in it."""
    import msgspec

    try:
        from ..training.isolated_recipe import TrainingError
        from ..training.runs import export_run, read_run, runs_in
    except ImportError as error:
        raise needs("exporting", error) from None
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder; make it first")
    with errors_told(TrainingError, written=output):
        classes = read_run(runs_in(run)[0])["coarse_classes" if coarse else "classes"]
        metadata = export_run(
            run, output, name=name, coarse=coarse, temperature=temperature or 0.0, int8=int8,
            scores=_evaluated(scores, classes) if scores else None,
            command=shlex.join(["hgr", *sys.argv[1:]]),
        )  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(metadata).decode())
        return
    click.echo(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)", err=True)


def _evaluated(path: Path, classes: list[str]) -> dict[str, Any]:
    """What a model file of these classes tells of a report.json; raises click.ClickException."""
    keys = (
        "model",
        "split",
        "gestures",
        "accuracy",
        "low",
        "high",
        "subject_spread",
        "calibration_error",
    )
    try:
        report = json.loads(path.read_text())
        found = {k: report[k] for k in keys}
        by_seed, judged = report.get("by_seed"), set(report["labels"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise click.ClickException(f"{path}: not a report of hgr evaluate") from None
    if classes and judged != set(classes):
        raise click.ClickException(
            f"{path}: tells of {len(judged)} classes that are not the {len(classes)} of the file; "
            "hgr evaluate and hgr export want --coarse both or neither"
        )
    return {"evaluated": found | ({"by_seed": by_seed} if by_seed else {})}
