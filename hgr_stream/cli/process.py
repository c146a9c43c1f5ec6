"""``hgr process``: the pipeline in lock step over recordings, without processes or clocks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from ..config import Config
from ..datasets.base import DatasetError
from ..datasets.convert import FORMATS, Format, open_recordings
from ..datasets.numbering import FrameNumbers
from ..messages import Event
from ..pipeline import BATCH, Pipeline, recording_notes, run_recording
from .configured import model_and_config
from .errors import errors_told
from .rates import RATE_HELP, rate_of, rate_option


def event_lines(
    file: str, events: list[Event], devices: Mapping[str, FrameNumbers]
) -> Iterator[dict[str, object]]:
    """The lines of one recording: ``early`` and ``confirmed``, joined by ``id``; and one
    ``cancelled`` for each early label that was not confirmed. An early line is completed with the
    end that its gesture turned out to have."""
    last = {e.id: e for e in events if e.final}
    told_early = {e.id for e in events if e.kind == "early"}
    for event in events:
        if event.kind == "cancelled" and event.id not in told_early:
            continue
        if event.kind not in ("early", "confirmed", "cancelled"):
            continue
        final = last.get(event.id, event)
        numbers = devices[event.device]
        end_ns = final.offset_ns or final.decided_ns
        start_ns = min(event.onset_ns if event.kind == "early" else final.onset_ns, end_ns)
        line: dict[str, object] = {
            "file": file,
            "id": event.id,
            "kind": event.kind,
            "label": event.label,
            "start": numbers.seconds(start_ns),
            "end": numbers.seconds(end_ns),
            "report": numbers.seconds(event.report_ns),
            "confidence": round(event.confidence, 4),
            "hand": event.hand,
            "device": event.device,
            "start_frame": numbers.nearest(start_ns),
            "end_frame": numbers.nearest(end_ns),
            "report_frame": numbers.latest(event.report_ns),
        }
        if event.kind == "early":
            line["outcome"] = final.kind
        if event.reason:
            line["reason"] = event.reason
        yield line


@click.command(
    epilog="""\b
Examples:
  hgr process my.mcap
  hgr process recordings/ --model leap --json > events.jsonl
  hgr process my.mcap --config leap
  hgr process --format shrec21 test_sequences/ --json
\b
JSON, one line an event: file, id, kind (early, confirmed, cancelled), label, start, end, report
(seconds of the recording), confidence, hand, device, and start_frame, end_frame, report_frame in
the file's own numbering, or counted from 0 where it has none. An early line tells when its label
was fixed (report, report_frame), the end that the gesture turned out to have, and its outcome:
confirmed, by a line of the same id and label, or cancelled, by a line that says why.
"""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_and_config
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Of the files. [default: told from the files themselves]",
)
@rate_option(RATE_HELP)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each event.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64))
def process(
    files: tuple[Path, ...],
    config_: Config,
    format_: Format | None,
    rate_hz: float | None,
    as_json: bool,
    threads: int,
) -> None:
    """Gesture events of recordings: files or folders, in any known format.

    The same stages as the daemon's, in lock step and faster than real time, with the same events;
    of a daemon that has a config of its own, with --config.
    A file that cannot be read is named on standard error, the others go on, and the exit code
    is 1.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    from ..recognition.bundle import load
    from ..recognition.choice import settings

    with errors_told():
        bundle = load(config_.model.use, threads)
        # Refuses what the model does not know, before a recording is read.
        settings(bundle.metadata, config_.recognition, bundle.metadata.decoder)
    failed: list[str] = []

    def complain(error: Exception) -> None:
        failed.append(str(error))
        click.echo(f"Error: {error}", err=True)

    console = Console(stderr=True, markup=False)
    progress = Progress(
        SpinnerColumn(),
        "{task.description}",
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    began_s = time.perf_counter()
    stream_s, told, done = 0.0, 0, 0
    with progress:
        task = progress.add_task("reading")
        for recording in open_recordings(
            files,
            format_,
            complain,
            rate_hz=rate_of(bundle, rate_hz),
        ):
            progress.update(task, description=f"{recording.name} ({done} done, {told} events)")
            pipeline = Pipeline(
                bundle, config_.segmentation, batch=BATCH, asked=config_.recognition
            )
            try:
                events, devices = run_recording(pipeline, recording.frames)
            except DatasetError as error:
                complain(error)
                continue
            many = recording.name != recording.file.stem
            name = (
                f"{recording.file}#{recording.name}"
                if _holds_many(recording.file)
                else str(recording.file)
            )
            if not devices:
                complain(DatasetError(f"{name}: holds no frames"))
                continue
            done += 1
            notes = recording_notes(pipeline, devices)
            for note in [*recording.notes, *notes, *refusals(pipeline)]:
                click.echo(f"{name}: {note}", err=True)
            stream_s += max(n.seconds(int(n.times_ns[-1])) for n in devices.values())
            for line in event_lines(name, events, devices):
                if as_json:
                    click.echo(json.dumps(line))
                elif line["kind"] == "confirmed":
                    click.echo(
                        f"{name if many else recording.name}  {line['start']:9.3f} - "
                        f"{line['end']:9.3f} s  {line['label']:12} {line['confidence']:4.0%}  "
                        f"{line['hand']}"
                    )
                told += line["kind"] == "confirmed"
    took_s = time.perf_counter() - began_s
    click.echo(
        f"{done} recordings, {stream_s:.1f} s of stream in {took_s:.2f} s "
        f"({stream_s / max(took_s, 1e-9):.0f} times real time): {told} gestures confirmed",
        err=True,
    )
    sys.exit(1 if failed or not done else 0)


def _holds_many(file: Path) -> bool:
    return file.suffix == ".npz" or file.is_dir()


def refusals(pipeline: Pipeline) -> list[str]:
    """One line for each thing that was refused or lost on the way."""
    names = ("duplicates", "lost", "time_backwards", "clock_resets", "hands_jumped", "restarts")
    return [
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in sorted(pipeline.counts.items())
        if count and (name in names or name.startswith(("hands_", "refused")))
    ]
