"""``hgr model``: what model files say of themselves, and giving the running daemon another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..stream.bus import MODEL_TIMEOUT_S
from .daemon import control, daemon_option
from .errors import errors_told

if TYPE_CHECKING:
    from rich.console import Console

    from ..recognition.options import Metadata

#: Columns of the scores of streams: key, title, format.
STREAM_SCORES = (
    ("detection_rate", "DR", "{:.3f}"),
    ("false_positives", "FP", "{:.3f}"),
    ("jaccard", "JI", "{:.3f}"),
    ("overlap", "overlap", "{:.2f}"),
    ("f1", "F1", "{:.3f}"),
    ("false_per_hour", "false/h", "{:.1f}"),
    ("delay", "delay, s", "{:.2f}"),
)


@click.group(
    "model",
    epilog="\b\nExamples:\n  hgr model list\n  hgr model show leap\n  hgr model use my-model.pt\n",
)
def model_command() -> None:
    """Show models, or give the running daemon another one."""


@model_command.command(
    "use", epilog="\b\nExamples:\n  hgr model use my-model.pt\n  hgr model use leap\n"
)
@click.argument("model")
@daemon_option
def model_use(model: str, daemon: Path) -> None:
    """Swap the running daemon's model, without a restart.

    MODEL is a file or a shipped model's name. One that does not fit the running stream is
    refused, and the old one runs on.
    """
    path, _ = _metadata(model)
    timeout_s = MODEL_TIMEOUT_S + 2.0  # the supervisor's own answer comes first
    click.echo(control(daemon, {"op": "model", "model": str(path.resolve())}, timeout_s))


@model_command.command("list", epilog="\b\nExample:\n  hgr model list\n")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def model_list(as_json: bool) -> None:
    """The shipped models and their gestures."""
    from ..recognition.bundle import shipped

    for name in shipped():
        _, m = _metadata(name)
        if as_json:
            click.echo(json.dumps({"name": name, "labels": m.labels, "rate_hz": m.rate_hz}))
        else:
            click.echo(f"{name:12} {len(m.labels)} gestures: {' '.join(m.labels)}")


@model_command.command(
    "show", epilog="\b\nExamples:\n  hgr model show leap\n  hgr model show mine.pt --json\n"
)
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
def model_show(model: str, as_json: bool) -> None:
    """What a model file says of itself: gestures, rate, training, scores."""
    path, metadata = _metadata(model)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(metadata)))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    facts = Table.grid(padding=(0, 2))
    for title, text in _facts(metadata):
        facts.add_row(title, text)
    facts.add_row("file", f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    console.print(facts)
    show_scores(console, metadata.scores)


def show_scores(console: Console, scores: dict[str, Any]) -> None:
    """A model's scores on streams as a table, if it has any."""
    from rich.table import Table

    own = {k: v for k, v in scores.items() if isinstance(v, dict)}
    streams = {k: v for k, v in own.items() if "detection_rate" in v}
    if not streams:
        return
    table = Table()
    table.add_column("scores", no_wrap=True)
    for _, title, _ in STREAM_SCORES:
        table.add_column(title)
    for name, found in streams.items():
        table.add_row(name, *(form.format(found.get(key, nan)) for key, _, form in STREAM_SCORES))
    console.print(table)
    console.print(f"of {scores.get('of', 'this file')}")


def _metadata(model: str) -> tuple[Path, Metadata]:
    """A file or a shipped name; raises ClickException."""
    from ..recognition.bundle import read_metadata, resolve

    with errors_told():
        path = resolve(model)
        return path, read_metadata(path)


def _facts(m: Metadata) -> Iterator[tuple[str, str]]:
    """What is worth a line, with its title."""
    from ..training.learnt import Learnt

    work = f"steps at {m.rate_hz:g} Hz"
    if m.kind == "windowed":
        work = f"windows of {m.size} frames at {m.rate_hz:g} Hz, every {m.hop}"
    yield "model", f"{m.name}, version {m.version}: {work}"
    yield f"{len(m.labels)} gestures", ", ".join(m.labels)
    yield "needs", ", ".join(m.needs) or "nothing but joints"
    exchanged = ", ".join(f"{a} is {b}" for a, b in m.mirror_labels.items())
    if m.mirror_left:
        yield "left hands", "are mirrored" + (f": {exchanged}" if exchanged else "")
    t: dict[str, Any] = dict(m.training)
    held_out = t.pop("held_out", [])
    for key in ("data", "command", "export", "seed", "trained_on"):
        if t.get(key) not in (None, ""):
            yield key.replace("_", " "), str(t[key])
    if isinstance(before := t.get("from"), dict):
        yield "before that", f"{before.get('name')}: {before.get('command')}"
    if held_out:
        yield "held out", f"{len(held_out)}: {', '.join(map(str, held_out))}"
    with errors_told():
        learnt = Learnt.from_metadata(t)
    counts = ((len(learnt.recordings), "recordings"), (learnt.count, "takes"))
    if told := " and ".join(f"{n} {what}" for n, what in counts if n):
        yield "learnt from", f"{told}, which it is not judged on"
    if versions := t.get("versions"):
        yield "made with", ", ".join(f"{k} {v}" for k, v in versions.items())
    own = msgspec.to_builtins(m.decoder)
    limits = own.pop("per_class", {})
    if own:
        yield "decoder", ", ".join(f"{k} {v}" for k, v in own.items())
    if limits:
        yield (
            "lasts, s",
            ", ".join(
                f"{label} {one.get('min_duration_s', 0):.1f}-{one.get('max_duration_s', 0):.1f}"
                for label, one in limits.items()
            ),
        )
    found = m.scores.get("evaluated")
    if isinstance(found, dict):
        low, middle, high = (100 * found.get(k, nan) for k in ("low", "accuracy", "high"))
        what = f"{found.get('gestures')} gestures, {found.get('split')}, of {found.get('model')}"
        yield "accuracy", f"{middle:.1f} % ({low:.1f} to {high:.1f}) of {what}"
    elif "accuracy/validation" in m.scores:
        told = f"{100 * m.scores['accuracy/validation']:.1f} % of those held out in training"
        yield "accuracy", f"{told}, by which its weights may have been chosen: see hgr evaluate"
