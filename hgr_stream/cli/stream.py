"""``hgr listen``, ``echo``, ``hz``: the running stream, seen from outside."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import click
import msgspec
import numpy as np

from ..client import ClientError, Received, Stream, Subscription, ping, snapshot, subscribe
from ..messages import Event, Frame, MessageError, Status, Window, decode
from ..skeleton import Float32
from ..stream.clock import monotonic_ns
from .daemon import connect_option
from .numbers import PATIENCE, SECONDS


def tell_when_absent(endpoint: str | None) -> None:
    """Say on standard error that nobody answers yet; a subscriber waits all the same."""
    try:
        ping(endpoint, 0.5)
    except ClientError as error:
        click.echo(f"waiting: {error}", err=True)


def tell_unknown(endpoint: str | None, labels: Collection[str]) -> None:
    """Say on standard error which of these gestures the running daemon does not tell: one that is
    misspelt would be waited for in silence."""
    with contextlib.suppress(ClientError):  # nobody answers: told already
        for one in snapshot(endpoint, "status/worker"):
            told = decode(Status, one.payload).labels
            if told and (strange := [n for n in labels if n not in told]):
                text = f"not told: {', '.join(strange)}; the daemon tells {', '.join(told)}"
                click.echo(text, err=True)


def tell_losses(lost: int) -> None:
    if lost:
        click.echo(f"lost {lost} messages: this subscriber was too slow or away", err=True)


@contextlib.contextmanager
def losses_told(stream: Stream | Subscription) -> Iterator[None]:
    """At the end of a subscription, its losses; Ctrl-C is its usual end."""
    try:
        with stream:
            yield
    finally:
        tell_losses(stream.lost)


@click.command(
    epilog="""\b
Examples:
  hgr listen
  hgr listen --all
  hgr listen --json --count 1 --timeout 30
  hgr listen --label LEFT --label RIGHT
"""
)
@connect_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--all", "all_kinds", is_flag=True, help="Every step, not only confirmed gestures.")
@click.option("--label", "labels", multiple=True, help="Only this gesture (may be repeated).")
@click.option("--count", type=click.IntRange(1), help="End after this many events.")
@click.option("--timeout", type=PATIENCE, help="End when none came for this many seconds (exit 1).")
def listen(
    connect: str | None,
    as_json: bool,
    all_kinds: bool,
    labels: tuple[str, ...],
    count: int | None,
    timeout: float | None,
) -> None:
    """Gesture events as they come, until Ctrl-C.

    One line a gesture, when it is confirmed; with --all every step of its life (begin, update,
    early, confirmed, cancelled), joined by its id.
    """
    tell_when_absent(connect)
    tell_unknown(connect, labels)
    told = 0
    events = subscribe(
        connect,
        kinds="all" if all_kinds else ("confirmed",),
        labels=labels or None,
        timeout_s=timeout,
    )
    with losses_told(events):
        for event in events:
            click.echo(json.dumps(msgspec.structs.asdict(event)) if as_json else line(event))
            told += 1
            if told == count:
                break
    if timeout is not None and told != count and (count is not None or told == 0):
        click.echo(f"no event for {timeout:g} s", err=True)
        raise SystemExit(1)


def line(event: Event) -> str:
    """One event for a person."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.wall_ns / 1e9))
    end_ns = event.offset_ns or event.decided_ns
    return (
        f"{clock}  {event.kind:9}  {event.label:10}  {event.confidence:4.0%}  "
        f"{(end_ns - event.onset_ns) / 1e9:5.2f} s  {event.device}/{event.hand}"
        + (f"  ({event.reason})" if event.reason else "")
    )


def _numbers(joints: Float32) -> object:
    """Joints as lists; what is no number is null, since JSON has no NaN."""
    told = joints.astype(float).round(4).astype(object)
    told[~np.isfinite(joints)] = None
    return told.tolist()


def plain(received: Received) -> str:
    """A message as one JSON line, with all its fields (the wire leaves out what has its default);
    joints as lists of metres, to a tenth of a millimetre."""
    message = received.message()
    fields: dict[str, object] = {"topic": received.topic}
    if message is None:
        return json.dumps({**fields, "bytes": len(received.payload)})
    fields.update(msgspec.structs.asdict(message))
    if isinstance(message, Window):
        fields["joints"] = _numbers(message.array()) if message.joints else []
    if isinstance(message, Frame):
        fields["hands"] = [
            {
                "id": hand.id,
                "side": hand.side,
                "confidence": hand.confidence,
                "lacks": hand.lacks,
                "joints": _numbers(hand.array()),
            }
            for hand in message.hands
        ]
    return json.dumps(fields)


@click.command(
    epilog="""\b
Examples:
  hgr echo status/
  hgr echo frame/leap --count 1
  hgr echo gesture/ | jq .label
"""
)
@click.argument("topic", default="")
@connect_option
@click.option("--count", type=click.IntRange(1), help="End after this many messages.")
@click.option("--timeout", type=PATIENCE, help="End when none came for this many seconds (exit 1).")
def echo(topic: str, connect: str | None, count: int | None, timeout: float | None) -> None:
    """Print the messages of every topic that begins with TOPIC, one JSON object a line."""
    tell_when_absent(connect)
    told = 0
    stream = Stream([topic], connect, timeout_s=timeout, snapshot=True)
    with losses_told(stream):
        for received in stream:
            if received is None:
                continue
            try:
                click.echo(plain(received))
            except MessageError as error:
                click.echo(f"{received.topic}: {error}", err=True)
            told += 1
            if told == count:
                break
    if timeout is not None and (told == 0 or (count is not None and told < count)):
        click.echo(f"no message under {topic!r} for {timeout:g} s", err=True)
        raise SystemExit(1)


@dataclass
class Meter:
    """Rate, spread and age of one topic over a sliding window. Time is the caller's.

    A topic that comes evenly has the rate between its first and its last message. Where those
    lie together, as gestures do, that would be the rate of the burst: it is counted over the
    window, or over the time measured so far."""

    window_s: float
    began_s: float  #: when the measurement began
    arrivals_s: deque[float] = field(default_factory=deque)
    ages_s: deque[float] = field(default_factory=deque)
    total: int = 0
    lost: int = 0
    size: int = 0

    def take(self, now_s: float, received: Received, age_s: float | None) -> None:
        self.total += 1
        self.lost += received.lost
        self.size += len(received.payload)
        self.arrivals_s.append(now_s)
        if age_s is not None:
            self.ages_s.append(age_s)
            if len(self.ages_s) > 1000:
                self.ages_s.popleft()
        while self.arrivals_s[0] < now_s - self.window_s:
            self.arrivals_s.popleft()

    def row(self, now_s: float) -> dict[str, float]:
        recent = [t for t in self.arrivals_s if t >= now_s - self.window_s]
        steps = sorted(b - a for a, b in pairwise(recent))
        measured_s = min(self.window_s, now_s - self.began_s)
        spread_s = recent[-1] - recent[0] if recent else 0.0
        if spread_s > measured_s / 2:
            rate = (len(recent) - 1) / spread_s
        else:
            rate = len(recent) / measured_s if measured_s > 0 else 0.0
        ages = sorted(self.ages_s)
        return {
            "rate_hz": round(rate, 2),
            "step_ms_max": round(steps[-1] * 1e3, 2) if steps else 0.0,
            "age_ms_p50": round(ages[len(ages) // 2] * 1e3, 3) if ages else 0.0,
            "messages": self.total,
            "lost": self.lost,
            "bytes": self.size,
        }


def age_s(received: Received) -> float | None:
    """How old what a message speaks of was on arrival, where it says so."""
    with contextlib.suppress(MessageError):
        message = received.message()
        if isinstance(message, Frame):
            return (monotonic_ns() - message.sent_ns) / 1e9
        if isinstance(message, Window | Event) and message.frame_sent_ns:
            return (monotonic_ns() - message.frame_sent_ns) / 1e9
    return None


def _now_s() -> float:
    """Seconds by the clock that frames are stamped with: on Windows far finer than Python's."""
    return monotonic_ns() / 1e9


def _ticks(stream: Stream, seconds: float | None) -> Iterator[Received | None]:
    end_s = None if seconds is None else time.monotonic() + seconds
    for received in stream:
        yield received
        if end_s is not None and time.monotonic() >= end_s:
            return


@click.command(
    epilog="\b\nExamples:\n  hgr hz frame/\n  hgr hz --seconds 5 --json\n  hgr hz window/leap\n"
)
@click.argument("topic", default="")
@connect_option
@click.option("--seconds", type=SECONDS, help="Measure this long and end. [default: until Ctrl-C]")
@click.option("--window", "window_s", type=SECONDS, default=5.0, show_default=True,
              help="Seconds averaged over.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def hz(
    topic: str, connect: str | None, seconds: float | None, window_s: float, as_json: bool
) -> None:
    """Rate, largest step, age and losses of every topic that begins with TOPIC."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    tell_when_absent(connect)
    meters: dict[str, Meter] = {}

    def table() -> Table:
        shown = Table()
        shown.add_column("topic", overflow="fold")  # a name that is cut is no name
        for title in ("Hz", "max step ms", "age ms", "messages", "lost", "kB"):
            shown.add_column(title, no_wrap=True)
        for name, meter in sorted(meters.items()):
            row = meter.row(_now_s())
            shown.add_row(
                name,
                f"{row['rate_hz']:.1f}",
                f"{row['step_ms_max']:.1f}",
                f"{row['age_ms_p50']:.2f}",
                f"{row['messages']:,}",
                str(row["lost"]),
                f"{row['bytes'] / 1e3:,.1f}",
            )
        return shown

    console = Console(markup=False)
    watched = console.is_terminal and not as_json
    live = Live(table(), console=console, auto_refresh=False) if watched else None
    next_s = 0.0
    with (
        Stream([topic], connect) as stream,
        contextlib.suppress(KeyboardInterrupt),
        live or contextlib.nullcontext(),
    ):
        began_s = _now_s()
        for received in _ticks(stream, seconds):
            now_s = _now_s()
            if received is not None:
                meter = meters.setdefault(received.topic, Meter(window_s, began_s))
                meter.take(now_s, received, age_s(received))
            if live is not None and now_s >= next_s:
                next_s = now_s + 0.5
                live.update(table(), refresh=True)
    if as_json:
        now_s = _now_s()
        click.echo(json.dumps({name: m.row(now_s) for name, m in sorted(meters.items())}))
    elif live is None:
        console.print(table())
    if not meters:
        click.echo(f"nothing came under {topic!r}", err=True)
        raise SystemExit(1)
