"""The same events, to the millisecond, whichever way a recording goes.

One recording through ``hgr process --json``, through the pipeline in this process, and through
``hgr replay`` onto a running daemon with a subscriber, at ``--speed max`` and ``--speed 1``.
Compared are every event's kind, label, hand, onset, offset, decision and report time (to the
millisecond), in their order for each hand; and the lines of ``hgr process`` with those that the
replayed events would give.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from harness import (
    SHREC21,
    Daemon,
    Report,
    command,
    json_option,
    model_option,
    progress,
    synthetic,
    synthetic_frames,
    write_recording,
)

from hgr_stream.client import Stream
from hgr_stream.messages import Event, Frame

#: Without an event for so long after the replay has ended, all have come.
QUIET_S = 1.5
Row = tuple[str, str, str, int, int, int, int]


def recording(most_s: float, folder: Path) -> tuple[Path, str]:
    """A SHREC'21 sequence of at most ``most_s`` with the most gestures, else a synthetic one."""
    from hgr_stream.datasets.convert import open_recordings

    out = folder / "same.mcap"
    if not SHREC21.is_file():
        write_recording(synthetic_frames(most_s, pause_s=0.5), out)
        return out, f"synthetic hand, {most_s:g} s"
    best: tuple[int, str, list[Frame]] = (-1, "", [])
    for one in open_recordings([SHREC21], "shrec21"):
        frames = list(one.frames)
        lasts_s = (frames[-1].time_ns - frames[0].time_ns) / 1e9
        if lasts_s <= most_s and len(one.truths) > best[0]:
            best = (len(one.truths), f"SHREC'21 sequence {one.name}, {lasts_s:.1f} s", frames)
    if not best[2]:
        raise click.ClickException(f"no SHREC'21 sequence is as short as {most_s:g} s")
    write_recording(best[2], out)
    return out, best[1]


def row(event: Event) -> Row:
    """What must be equal; times in ms."""
    times = (event.onset_ns, event.offset_ns, event.decided_ns, event.report_ns)
    onset, offset, decided, report = (round(t / 1e6) for t in times)
    return event.kind, event.label, event.hand, onset, offset, decided, report


def in_lock_step(path: Path, model: str) -> tuple[list[Event], Any]:
    """Events of the pipeline in this process, and the frame numbers of the file."""
    from hgr_stream.datasets.convert import open_recordings
    from hgr_stream.pipeline import BATCH, Pipeline, run_recording
    from hgr_stream.recognition.bundle import load

    pipeline = Pipeline(load(model), batch=BATCH)
    return run_recording(pipeline, next(iter(open_recordings([path]))).frames)


def process_lines(path: Path, model: str) -> list[dict[str, Any]]:
    """What ``hgr process --json`` prints."""
    argv = [command("hgr"), "process", str(path), "--model", model, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"hgr process failed: {done.stderr.strip()[-300:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def replayed(path: Path, model: str, speed: str) -> tuple[list[Event], int]:
    """Events at a subscriber of a daemon onto which the file is replayed; and what it lost."""
    events: list[Event] = []
    heard_s = time.monotonic()
    over = threading.Event()
    silent = {"none": synthetic(fps=15, hand_present=False)}
    with Daemon("same", silent, model) as daemon:
        stream = Stream(["gesture/"], daemon.endpoint, snapshot=True)

        def listen() -> None:
            nonlocal heard_s
            for received in stream:
                if over.is_set():
                    return
                if received is not None and isinstance(event := received.message(), Event):
                    events.append(event)
                    heard_s = time.monotonic()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        time.sleep(0.5)  # the subscription travels
        done = subprocess.run(
            [command("hgr"), "replay", str(path), "--speed", speed, "--name", daemon.name],
            env=daemon.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"hgr replay failed: {done.stderr.strip()[-300:]}")
        ended_s = time.monotonic()
        while time.monotonic() < max(heard_s, ended_s) + QUIET_S:
            time.sleep(0.05)
        over.set()
        listener.join(2.0)
        lost = stream.reception.lost
        stream.close()
    return events, lost


def by_hand(events: Iterable[Event]) -> list[Row]:
    """Rows hand after hand, each hand's in the order in which they came."""
    return [row(event) for event in sorted(events, key=lambda e: e.hand)]


def comparable(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without what is of one run only, times to the millisecond."""
    return [
        {
            key: round(value, 3) if key in ("start", "end", "report") else value
            for key, value in line.items()
            if key not in ("file", "id", "confidence")
        }
        for line in lines
    ]


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/same_events.py
  python tools/bench/same_events.py --file my.mcap --json
""",
)
@model_option
@click.option("--file", "given", type=click.Path(path_type=Path, exists=True), help="Compare this.")
@click.option("--seconds", default=40.0, show_default=True, help="The longest sequence to choose.")
@json_option
def main(model: str, given: Path | None, seconds: float, as_json: bool) -> None:
    from hgr_stream.cli.process import event_lines

    report = Report("same_events")
    with tempfile.TemporaryDirectory(prefix="hgr-bench-") as folder:
        progress("the recording")
        path, what = (given, str(given)) if given else recording(seconds, Path(folder))
        report.notes.append(what)
        progress("lock step")
        wanted, numbers = in_lock_step(path, model)
        progress("hgr process --json")
        lines = comparable(process_lines(path, model))
        _compare(report, "hgr process --json", comparable(event_lines("", wanted, numbers)), lines)
        for speed in ("max", "1"):
            progress(f"hgr replay --speed {speed}")
            events, lost = replayed(path, model, speed)
            name = f"hgr replay --speed {speed}"
            _compare(report, f"{name}, every event", by_hand(wanted), by_hand(events))
            _compare(report, f"{name}, lines", lines, comparable(event_lines("", events, numbers)))
            if lost:
                report.notes.append(f"{name}: the subscriber lost {lost} messages")
    report.show(as_json)


def _compare(report: Report, what: str, wanted: list[Any], got: list[Any]) -> None:
    equal = wanted == got
    same = sum(a == b for a, b in zip(wanted, got, strict=False))
    report.add(
        what,
        same,
        "equal",
        floor=float(len(wanted)),
        spread=f"{len(got)} came",
        target="all equal",
        holds=equal,
    )
    if not equal:
        pairs = zip(
            [*wanted, *[None] * (len(got) - len(wanted))],
            [*got, *[None] * (len(wanted) - len(got))],
            strict=True,
        )
        report.tables[f"{what}: first differences"] = [
            {"lock step": str(a), "there": str(b)} for a, b in pairs if a != b
        ][:6]


if __name__ == "__main__":
    main()
