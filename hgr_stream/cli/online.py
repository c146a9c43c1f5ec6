"""``hgr evaluate --online`` and ``hgr tune``: a model on continuous recordings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..datasets.base import DatasetError
from ..datasets.convert import Format, Recording, open_recordings

if TYPE_CHECKING:
    from ..recognition.bundle import Bundle
    from ..training.online_evaluate import Grade, OnlineReport, Played

#: The benchmark whose rule scores a data set.
RULES = {"shrec21": "shrec21", "shrec22": "shrec22"}


def choose(
    bundle: Bundle, recordings: Sequence[Recording], dataset: str, split: str
) -> tuple[list[Recording], str]:
    """The recordings that a model may be judged on, and a word on them.

    On the training part of the data set that it was trained on, only what it held out; raises
    ClickException when it has seen everything."""
    training = bundle.metadata.training
    seen = str(training.get("data", "")).split(",")[0].strip().lower()
    if split != "train" or dataset not in seen:
        return list(recordings), f"{len(recordings)} recordings"
    if "all" in str(training.get("trained_on", "")).split(" but")[0].split():
        raise click.ClickException(
            f"{bundle.metadata.name} was trained on all of {dataset}'s training part: its figures "
            "there say nothing. Use --split test, another data set, or train without --all"
        )
    held = {str(name) for name in training.get("held_out", [])}
    kept = [r for r in recordings if r.name in held]
    if not kept:
        raise click.ClickException(
            f"none of these recordings was held out when {bundle.metadata.name} was trained"
        )
    return kept, f"{len(kept)} recordings held out of its training"


def add_truth(recordings: Sequence[Recording], truth: Path) -> None:
    """Give the one recording the truth of a file of its own; raises DatasetError."""
    from ..training.online_evaluate import truths_of

    if len(recordings) != 1:
        raise DatasetError(f"{truth}: a truth file belongs to one recording")
    first = next(iter(recordings[0].frames), None)
    if first is None:
        raise DatasetError(f"{recordings[0].file}: holds no frames")
    recordings[0].truths = truths_of(truth, first.device)
    for one in recordings[0].truths:
        one.onset_ns += first.time_ns
        one.offset_ns += first.time_ns


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  hgr evaluate --online --dataset shrec21 --root ~/shrec21_test --split test
  hgr evaluate --online --dataset shrec22 --root ~/shrec22 --model hololens --split train --json
  hgr evaluate --online --root session.mcap --truth truth.csv --picture timeline.png
""",
)
@click.option("--online", is_flag=True, help="Continuous recordings; without it: whole gestures.")
@click.option("--dataset", type=click.Choice(tuple(RULES)), help="Whose layout, and whose rule.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the data set, or recordings of one's own.",
)
@click.option(
    "--split",
    type=click.Choice(("train", "test")),
    default="test",
    show_default=True,
    help="Which part ROOT is; of the training part only what was held out is judged.",
)
@click.option("--model", default="leap", show_default=True, help="A shipped name or a file.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="CSV of label,start_s,end_s for one recording of one's own.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a timeline as PNG: truth above, events below, scores behind.",
)
@click.option("--timeline", metavar="NAME", help="Of this recording.  [default: the first]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def evaluate_online_command(
    online: bool,
    dataset: str | None,
    root: Path,
    split: str,
    model: str,
    truth: Path | None,
    picture: Path | None,
    timeline: str | None,
    as_json: bool,
) -> None:
    """A model on continuous recordings, by the benchmarks' rules and by what a user feels.

    Both grades of events: confirmed at the gesture's end, and early. A model that was trained on
    all of what it would be judged on is refused.
    """
    from rich.console import Console

    from ..recognition.bundle import ModelError, load
    from ..training.online_evaluate import evaluate
    from ..training.online_evaluate import timeline as draw

    try:
        bundle = load(model)
        format_: Format | None = dataset if dataset in RULES else None  # type: ignore[assignment]
        recordings = list(open_recordings([root], format_))
        if truth is not None:
            add_truth(recordings, truth)
        recordings, said = choose(bundle, recordings, dataset or "", split)
        console = Console(stderr=True)
        with console.status("reading") as status:
            played, reports = evaluate(
                bundle,
                recordings,
                RULES.get(dataset or "", "any"),  # type: ignore[arg-type]
                watch=lambda name: status.update(f"{name}"),
            )
        if picture is not None:
            wanted = timeline or played[0].name
            chosen = [(r, p) for r, p in zip(recordings, played, strict=True) if p.name == wanted]
            if not chosen:
                raise DatasetError(f"no recording is called {wanted!r}")
            draw(bundle, chosen[0][0], chosen[0][1], picture)
            click.echo(f"wrote {picture}", err=True)
    except (DatasetError, ModelError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(as_object(bundle, dataset, split, played, reports)))
    else:
        show(bundle, said, reports, played)


def as_object(
    bundle: Bundle,
    dataset: str | None,
    split: str,
    played: Sequence[Played],
    reports: dict[Grade, OnlineReport],
) -> dict[str, Any]:
    """For machines."""
    return {
        "model": bundle.metadata.name,
        "dataset": dataset,
        "split": split,
        "recordings": len(played),
        "gestures": sum(len(p.truths) for p in played),
        "seconds": round(sum(p.seconds for p in played), 1),
        "frame_s": played[0].frame_s,
        **{
            grade: {
                **r.summary(),
                "per_class": {
                    c.label: {"truths": c.truths, "hits": c.hits, "false": c.false}
                    for c in r.benchmark.per_class
                },
            }
            for grade, r in reports.items()
        },
    }


def show(
    bundle: Bundle, said: str, reports: dict[Grade, OnlineReport], played: Sequence[Played]
) -> None:
    """For people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("", *reports, title=f"{bundle.metadata.name} on {said}")
    rows = (
        ("detection rate", "detection_rate", "{:.3f}"),
        ("false positives", "false_positives", "{:.3f}"),
        ("Jaccard index", "jaccard", "{:.3f}"),
        ("delay, frames", "delay", "{:.1f}"),
        ("event precision", "precision", "{:.3f}"),
        ("event recall", "recall", "{:.3f}"),
        ("event F1", "f1", "{:.3f}"),
        ("false events an hour of idle", "false_per_hour", "{:.1f}"),
        ("edit-distance accuracy", "edit_accuracy", "{:.3f}"),
        ("normalised time to detect", "time_to_detect", "{:.2f}"),
        ("commit lag, ms", "commit_lag_ms", "{:.0f}"),
        ("calibration error", "calibration_error", "{:.3f}"),
    )
    summaries = [r.summary() for r in reports.values()]
    for title, key, form in rows:
        table.add_row(title, *(form.format(s[key]) for s in summaries))
    console.print(table)
    classes = Table("class", "truths", "hits", "false", title="confirmed events")
    for c in reports["confirmed"].benchmark.per_class:
        classes.add_row(c.label, str(c.truths), str(c.hits), str(c.false))
    console.print(classes)


@click.command(
    epilog="""\b
Examples:
  hgr tune session.mcap truth.csv
  hgr tune session.mcap truth.csv --false-per-hour 0.5 -o thresholds.toml
  hgr tune DIR --model leap          recordings that bring their own truth
\b
TRUTH is a CSV file of label,start_s,end_s, in seconds from the recording's first frame.
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path), required=False)
@click.option("--model", default="leap", show_default=True, help="A shipped name or a file.")
@click.option(
    "--false-per-hour",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="At most so many events where nobody gestures.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the [recognition.threshold] table there.",
)
@click.option("--json", "as_json", is_flag=True, help="Thresholds and figures as one JSON object.")
def tune(
    file: Path,
    truth: Path | None,
    model: str,
    false_per_hour: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find each gesture's threshold for a wanted rate of false events.

    Prints a [recognition.threshold] table for the config. Record an hour in which people do what
    they do there, gestures and all: thresholds are as good as the recording is long.
    """
    from rich.console import Console

    from ..recognition.bundle import ModelError, load
    from ..training.thresholds import tune as find

    try:
        bundle = load(model)
        recordings = list(open_recordings([file]))
        if truth is not None:
            add_truth(recordings, truth)
        if not any(r.truths for r in recordings):
            raise DatasetError(f"{file}: says nothing of what is performed; give a TRUTH file")
        with Console(stderr=True).status("running the recordings"):
            tuned = find(bundle, recordings, false_per_hour)
    except (DatasetError, ModelError) as error:
        raise click.ClickException(str(error)) from None
    lines = ["[recognition.threshold]", *(f'"{k}" = {v}' for k, v in tuned.threshold.items())]
    if output is not None:
        output.write_text("\n".join(lines) + "\n")
    if as_json:
        click.echo(
            json.dumps(
                {
                    "threshold": tuned.threshold,
                    "before": tuned.before.summary(),
                    "after": tuned.after.summary(),
                }
            )
        )
        return
    click.echo("\n".join(lines) if tuned.threshold else "# the model's own thresholds will do")
    for name, r in (("before", tuned.before), ("after", tuned.after)):
        b = r.benchmark
        click.echo(
            f"{name:6}  {b.false_per_hour:6.1f} false events an hour, recall {b.recall:.3f}, "
            f"precision {b.precision:.3f}",
            err=True,
        )
    click.echo("(measured on the recordings that the thresholds were chosen on)", err=True)
