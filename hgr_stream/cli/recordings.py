"""``hgr record``, ``replay``, ``info``, ``recover``, ``import``: recordings in and out."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from ..daemon.shell import ending_signals
from ..datasets.convert import SOURCES
from ..recording import Writer
from ..recording_info import DeviceInfo, Info
from ..stream.clock import monotonic_ns, wall_offset_ns
from .daemon import checked_name, connect_option, daemon_option
from .errors import errors_told
from .numbers import SECONDS, Number

if TYPE_CHECKING:
    from ..client import Stream
    from ..datasets.convert import Format
    from ..messages import Frame

PROGRESS_S = 0.5
#: Messages that may wait while the disk is slow: half a minute of a busy stream.
RECORD_QUEUE = 200_000
#: After the end was asked for, what has come already is still written, for so long at most.
DRAIN_S = 0.5

file_argument = click.argument("file", type=click.Path(path_type=Path))
fps_option = click.option(
    "--fps",
    type=Number(1, 1000),
    help="Frames a second, for formats without time.  [30, or as the file says]",
)
force_option = click.option("--force", is_flag=True, help="Overwrite what is there.")


class Progress:
    """A line on standard error that is written over, and only where a person sees it."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0
        self._open = False

    def show(self, text: str, now_s: float) -> None:
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_S
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
            self._open = True

    def close(self) -> None:
        if self._open:
            click.echo("\r\x1b[K", err=True, nl=False)


def size(n_bytes: int) -> str:
    """A file's size for a person."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"


@click.command(
    epilog="""\b
Examples:
  hgr record session.mcap
  hgr record session.mcap --duration 60
  hgr record frames.mcap --topic frame/ --topic gesture/
"""
)
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.mcap")
@click.option("--topic", "topics", multiple=True, help="Only topics that begin so (repeatable).")
@click.option("--duration", type=SECONDS, help="End after so many s.")
@force_option
@connect_option
def record(
    out: Path, topics: tuple[str, ...], duration: float | None, force: bool, connect: str | None
) -> None:
    """Record the running stream, all topics, until Ctrl-C.

    The file is whole at every moment but its last quarter of a second: a kill or a power cut
    costs no more (hgr recover gives a cut file its index back). Exit code 1 when nothing came.
    """
    from ..client import Stream
    from .stream import tell_losses, tell_when_absent

    with errors_told(written=out), Writer(out, force=force, source="hgr record") as writer:
        tell_when_absent(connect)
        with Stream(topics or ("",), connect, queue=RECORD_QUEUE) as stream:
            _record(stream, writer, duration)
            lost = stream.lost
    click.echo(f"{out}: {writer.messages:,} messages, {size(out.stat().st_size)}", err=True)
    tell_losses(lost)
    if not writer.messages:
        click.echo("nothing was recorded: hgr hz shows whether anything is sent", err=True)
        raise SystemExit(1)


def _record(stream: Stream, writer: Writer, duration_s: float | None) -> None:
    asked = draining = False

    def end(*_: object) -> None:
        nonlocal asked
        asked = True

    began_s = monotonic_ns() / 1e9  # as below: Python's own monotonic clock may be another
    wall_ns = wall_offset_ns()
    end_s = None if duration_s is None else began_s + duration_s
    before = {s: signal.signal(s, end) for s in ending_signals()}
    progress = Progress()
    try:
        for received in stream:
            now_ns = monotonic_ns()
            now_s = now_ns / 1e9
            if received is not None:
                writer.record(received.topic, received.payload, wall_ns + now_ns)
            writer.tick(now_s)
            rate = writer.messages / max(now_s - began_s, 1e-3)
            progress.show(
                f"{writer.messages:,} messages, {rate:,.0f}/s, "
                f"{size(writer.bytes_written)}, lost {stream.lost}",
                now_s,
            )
            if asked and not draining:
                draining, end_s = True, min(now_s + DRAIN_S, end_s or now_s + DRAIN_S)
            if end_s is not None and now_s >= end_s:
                break
            if draining and received is None:
                break
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        progress.close()


@click.command(
    epilog="""\b
Examples:
  hgr replay session.mcap
  hgr replay session.mcap --speed max
  hgr replay session.mcap --speed 0.5 --start 12.5 --loop
  hgr replay session.mcap --step
"""
)
@file_argument
@click.option("--speed", default="1", show_default=True, help='Times the recorded pace, or "max".')
@click.option("--start", type=Number(min=0), default=0.0, help="Begin so many s in.")
@click.option("--step", is_flag=True, help="A frame each time Enter is pressed.")
@click.option("--loop", is_flag=True, help="Begin again at the end, until Ctrl-C.")
@click.option(
    "--device", default="", callback=checked_name, help="Another name than the recorded one."
)
@daemon_option
def replay(
    file: Path, speed: str, start: float, step: bool, loop: bool, device: str, daemon: Path
) -> None:
    """Replay FILE as a device on the running stream, in the recording's own timing.

    Nothing is dropped, however fast: the replay waits for the pipeline. FILE is a recording, or a
    file that hgr import reads.
    """
    from hgr_drivers.base import DeviceError, Sample
    from hgr_drivers.replay import ReplayDriver, ReplayOptions
    from hgr_drivers.runner import run

    from ..playback import exact_speed

    try:
        exact_speed(speed)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--speed") from None

    progress = Progress()

    class Told(ReplayDriver):
        """Tells a person how far it is."""

        frames = 0

        def read(self, timeout_s: float) -> Sample | None:
            sample = super().read(timeout_s)
            if sample is not None and sample.frame is not None and not sample.frame.end:
                self.frames += 1
                if self.frames == 1:
                    click.echo(f"replaying as device {sample.frame.device}", err=True)
                if step:
                    click.echo(_frame_line(sample.frame, self.position_s), err=True)
                else:
                    text = f"{self.position_s:9.2f} s  frame {sample.frame.index}"
                    progress.show(text, time.monotonic())
            return sample

    driver = Told(
        ReplayOptions(
            file=str(file), speed=speed, start_s=start, step=step, device=device, loop=loop
        )
    )
    try:
        driver.open()  # what is wrong with the file is told before the daemon is looked for
    except DeviceError as error:
        raise click.ClickException(str(error)) from None
    began_s = time.monotonic()
    try:
        code = run(driver, device or "replay", daemon)
    finally:
        progress.close()
    took_s = time.monotonic() - began_s
    click.echo(f"{file}: {driver.frames:,} frames replayed in {took_s:.2f} s", err=True)
    raise SystemExit(code)


def _frame_line(frame: Frame, position_s: float) -> str:
    hands = ", ".join(f"{hand.side} {hand.id}" for hand in frame.hands) or "no hand"
    return f"{position_s:9.3f} s  {frame.device} frame {frame.index}: {hands}"


@click.command(
    epilog="""\b
Examples:
  hgr info session.mcap
  hgr info session.mcap --json | jq .devices
  hgr info openpose_output/ --fps 25
  hgr info capture.bvh
"""
)
@file_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each recording.")
@fps_option
def info(file: Path, as_json: bool, fps: float | None) -> None:
    """What a recording holds: hands, rates, gaps, losses, bone lengths, events.

    FILE is a recording, or a file or folder that hgr import reads. Exit code 0 also for one that
    holds nothing: it is told so.
    """
    with errors_told():
        for found in _infos(file, fps):
            click.echo(json.dumps(msgspec.to_builtins(found)) if as_json else described(found))


def _infos(path: Path, fps: float | None) -> Iterator[Info]:
    """Of a foreign file, what its import would hold."""
    from ..datasets.convert import guess_format, import_file
    from ..recording_info import info as read_info

    format_ = guess_format(path)
    _check_fps(format_, fps)
    if format_ == "mcap" and path.is_file():
        yield read_info(path)
        return
    with tempfile.TemporaryDirectory(prefix="hgr-info-") as folder:
        report = import_file(format_, path, Path(folder), fps=fps)
        for written in report.written:
            found = read_info(written.path)
            of = f"{written.name}: "
            found.file = str(path) if len(report.written) == 1 else f"{path}#{written.name}"
            found.metadata = {"format": format_}
            found.notes = [n.removeprefix(of) for n in report.notes if n.startswith(of)]
            yield found
            written.path.unlink()


def described(found: Info) -> str:
    """``hgr info`` for a person."""
    lines = [
        f"{found.file}: {found.duration_s:.2f} s, {found.frames:,} frames, "
        f"{found.messages:,} messages, {size(found.bytes)}"
    ]
    if found.metadata:
        told = {k: v for k, v in found.metadata.items() if v}
        lines.append("  " + ", ".join(f"{key} {value}" for key, value in told.items()))
    lines += [f"  note: {note}" for note in found.notes]
    lines += [f"  unreadable: {n} x {what}" for what, n in found.bad_messages.items()]
    if not found.frames:
        lines.append("  no frames in it")
    for device in found.devices:
        lines += _device_lines(device)
    if found.events:
        lines.append("events")
        for label, kinds in found.events.items():
            counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            lines.append(f"  {label:14} {counts}")
    if found.truths:
        performed = ", ".join(f"{label} {n}" for label, n in found.truths.items())
        lines.append(f"performed: {performed}")
    lines.append("topics")
    lines += [f"  {t.messages:>9,}  {t.topic}  {t.schema}" for t in found.topics]
    return "\n".join(lines)


def _device_lines(device: DeviceInfo) -> Iterator[str]:
    yield (
        f"device {device.device}: {device.frames:,} frames in {device.duration_s:.2f} s, "
        f"{device.rate_hz:.1f} Hz (p99 period {device.period_p99_ms:.1f} ms)"
    )
    yield (
        f"  gaps {device.gaps} (longest {device.longest_gap_s:.3f} s), lost {device.lost}, "
        f"out of order {device.out_of_order}, time back {device.time_backwards}, "
        f"time standing {device.time_standing}, starts {device.boots}"
    )
    if device.slots:
        yield "  windows: " + ", ".join(f"{slot} {n:,}" for slot, n in device.slots.items())
    for hand in device.hands:
        told = [f"lacks {lack} in {n:,}" for lack, n in hand.lacks.items()]
        if hand.right_handed is not None and hand.side in {"left", "right"}:
            share = hand.right_handed if hand.side == "right" else 1 - hand.right_handed
            told.append(f"chirality of a {hand.side} hand in {share:.1%}")
        ids = ", ".join(map(str, hand.ids[:8])) + (" ..." if len(hand.ids) > 8 else "")
        yield (
            f"  {hand.side} hand: {hand.share:.1%} of the frames, "
            f"bad joints {hand.bad_joints}, id {ids}"
        )
        if told:
            yield f"    {', '.join(told)}"
        if hand.bone_median_mm:
            yield "    bones, mm (variation): " + ", ".join(
                f"{bone} {mm:.0f} ({hand.bone_cv[bone]:.0%})"
                for bone, mm in hand.bone_median_mm.items()
                if bone.endswith(("base", "first"))
            )
    if device.frames:
        yield f"  no hand in {device.frames_without_hand / device.frames:.1%} of the frames"


@click.command(
    epilog="""\b
Examples:
  hgr recover session.mcap
  hgr recover session.mcap -o whole.mcap
"""
)
@file_argument
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="[FILE.recovered.mcap]"
)
@force_option
def recover(file: Path, out: Path | None, force: bool) -> None:
    """Make a whole, indexed recording of what can be read of FILE, which stays as it is.

    It is written beside it as FILE.recovered.mcap, or where -o says; exit code 1 when FILE holds
    no message that can be read.
    """
    from ..recording import recover as write_recovered

    out = out or file.with_name(f"{file.stem}.recovered.mcap")
    with errors_told(written=out):
        n, notes = write_recovered(file, out, force=force)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{out}: {n:,} messages, {size(out.stat().st_size)}")


_FORMATS_HELP = "\n".join(f"  {name:11}{source.about}" for name, source in SOURCES.items())


@click.command(
    name="import",
    epilog=f"""\b
Formats:
{_FORMATS_HELP}
\b
Examples:
  hgr import leapjs pinch.json.gz -o pinch.mcap
  hgr import openpose output_json/ --fps 25 -o session.mcap
  hgr import bvh capture.bvh -o capture.mcap
  hgr import shrec22 training_set/ -o recordings/
""",
)
@click.argument("format", type=click.Choice(list(SOURCES)), metavar="FORMAT")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="File or folder."
)
@fps_option
@force_option
def import_command(format: Format, path: Path, out: Path, fps: float | None, force: bool) -> None:
    """Bring recordings of another format in as MCAP.

    PATH is a file or a folder. If it holds several recordings, the output is a folder and gets one
    file for each, named by its path in PATH if they lie in several folders. Several people or
    hands in one recording stay in one file: each person is a device of its own
    ("openpose.person0"), and replay and process keep them apart. What is performed, where the
    source says so, goes in too.
    """
    from ..datasets.convert import import_file

    _check_fps(format, fps)
    with errors_told(written=out):
        report = import_file(format, path, out, force=force, fps=fps)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    written = report.written
    frames, truths = sum(w.frames for w in written), sum(w.truths for w in written)
    hands = sum(w.hands for w in written)
    lacks: Counter[str] = Counter()
    for one in written:
        lacks.update(one.lacks)
    for lack, n in lacks.items():
        click.echo(f"note: {n:,} of {hands:,} hands lack {lack}: {LACKS_MEAN[lack]}", err=True)
    files = f"{len(written)} recordings" if len(written) > 1 else "1 recording"
    click.echo(f"{out}: {files}, {frames:,} frames, {truths:,} annotated gestures")


#: What a lack means, for a person.
LACKS_MEAN = {
    "depth": "they are flat, their z is 0",
    "distance": "it is estimated from their size",
    "tips": "fingertips are extrapolated",
    "fingers": "only some points are real",
    "thumb_base": "the thumb's base is estimated",
}


def _check_fps(format: Format, fps: float | None) -> None:
    if fps is not None and (format == "mcap" or not SOURCES[format].fps):
        raise click.BadParameter(f"{format} recordings have their own time", param_hint="--fps")
