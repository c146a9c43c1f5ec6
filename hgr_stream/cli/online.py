"""``hgr evaluate --online`` and ``hgr tune``: a model on continuous recordings."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..config import Config, Segmentation
from ..datasets.base import DatasetError
from ..datasets.convert import Format, Recording, open_recordings
from .configured import model_and_config
from .errors import errors_told, needs
from .numbers import Number
from .rates import RATE_HELP, rate_of, rate_option, refuse_rate
from .telling import tell, tell_left_out

if TYPE_CHECKING:
    from ..recognition.bundle import Bundle
    from ..training.metrics import Grade, Rule
    from ..training.online_evaluate import OnlineReport, Played
    from ..training.thresholds import Tuned

#: The benchmark whose rule scores a data set; spliced streams are scored by SHREC'21's.
RULES: dict[str, Rule] = {
    "shrec21": "shrec21",
    "shrec22": "shrec22",
    "shrec17": "shrec21",
    "recordings": "shrec21",
}
#: A rule, for people.
SAID: dict[Rule, str] = {
    "shrec21": "rule of SHREC'21",
    "shrec22": "rule of SHREC'22",
    "any": "any overlap counts",
}


def open_all(
    root: Path,
    dataset: str | None,
    split: str,
    truth: Path | None,
    silent: bool,
    rate_hz: float | None = None,
) -> tuple[list[Recording], str | None]:
    """The recordings to judge a model on, with what is performed, and the part of the data set that
    they are known to be. rate_hz: of one's own that tell no times. Raises DatasetError."""
    from ..training.material import ISOLATED, part_told, spliced_recordings
    from ..training.truth import complete, give_truth, own_recordings

    if dataset in ISOLATED:
        return spliced_recordings(dataset, root, split, rate_hz=rate_hz), split
    format_: Format | None = dataset  # type: ignore[assignment]
    if dataset:
        part, known = part_told(root, split)
        recordings = list(open_recordings([part], format_))
    else:
        recordings, known = own_recordings(root, rate_hz), None
    if truth is not None:
        if len(recordings) != 1:
            raise DatasetError(f"{truth}: a truth file belongs to one recording")
        give_truth(recordings[0], truth)
    elif not silent:
        recordings = complete(recordings, tell)
        recordings = recordings if dataset else _told_of(recordings)
    return recordings, known


def _told_of(recordings: list[Recording]) -> list[Recording]:
    """One's own recordings whose truth is known, unless there is none: where nothing is said every
    event would count as false."""
    from ..training.truth import nothing_told

    kept = [r for r in recordings if r.truths or r.silent]
    if not kept:
        return recordings
    for recording in recordings:
        if not (recording.truths or recording.silent):
            tell(f"left out: {nothing_told(recording)}")
    return kept


def judges(bundle: Bundle, recordings: list[Recording], dataset: str = "") -> list[Recording]:
    """Those that the model was not trained on, the others told, with what is performed by the names
    that its training gave (--same); raises DatasetError for none."""
    from ..training.learnt import unlearnt
    from ..training.truth import unknown_labels

    kept = unlearnt(bundle.metadata.training, recordings)
    tell_left_out(len(recordings) - len(kept), bundle.metadata.name)
    same: dict[str, str] = bundle.metadata.training.get("same", {})
    for recording in kept:
        recording.truths = [
            msgspec.structs.replace(t, label=same.get(t.label, t.label)) for t in recording.truths
        ]
    if not dataset:
        for line in unknown_labels(kept, bundle.metadata.labels, bundle.metadata.name):
            tell(f"warning: {line}")
    return kept


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  hgr evaluate --online --dataset shrec21 --root ~/shrec21_test --split test
  hgr evaluate --online --dataset shrec22 --root ~/shrec22 --model hololens --split train --json
  hgr evaluate --online --dataset shrec22 --root ~/shrec22 --split train --shared
  hgr evaluate --online --dataset shrec17 --root ~/shrec17 --split train --model spliced.pt
  hgr evaluate --online --root session.mcap --truth truth.csv --picture timeline.png
  hgr evaluate --online --root sessions/                    a NAME.csv beside each recording
  hgr evaluate --online --root office_hour.mcap --silent    nobody gestures: false events an hour
  hgr evaluate --online --root session.mcap --truth truth.csv --perturb rate=15 --perturb left
\b
Isolated gestures (shrec17, recordings) are judged spliced into streams.
Perturbations: rate=HZ jitter=SHARE gaps=S glitch=SHARE phantom=SHARE lost=S left turned=DEG
raised=DEG size=FACTOR noise=MM; see hgr_stream/training/perturb.py.
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
    help="Which part of the data set.",
)
@rate_option(RATE_HELP)
@model_and_config
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
@click.option(
    "--shared",
    is_flag=True,
    help="Ask only for gestures that the model knows, and the config tells.",
)
@click.option("--silent", is_flag=True, help="Nobody gestures in the recordings.")
@click.option(
    "--perturb",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Perturb the recordings first; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def evaluate_online_command(
    online: bool,
    dataset: str | None,
    root: Path,
    split: str,
    rate_hz: float | None,
    config_: Config,
    truth: Path | None,
    picture: Path | None,
    timeline: str | None,
    shared: bool,
    silent: bool,
    perturb: tuple[str, ...],
    as_json: bool,
) -> None:
    """A model on continuous recordings, by the benchmarks' rules and by what a user feels.

    Both grades of events: confirmed at the gesture's end, and early. Recordings that the model was
    trained on are left out, whatever their files are called; trained on all of them, it is refused.
    """
    from rich.console import Console

    from ..recognition.bundle import load
    from ..training.material import ISOLATED
    from ..training.online_evaluate import evaluate
    from ..training.perturb import parse, perturbed

    if truth is not None and silent:
        raise click.UsageError("--truth says what is performed, --silent that nothing is: give one")
    if timeline is not None and picture is None:
        raise click.UsageError("--timeline says which recording is drawn: give --picture too")
    if picture is not None and not picture.parent.is_dir():
        raise click.ClickException(f"{picture}: there is no folder {picture.parent}")
    if dataset in ISOLATED and (truth is not None or silent):
        raise click.UsageError(
            f"--dataset {dataset}: its gestures are spliced into streams, which tell what is "
            "performed: no --truth, no --silent"
        )
    refuse_rate(rate_hz, [dataset or "streams"])
    with errors_told():
        changes = [parse(text) for text in perturb]
        bundle = load(config_.model.use)
        console = Console(stderr=True, markup=False)
        with console.status("reading") as status:
            rate_hz = rate_of(bundle, rate_hz)
            recordings, part = open_all(root, dataset, split, truth, silent, rate_hz)
            recordings = judges(bundle, recordings, dataset or "")
            silent = silent or all(r.silent for r in recordings)
            names = [r.name for r in recordings]
            if timeline is not None and timeline not in names:
                raise DatasetError(
                    f"no recording is called {timeline!r}; there are {', '.join(names)}"
                )
            rule = RULES.get(dataset or "", "any")
            said = f"{len(recordings)} recordings, {SAID[rule]}"
            if changes:
                recordings = perturbed(recordings, changes)
                said += f", {' '.join(map(str, changes))}"
            played, reports = evaluate(
                bundle,
                recordings,
                rule,
                config=config_,
                shared=shared,
                silent=silent,
                watch=lambda name: status.update(f"{name}"),
                tell=tell,
            )
    if as_json:
        report = as_object(bundle, dataset, part, played, reports)
        click.echo(json.dumps({**report, "rule": rule, "perturbed": [str(c) for c in changes]}))
    elif silent:
        show_silent(played, reports)
    else:
        show(bundle, said, reports)
    if picture is not None:  # last: what is wrong with it costs nobody the figures
        at = names.index(timeline or names[0])
        _draw(bundle, recordings[at], played[at], picture, config_.segmentation)


def as_object(
    bundle: Bundle,
    dataset: str | None,
    split: str | None,
    played: Sequence[Played],
    reports: dict[Grade, OnlineReport],
) -> dict[str, Any]:
    """For machines."""
    from ..training.intervals import rounded

    return {
        "model": bundle.metadata.name,
        "dataset": dataset,
        "split": split,
        "recordings": len(played),
        "gestures": sum(len(p.truths) for p in played),
        "seconds": round(sum(p.seconds for p in played), 1),
        "hand_seconds": round(sum(p.hand_s for p in played), 1),
        "frame_s": played[0].frame_s,
        **{
            grade: {
                **r.summary(),
                "intervals": rounded(r.intervals),
                "per_class": {
                    c.label: {"truths": c.truths, "hits": c.hits, "false": c.false}
                    for c in r.benchmark.per_class
                },
            }
            for grade, r in reports.items()
        },
    }


def show_silent(played: Sequence[Played], reports: dict[Grade, OnlineReport]) -> None:
    """For people, of recordings in which nobody gestures."""
    hours = sum(p.seconds for p in played) / 3600
    in_view = sum(p.hand_s for p in played) / 3600
    for grade, r in reports.items():
        low, high = r.intervals.get("false_per_hour", (0.0, float("inf")))
        click.echo(
            f"{grade:9}  {r.benchmark.strays} false events in {hours:.2f} h, "
            f"{r.benchmark.false_per_hour:.1f} an hour (95 %: {low:.1f} to {high:.1f})"
        )
        which = sorted(r.benchmark.per_class, key=lambda c: -c.false)
        if which:
            click.echo(f"{'':9}  {', '.join(f'{c.label} {c.false}' for c in which)}")
    click.echo(f"a hand was in view for {in_view:.2f} h of it")


def _draw(
    bundle: Bundle, recording: Recording, played: Played, picture: Path, options: Segmentation
) -> None:
    """The recording's timeline as a picture; raises click.ClickException."""
    from ..training.online_evaluate import timeline

    try:
        with errors_told(written=picture):
            timeline(bundle, recording, played, picture, options)
    except ValueError as error:  # an ending that matplotlib does not know
        raise click.ClickException(f"{picture}: {error}") from None
    except ImportError as error:
        raise needs("a picture", error) from None
    tell(f"wrote {picture}")


def show(bundle: Bundle, said: str, reports: dict[Grade, OnlineReport]) -> None:
    """For people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    columns = [title for grade in reports for title in (grade, "95 %")]
    table = Table("", *columns, title=f"{bundle.metadata.name} on {said}")
    rows = (
        ("detection rate", "detection_rate", "{:.3f}"),
        ("false positives", "false_positives", "{:.3f}"),
        ("Jaccard index", "jaccard", "{:.3f}"),
        ("delay, frames", "delay", "{:.1f}"),
        ("event precision", "precision", "{:.3f}"),
        ("event recall", "recall", "{:.3f}"),
        ("event F1", "f1", "{:.3f}"),
        ("false events an hour", "false_per_hour", "{:.1f}"),
        ("edit-distance accuracy", "edit_accuracy", "{:.3f}"),
        ("time to detect, share", "time_to_detect", "{:.2f}"),
        ("commit lag, ms", "commit_lag_ms", "{:.0f}"),
        ("calibration error", "calibration_error", "{:.3f}"),
    )
    summaries = [(r.summary(), r.intervals) for r in reports.values()]
    for title, key, form in rows:
        cells = []
        for found, limits in summaries:
            cells += [form.format(found[key]), " - ".join(map(form.format, limits.get(key, ())))]
        table.add_row(title, *cells)
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
  hgr tune sessions/ --for f1                a sensor that the model never saw: a few recordings
  hgr tune sessions/ --for f1 --false-per-hour 1 --model hololens
  hgr tune night.mcap --silent --config kiosk.toml       nobody gestures; begin with what is set
\b
TRUTH is a CSV file of label,start_s,end_s, in seconds from the first frame; of a folder,
each recording NAME brings its own or has a NAME.csv beside it, and one that is NAME.csv itself
a NAME.truth.csv.
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path), required=False)
@rate_option(RATE_HELP)
@model_and_config
@click.option("--silent", is_flag=True, help="Nobody gestures in the recordings.")
@click.option(
    "--for",
    "goal",
    type=click.Choice(("quiet", "f1")),
    default="quiet",
    show_default=True,
    help="quiet: raise thresholds until few events are false. f1: lower and raise them for the "
    "highest event F1.",
)
@click.option(
    "--false-per-hour",
    type=Number(0),
    help="At most so many events where nobody gestures.  [default: 1; with --for f1 no limit]",
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
    rate_hz: float | None,
    config_: Config,
    silent: bool,
    goal: str,
    false_per_hour: float | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find each gesture's threshold for a place, or for a new sensor.

    Prints a [recognition.threshold] table for the config. For few false events record an hour in
    which people do what they do there, gestures and all: thresholds are as good as the recording is
    long. For a new sensor (--for f1) ten recordings with every gesture two or three times will do;
    the same recordings do more with hgr train --online --from MODEL. Thresholds that the config has
    are where the search begins, and are printed with those found.
    """
    from rich.console import Console

    from ..recognition.bundle import load
    from ..training.intervals import rounded
    from ..training.thresholds import tune as find

    if truth is not None and silent:
        raise click.UsageError("TRUTH says what is performed, --silent that nothing is: give one")
    if output is not None:
        _refuse_to_replace(output)
    if goal == "quiet" and false_per_hour is None:
        false_per_hour = 1.0
    with errors_told():
        bundle = load(config_.model.use)
        found = open_all(file, None, "", truth, silent, rate_of(bundle, rate_hz))
        recordings = judges(bundle, found[0])
        silent = silent or all(r.silent for r in recordings)
        if silent:
            for recording in recordings:
                recording.truths = []
        elif not any(t.label in bundle.metadata.labels for r in recordings for t in r.truths):
            raise DatasetError(
                f"{file}: no gesture that {bundle.metadata.name} knows is said to be performed; "
                "give a TRUTH file, or --silent if nobody gestures"
            )
        if silent and goal == "f1":
            raise DatasetError(f"{file}: nobody gestures there, which says nothing of F1")
        with Console(stderr=True, markup=False).status("running the recordings") as status:
            tuned = find(
                bundle, recordings, false_per_hour, for_f1=goal == "f1", config=config_,
                watch=status.update, tell=tell,
            )  # fmt: skip
    threshold = {**config_.recognition.threshold, **tuned.threshold}
    # A TOML string is written as one of JSON is.
    keys = {label: json.dumps(label, ensure_ascii=False) for label in threshold}
    lines = ["[recognition.threshold]", *(f"{keys[k]} = {v}" for k, v in threshold.items())]
    if as_json:
        told = {
            "threshold": threshold,
            "unrefused": tuned.unrefused,
            **{
                name: {**r.summary(), "intervals": rounded(r.intervals)}
                for name, r in (("before", tuned.before), ("after", tuned.after))
            },
            "unseen_f1": {"own": tuned.usual_f1, "tuned": tuned.expected_f1},
        }
        click.echo(json.dumps(told))
        _write(output, lines)
        return
    if not tuned.threshold and not tuned.unrefused:
        whose = "these" if threshold else "the model's own"
        click.echo(f"# {whose} thresholds will do")
    if threshold:
        click.echo("\n".join(lines))
    tell_worth(tuned, silent=silent, false_per_hour=false_per_hour, for_f1=goal == "f1")
    _write(output, lines)


def tell_worth(tuned: Tuned, *, silent: bool, false_per_hour: float | None, for_f1: bool) -> None:
    """For people, beside the thresholds: what these bring, and how far that is to be believed."""
    for label in tuned.unrefused:
        tell(
            f"{label}: even the surest events were false, which no threshold refuses; put it into "
            "ignore of [recognition]"
        )
    for name, r in (("before", tuned.before), ("after", tuned.after)):
        b = r.benchmark
        limits = r.intervals.get("false_per_hour")  # none where it is never idle
        within = f" (95 %: {limits[0]:.1f} to {limits[1]:.1f})" if limits else ""
        worth = f", recall {b.recall:.3f}, precision {b.precision:.3f}, F1 {b.f1:.3f}"
        tell(
            f"{name:6}  {b.false_per_hour:6.1f} false events an hour{within}"
            f"{'' if silent else worth}"
        )
    tell("(measured on the recordings that the thresholds were chosen on)")
    idle_h = tuned.before.benchmark.idle_h
    if false_per_hour and idle_h * false_per_hour < 1:
        tell(
            f"({60 * idle_h:.1f} minutes without a gesture are short for {false_per_hour:g} false "
            f"events an hour: record {60 / false_per_hour:.0f} and more)"
        )
    if tuned.expected_f1 is not None:
        tell(
            f"F1 on recordings left out of the choice: {tuned.expected_f1:.3f}, with the model's "
            f"own thresholds {tuned.usual_f1:.3f}"
        )
    elif for_f1:
        tell("(too few recordings to say what it is worth elsewhere: give three)")


def _refuse_to_replace(output: Path) -> None:
    """Of a file with anything but thresholds in it, a whole config say, the rest would be lost."""
    try:
        if not output.is_file():
            return
        told = tomllib.loads(output.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {"": None}
    found = told.pop("recognition", {})
    if told or not isinstance(found, dict) or found.keys() - {"threshold"}:
        raise click.ClickException(
            f"{output} exists and holds more than thresholds: name another file, or remove it"
        )


def _write(output: Path | None, lines: Sequence[str]) -> None:
    """Last: what is wrong with the file costs nobody what was found."""
    if output is not None:
        with errors_told(written=output):
            output.write_text("\n".join(lines) + "\n", encoding="utf-8")
