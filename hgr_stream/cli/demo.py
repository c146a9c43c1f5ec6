"""``hgr demo``: the whole pipeline as separate processes, on the synthetic hand, watched live."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..client import Received, Stream
from ..messages import Event, Frame, MessageError, Status, Truth
from ..skeleton import PALM, Float32
from ..stream.clock import monotonic_ns
from .errors import errors_told
from .numbers import Number

if TYPE_CHECKING:
    from rich.console import Group

DEVICE = "synthetic"
#: So long after the performance what it brought may still come.
SETTLE_S = 1.0
#: By then the first gesture must have been performed, the daemon's start included.
START_S = 90.0
#: What ends the demo as Ctrl-C does: `kill`, and a terminal that is closed (not on Windows).
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

CONFIG = """\
name = "demo"
run_dir = "{run_dir}"
[devices.{device}]
driver = "synthetic"
fps = {fps}
repeat = 1
seed = {seed}
pause_s = {pause_s}
gestures = {gestures}
[model]
use = "{model}"
[gateway]
port = {port}
"""


@dataclass
class Score:
    """What was performed against what was told. Pure: fed with messages, asked at the end."""

    performed: list[Truth] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    frames: int = 0
    lost: int = 0  #: frames that did not reach this subscriber
    stages: dict[str, Status] = field(default_factory=dict)

    def take(self, message: object, received_ns: int) -> None:
        if isinstance(message, Frame):
            self.frames += 1
        elif isinstance(message, Truth):
            self.performed.append(message)
        elif isinstance(message, Status):
            self.stages[message.stage] = message
        elif isinstance(message, Event):
            if message.frame_sent_ns:
                self.latencies_ms.append((received_ns - message.frame_sent_ns) / 1e6)
            if message.kind == "confirmed":
                self.told.append(message)

    def matches(self) -> tuple[dict[int, Event], list[Event]]:
        """(index of the performed gesture -> its event, events that belong to none). An event
        belongs to the performed gesture of its label that it overlaps."""
        found: dict[int, Event] = {}
        wrong = []
        for event in self.told:
            for i, truth in enumerate(self.performed):
                if (
                    i not in found
                    and truth.label == event.label
                    and event.onset_ns < truth.offset_ns
                    and event.offset_ns > truth.onset_ns
                ):
                    found[i] = event
                    break
            else:
                wrong.append(event)
        return found, wrong

    def dropped(self) -> int:
        """Frames and windows lost anywhere in the pipeline, by the stages' own counts."""
        names = ("lost", "stale", "duplicates", "dropped_full", "malformed", "time_backwards")
        return sum(s.counts.get(name, 0) for s in self.stages.values() for name in names)

    def summary(self) -> dict[str, object]:
        found, wrong = self.matches()
        times = sorted(self.latencies_ms)

        def at(q: float) -> float | None:
            return round(times[min(len(times) - 1, int(q * len(times)))], 2) if times else None

        return {
            "performed": len(self.performed),
            "recognised": len(found),
            "missed": [t.label for i, t in enumerate(self.performed) if i not in found],
            "wrong": [e.label for e in wrong],
            "latency_ms_p50": at(0.5),
            "latency_ms_p99": at(0.99),
            "frames": self.frames,
            "frames_lost": self.lost + self.dropped(),
        }

    def passed(self) -> bool:
        """At least nine in ten recognised, and nothing else reported."""
        found, wrong = self.matches()
        return bool(self.performed) and len(found) >= 0.9 * len(self.performed) and not wrong


def free_port() -> int:
    """A port for the demo's gateway whose neighbour is free too: a daemon may run beside us."""
    while True:
        with socket.socket() as a, socket.socket() as b:
            a.bind(("127.0.0.1", 0))
            port: int = a.getsockname()[1]
            if port < 65535:
                with contextlib.suppress(OSError):
                    b.bind(("127.0.0.1", port + 1))
                    return port


class DemoError(Exception):
    """The performance cannot go on; ``logged``: the daemon's log tells why."""

    def __init__(self, message: str, *, logged: bool = True) -> None:
        super().__init__(message)
        self.logged = logged


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """``ENDINGS`` are KeyboardInterrupt, as Ctrl-C is; those that are ignored (nohup) stay so."""
    before = {number: signal.getsignal(number) for number in ENDINGS}
    ours = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``hgr run`` in a process of its own, ended at the end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "hgr_stream.cli", "run", str(config), "--attached"],
            stdout=out,
            stderr=out,
            stdin=subprocess.PIPE,  # closed by the system, should we be killed
            start_new_session=os.name != "nt",  # Ctrl-C is for us; we end it in order
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            if os.name == "nt":  # where a process can only be killed; the end of this ends it
                assert process.stdin is not None
                process.stdin.close()
            else:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@click.command(
    epilog="""\b
Examples:
  hgr demo
  hgr demo --gestures LEFT --gestures CIRCLE
  hgr demo --seed 7 --json
"""
)
@click.option("--gestures", multiple=True, help="Only these (may be repeated). [default: all]")
@click.option("--fps", default=120, show_default=True, type=click.IntRange(15, 240))
@click.option("--pause", "pause_s", type=Number(0.5, 600), default=1.0, show_default=True,
              help="Seconds between them.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the performance.")
@click.option("--model", default="leap", show_default=True, help="A shipped name or a file.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
def demo(
    gestures: tuple[str, ...], fps: int, pause_s: float, seed: int, model: str, as_json: bool
) -> None:
    """The whole pipeline on the built-in synthetic hand, live in the terminal; no device needed.

    A driver process performs named gestures; the daemon's other processes segment, recognise and
    publish; this one subscribes like any application. Exit code 0 only if at least nine in ten
    gestures were recognised and nothing else was reported.
    """
    from ..recognition.bundle import resolve

    with errors_told():
        path = resolve(model).resolve()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="hgr-demo-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        text = CONFIG.format(
            run_dir=(base / "run").as_posix(),
            device=DEVICE,
            fps=fps,
            seed=seed,
            pause_s=pause_s,
            gestures=json.dumps(list(gestures)),
            model=path.as_posix(),
            port=port,
        )
        (base / "demo.toml").write_text(text, encoding="utf-8")
        log = base / "daemon.log"
        score = Score()
        # Subscribed before the daemon starts: nothing is missed.
        try:
            with (
                interruptible(),
                Stream([""], f"tcp://127.0.0.1:{port}", idle_s=0.02) as stream,
                daemon(base / "demo.toml", log) as process,
            ):
                watch(stream, process, score, quiet=as_json)
        except DemoError as error:
            if error.logged:
                click.echo(log.read_text(errors="replace"), err=True, nl=False)
            raise click.ClickException(str(error)) from None
    report(score, as_json)
    raise SystemExit(0 if score.passed() else 1)


def watch(stream: Stream, process: subprocess.Popen[bytes], score: Score, *, quiet: bool) -> None:
    """Until the performance is over and what it brought has come; raises DemoError."""
    display = Silent() if quiet else Live() if sys.stdout.isatty() else Lines()
    deadline_s = time.monotonic() + START_S
    over_s: float | None = None
    with display:
        for received in stream:
            now_s = time.monotonic()
            if received is not None:
                message = _message(received)
                score.take(message, monotonic_ns())
                score.lost = stream.lost
                if isinstance(message, Status) and message.state == "gave-up":
                    # One that was started again and again has told its reason in the log alone.
                    raise DemoError(
                        f"{message.stage}: {message.message}",
                        logged=bool(message.counts.get("restarts")),
                    )
                display.take(message, score)
                driver = score.stages.get(f"driver.{DEVICE}")
                if over_s is None and driver is not None and driver.state == "stopped":
                    over_s = now_s
            display.refresh(score, now_s)
            if over_s is not None and now_s - over_s > SETTLE_S:
                return
            if process.poll() is not None:
                raise DemoError("the daemon ended before the performance did (see above)")
            if not score.performed and over_s is None and now_s > deadline_s:
                raise DemoError(f"no gesture was performed within {START_S:g} s (see above)")


def _message(received: Received) -> object:
    with contextlib.suppress(MessageError):
        return received.message()
    return None


def report(score: Score, as_json: bool) -> None:
    """The summary, for a person or a machine."""
    summary = score.summary()
    if as_json:
        click.echo(json.dumps({**summary, "passed": score.passed()}))
        return
    missed, wrong = summary["missed"], summary["wrong"]
    assert isinstance(missed, list)
    assert isinstance(wrong, list)
    click.echo(
        f"performed {summary['performed']}, recognised {summary['recognised']}, "
        f"wrong {len(wrong)}"
        + (f"; missed {', '.join(missed)}" if missed else "")
        + (f"; wrongly told {', '.join(wrong)}" if wrong else "")
    )
    click.echo(
        f"latency p50 {summary['latency_ms_p50']} ms, p99 {summary['latency_ms_p99']} ms "
        "(frame published to event received)"
    )
    click.echo(f"frames {summary['frames']}, lost {summary['frames_lost']}")
    click.echo("PASSED" if score.passed() else "FAILED: fewer than nine in ten, or a wrong one")


class Silent:
    """Nothing is shown: the summary is for a machine."""

    def take(self, message: object, score: Score) -> None:
        """A message came."""

    def refresh(self, score: Score, now_s: float) -> None:
        """Time has passed."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines(Silent):
    """For a log: a line when something is performed or told."""

    #: A stage that says "down" is followed by its supervisor's verdict, with the same reason:
    #: that it is started again, or given up.
    UNTOLD = frozenset(("up", "starting", "stopped", "down"))

    def take(self, message: object, score: Score) -> None:
        if isinstance(message, Truth):
            click.echo(f"performed   {message.label}")
        elif isinstance(message, Event) and message.kind == "confirmed":
            click.echo(f"recognised  {message.label:10} {message.confidence:4.0%}")
        elif isinstance(message, Status) and message.state not in self.UNTOLD:
            click.echo(f"{message.stage}: {message.state} {message.message}")


class Live(Silent):
    """For a terminal: the hand, the stages, the gestures."""

    PERIOD_S = 0.1

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._live = RichLive(console=Console(), auto_refresh=False, screen=False)
        self._frame: Frame | None = None
        self._home: Float32 | None = None
        self._now = ""
        self._next_s = 0.0

    def __enter__(self) -> Live:
        self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._live.__exit__(*details)  # type: ignore[arg-type]

    def take(self, message: object, score: Score) -> None:
        if isinstance(message, Frame) and not message.end:
            self._frame = message
        elif isinstance(message, Event):
            self._now = "" if message.final else f"{message.label}? {message.confidence:.0%}"

    def refresh(self, score: Score, now_s: float) -> None:
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.PERIOD_S
        self._live.update(self._picture(score), refresh=True)

    def _picture(self, score: Score) -> Group:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table

        from .draw import Canvas

        age_ms = 0.0
        canvas = Canvas(34, 15, (0.0, 0.0), 0.45)
        if self._frame is not None:
            age_ms = (monotonic_ns() - self._frame.sent_ns) / 1e6
            for hand in self._frame.hands[:1]:
                joints = hand.array().copy()
                if self._home is None:  # where the palm was first seen: the picture's middle
                    self._home = joints[PALM].copy()
                joints -= self._home
                canvas.hand(joints)
        hand_panel = Panel(canvas.text(), title=f"hand, {age_ms:.0f} ms old", width=38)

        stages = Table(box=None, padding=(0, 1), show_edge=False)
        for name in ("stage", "state", "rate, age, losses"):
            stages.add_column(name)
        for name, status in sorted(score.stages.items()):
            told = [f"{k} {v:.3g}" for k, v in status.gauges.items() if k != "open_gestures"]
            lost = [
                f"{k} {status.counts[k]}"
                for k in ("lost", "stale", "dropped_full", "dropped_tap", "malformed", "restarts")
                if status.counts.get(k)
            ]
            stages.add_row(name, status.state, ", ".join(told + lost))
        stages.add_row("here", "", f"{score.frames:,} frames, lost {score.lost}")

        found, wrong = score.matches()
        gestures = Table(box=None, padding=(0, 1), show_edge=False)
        for name in ("performed", "told", "sure", ""):
            gestures.add_column(name)
        for i, truth in list(enumerate(score.performed))[-9:]:
            event = found.get(i)
            mark = "[green]✓[/]" if event else "[yellow]...[/]"
            gestures.add_row(
                truth.label,
                event.label if event else "",
                f"{event.confidence:.0%}" if event else "",
                mark,
            )
        for event in wrong[-3:]:
            gestures.add_row("", event.label, f"{event.confidence:.0%}", "[red]wrong[/]")
        title = f"gestures: {len(found)} of {len(score.performed)}"
        top = Table.grid()
        top.add_row(
            hand_panel,
            Panel(gestures, title=title, width=45, height=17, subtitle=self._now or None),
        )
        return Group(top, Panel(stages, title="pipeline", width=83))
