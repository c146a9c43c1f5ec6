"""Latency that the pipeline adds: frame published to event received, against a bare relay.

Subject: one synthetic hand at 120 fps through the real daemon, driver process -> segmenter ->
worker -> gateway -> this process, from ``frame_sent_ns`` of the frame that triggered an event to
the event decoded here, on the monotonic clock. Twice: with the shipped model, and with the same
network under decoder settings that begin and cancel a gesture at every tick, for many samples.

Floor, in turn with each: source -> three relaying processes -> this process, PUSH/PULL inside and
XPUB/SUB over tcp at the end; the same sizes, and at each hop the same rate (120 frames, as many
windows a second as the model takes, as many of them as give it an event: who wakes rarely wakes
slowly). Nothing is computed in it.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import zmq
from harness import (
    FPS,
    REPOSITORY,
    Daemon,
    Report,
    Split,
    Spread,
    command,
    cpu_shares,
    end,
    free_port,
    json_option,
    model_option,
    progress,
    synthetic,
    synthetic_frames,
)

from hgr_stream.client import Stream
from hgr_stream.messages import Event, Frame, Status, Window, decode, encode

TARGET = 1.5
SETTLE_S = 1.5
RELAY = [sys.executable, str(Path(__file__).with_name("relay.py"))]


# -- the floor -------------------------------------------------------------------------------------


@contextlib.contextmanager
def relay_chain(sizes: tuple[int, int, int], shares: list[float]) -> Iterator[str]:
    """Source and ``len(shares)`` relays; the endpoint of the last. ``shares`` of each one's input
    go on."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hgr-bench-"))
        inside = [f"ipc://{folder}/{k}" for k in range(len(shares))]
        public = f"tcp://127.0.0.1:{free_port()}"
        commands = []
        for k, share in enumerate(shares):
            last = k + 1 == len(shares)
            size = sizes[2] if last else sizes[min(k + 1, 2)]
            role, out = ("gate", public) if last else ("relay", inside[k + 1])
            commands.append([role, inside[k], out, "--size", str(size), "--share", str(share)])
        commands.append(["source", inside[0], "--hz", str(FPS), "--size", str(sizes[0])])
        for command in commands:
            popen = subprocess.Popen([*RELAY, *command], stdin=subprocess.PIPE)
            stack.callback(end, popen)
        yield public


def relayed(sizes: tuple[int, int, int], shares: list[float], seconds: float) -> list[float]:
    """Milliseconds, source to here, of what came in ``seconds``."""
    with (
        relay_chain(sizes, shares) as public,
        zmq.Context() as context,
        context.socket(zmq.SUB) as socket,
    ):
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(public)
        if not socket.poll(10_000):
            raise click.ClickException("the relay did not come up")
        time.sleep(SETTLE_S)
        while socket.poll(0):
            socket.recv_multipart()
        out: list[float] = []
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            if socket.poll(50):
                data = socket.recv_multipart()[-1]
                sent_ns = int.from_bytes(data[:8], "little")
                out.append((time.monotonic_ns() - sent_ns) / 1e6)
        return out


# -- the pipeline ----------------------------------------------------------------------------------


class Stamps:
    """What the stamps tell of one daemon: milliseconds by what they lie between."""

    def __init__(self) -> None:
        self.events: dict[str, list[float]] = defaultdict(list)  # by kind, published -> received
        self.carried: list[float] = []  # published -> received, less the worker's own work
        self.to_worker: list[float] = []  # published -> sent by the worker
        self.to_client: list[float] = []  # sent by the worker -> received
        self.to_segmenter: list[float] = []  # published -> decoded by the segmenter, each second
        self.lost = 0

    def all(self) -> list[float]:
        return [ms for kind in self.events.values() for ms in kind]


def listen(daemon: Daemon, seconds: float, stamps: Stamps) -> None:
    """Receive events for ``seconds``, as a subscriber does."""
    prefixes = ["gesture/", "status/segmenter"]
    with Stream(prefixes, daemon.endpoint, timeout_s=None) as stream:
        settled_s = time.monotonic() + SETTLE_S
        until_s = settled_s + seconds
        for received in stream:
            now_s = time.monotonic()
            if received is not None and now_s > settled_s:
                message = received.message()
                now_ns = time.monotonic_ns()
                if isinstance(message, Event) and message.frame_sent_ns:
                    took_ns = now_ns - message.frame_sent_ns
                    stamps.events[message.kind].append(took_ns / 1e6)
                    stamps.carried.append((took_ns - message.worked_ns) / 1e6)
                    worked_ns = message.host_ns - message.frame_sent_ns
                    stamps.to_worker.append(worked_ns / 1e6)
                    stamps.to_client.append((now_ns - message.host_ns) / 1e6)
                elif isinstance(message, Status) and "age_ms" in message.gauges:
                    stamps.to_segmenter.append(message.gauges["age_ms"])
            if now_s >= until_s:
                stamps.lost += stream.lost
                return


def talkative(model: str, path: Path) -> Path:
    """The same network with a decoder that begins, and at the next tick cancels, a gesture."""
    from hgr_stream.recognition.bundle import load, save
    from hgr_stream.recognition.options import DecoderOptions

    bundle = load(model)
    metadata = bundle.metadata
    metadata.name += "-talkative"
    metadata.decoder = DecoderOptions(
        begin=0.0,
        begin_hold_s=0.0,
        end=1.1,
        end_hold_s=0.0,
        early_on=False,
        smooth_s=0.0,
        min_duration_s=10.0,
        refractory_s=0.0,
    )
    save(bundle.module, metadata, path)
    return path


def traffic(model: str, frames: list[Frame]) -> tuple[tuple[int, int, int], list[float]]:
    """Bytes of a frame, a window and an event; and what share of its messages each relay passes
    on: of the frames those that make a window due, of the windows those that give an event."""
    from hgr_stream.recognition.bundle import load
    from hgr_stream.recognition.engine import Engine
    from hgr_stream.segmentation import Segmenter, WindowSpec

    bundle = load(model)
    m = bundle.metadata
    segmenter, engine = Segmenter(WindowSpec(m.rate_hz, m.size, m.hop)), Engine(bundle)
    windows = [w for frame in frames for w in segmenter.push(frame)]
    told = [events for window in windows if (events := engine.push([window]))]
    if not told:
        raise click.ClickException(f"model {model} says nothing of the synthetic hand")
    size = (len(encode(frames[-1])), len(encode(windows[-1])), len(encode(told[-1][-1])))
    return size, [len(windows) / len(frames), len(told) / len(windows), 1.0]


def paced_work(model: str, frames: list[Frame]) -> dict[str, list[float]]:
    """What each stage computes, ms a frame that made a window due: the same objects here in one
    thread, but fed at the true pace, since a stage that has slept runs with cold caches."""
    from hgr_stream.daemon.gateway import State
    from hgr_stream.recognition.bundle import load
    from hgr_stream.recognition.engine import Engine
    from hgr_stream.segmentation import Segmenter, WindowSpec
    from hgr_stream.stream import topics

    bundle = load(model)
    m = bundle.metadata
    segmenter, engine = Segmenter(WindowSpec(m.rate_hz, m.size, m.hop)), Engine(bundle)
    state, split = State("bench"), Split()
    split.attach(segmenter, engine)
    took: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began_ns = time.perf_counter_ns()
        out = work()
        row.append((name, (time.perf_counter_ns() - began_ns) / 1e6))
        return out

    began_s = time.monotonic()
    for k, frame in enumerate(frames):
        time.sleep(max(0.0, began_s + k / FPS - time.monotonic()))
        row: list[tuple[str, float]] = []
        data = timed("driver: encode frame", lambda: encode(frame))  # noqa: B023
        frame = timed("segmenter: decode frame", lambda: decode(Frame, data))  # noqa: B023, PLW2901
        windows = timed("segmenter: follow, resample, cut", lambda: segmenter.push(frame))  # noqa: B023
        if not windows:
            continue
        sent = timed("segmenter: encode window", lambda: [encode(w) for w in windows])  # noqa: B023
        windows = timed("worker: decode window", lambda: [decode(Window, d) for d in sent])  # noqa: B023
        before = dict(split.took_s)
        events = timed("worker: all it computes", lambda: engine.push(windows))  # noqa: B023
        inside = {k: 1e3 * (s - before.get(k, 0.0)) for k, s in split.took_s.items()}
        row.append(("  network (features, step, softmax)", inside["network"]))
        row.append(("  around it (arrays, states)", inside["recogniser"] - inside["network"]))
        if inside.get("verifier"):
            row.append(("worker: verifier (part of it), when a gesture ends", inside["verifier"]))
        rest = inside["engine"] - inside["recogniser"] - inside.get("verifier", 0.0)
        row.append(("  decoder", rest))
        if events:
            told = timed("worker: encode event", lambda: [encode(e) for e in events])  # noqa: B023
            topic = topics.of(events[0])
            timed("gateway: number it", lambda: state.number(topic, told[0]))  # noqa: B023
            timed("client: decode event", lambda: decode(Event, told[0]))  # noqa: B023
        for name, ms in row:
            took[name].append(ms)
    return took


# -- profile ---------------------------------------------------------------------------------------


#: Where a stage waits; py-spy cannot always tell a sleeping thread from a running one.
WAITING = re.compile(r"^(Poller\.poll|poll|Shell\._watch_stdin|Event\.wait|wait) \(|_sleep|\.sleep")
SPY_HZ = 400


def profile(daemon: Daemon, spy: str, seconds: int) -> list[dict[str, Any]]:
    """py-spy on every stage at once: where the time on the CPU goes, the top of each.

    Samples in which a stage waits are left out; what its CPU time has beyond the other samples is
    the system's and the poll's own."""
    stages = daemon.processes()
    running = {}
    for stage, process in stages.items():
        out = daemon.dir / f"{stage}.raw"
        argv = [spy, "record", "-p", str(process.pid), "-d", str(seconds), "-r", str(SPY_HZ)]
        quiet = subprocess.DEVNULL
        popen = subprocess.Popen([*argv, "-f", "raw", "-o", str(out)], stdout=quiet, stderr=quiet)
        running[stage] = out, popen
    time.sleep(0.5)  # it has attached
    shares = cpu_shares(stages, seconds - 1.0)
    rows: list[dict[str, Any]] = []
    for stage, (out, popen) in running.items():
        popen.wait()
        own, below = Counter[str](), Counter[str]()
        lines = out.read_text().splitlines() if out.exists() else []
        for line in lines:
            stack, _, count = line.rpartition(" ")
            calls = [re.sub(r"\(.*/(?=[^/]+/[^/]+\))", "(", call) for call in stack.split(";")]
            if waits(calls[-1]):
                continue
            own[calls[-1]] += int(count)
            below.update({call: int(count) for call in set(calls)})
        percent = 100 / (SPY_HZ * seconds)
        rest = shares[stage] - own.total() * percent
        name = f"{stage}: {shares[stage]:.1f} %"
        rows.append({"stage": name, "own": round(rest, 2), "with callees": "", "where": "(system)"})
        for call, hits in own.most_common(6):
            figures = {"own": round(hits * percent, 2), "with callees": below[call] * percent}
            rows.append({"stage": name, **figures, "where": call})
    return rows


def waits(call: str) -> bool:
    """Whether the innermost line of a stack is one that waits: its source says so."""
    if WAITING.search(call):
        return True
    found = re.search(r"\((?:.*?)([\w/.]+\.py):(\d+)\)", call)
    if not found:
        return False
    for path in (*REPOSITORY.glob(f"*/{found[1]}"), *REPOSITORY.glob(f"*/*/{found[1]}")):
        with contextlib.suppress(OSError, IndexError):
            return "sleep(" in path.read_text().splitlines()[int(found[2]) - 1]
    return False


# -- the command -----------------------------------------------------------------------------------


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/latency.py
  python tools/bench/latency.py --seconds 40 --rounds 5 --json
  python tools/bench/latency.py --profile 15
""",
)
@model_option
@click.option("--seconds", default=20.0, show_default=True, help="Of each daemon in each round.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--profile", "profile_s", default=0, help="Then py-spy each stage for so many s.")
@json_option
def main(model: str, seconds: float, rounds: int, profile_s: int, as_json: bool) -> None:
    report = Report("latency")
    spy = command("py-spy", "pip install py-spy") if profile_s else ""
    device = {"synthetic": synthetic(pause_s=0.5)}
    with tempfile.TemporaryDirectory(prefix="hgr-bench-") as folder:
        often = str(talkative(model, Path(folder) / "talkative.pt"))
        frames = synthetic_frames(60.0, pause_s=0.5)
        floor: dict[str, list[float]] = {"shipped": [], "talkative": []}
        subject: dict[str, Stamps] = {"shipped": Stamps(), "talkative": Stamps()}
        models = {"shipped": model, "talkative": often}
        flows = {name: traffic(use, frames) for name, use in models.items()}
        for k in range(rounds):
            for name, use in models.items():
                progress(f"round {k + 1} of {rounds}: floor of the {name} model")
                floor[name] += relayed(*flows[name], seconds)
                progress(f"round {k + 1} of {rounds}: {name} model")
                with Daemon("latency", device, use) as daemon:
                    listen(daemon, seconds, subject[name])
        progress("other floors")
        sizes, shares = flows["talkative"]
        every = relayed(sizes, [1.0, 1.0, 1.0], 8.0)
        short = relayed(sizes, shares[:2], 8.0)
        progress("the stages' work, here, at the true pace")
        work = paced_work(often, frames[:720])
        if profile_s:
            progress("profile")
            with Daemon("latency", device, model) as daemon:
                time.sleep(SETTLE_S)
                # A subscriber, so that the gateway has something to do.
                with Stream(["gesture/"], daemon.endpoint):
                    title = "profile (py-spy), % of a core"
                    report.tables[title] = profile(daemon, spy, profile_s)
    _figures(report, floor, subject)
    report.tables["floors, ms"] = [
        {"relay": text, "p50": spread.median, "p25": spread.low, "p99": spread.high}
        for text, spread in (
            ("three relays, the shipped model's rates", Spread.of(floor["shipped"], 25, 99)),
            ("three relays, the talkative model's rates", Spread.of(floor["talkative"], 25, 99)),
            ("three relays, every frame all the way", Spread.of(every, 25, 99)),
            ("two relays (three links), talkative", Spread.of(short, 25, 99)),
        )
    ]
    _split(report, subject["talkative"], work)
    report.notes.append(f"bytes of a frame, a window, an event: {sizes}")
    lost = sum(s.lost for s in subject.values())
    report.notes.append(f"messages lost at the subscriber: {lost}")
    report.show(as_json)


def _figures(report: Report, floor: dict[str, list[float]], subject: dict[str, Stamps]) -> None:
    ends = ("cancelled", "confirmed")
    shipped, often = subject["shipped"], subject["talkative"]
    rows = [
        ("shipped model, all events", shipped.all()),
        ("- begin, update, early", _kinds(shipped, ("begin", "update", "early"))),
        ("- confirmed, cancelled (a verifier runs)", _kinds(shipped, ends)),
        ("talkative, begin", _kinds(often, ("begin",))),
        ("talkative, cancelled (a verifier runs)", _kinds(often, ends)),
        ("talkative, all, less the worker's own work (network, decoder)", often.carried),
    ]
    bases = {name: Spread.of(samples, 25, 99) for name, samples in floor.items()}
    for k, (what, samples) in enumerate(rows):
        if not samples:
            report.notes.append(f"{what}: no events came")
            continue
        s, base = Spread.of(samples, 25, 99), bases["shipped" if k < 3 else "talkative"]
        report.add(
            f"{what}, p50",
            s.median,
            "ms",
            floor=base.median,
            spread=f"p25 {s.low:.2f}, p99 {s.high:.2f}, n {s.n}",
            target=f"<= {TARGET} x floor" if k in (0, 3, 5) else "",
            holds=s.median <= TARGET * base.median if k in (0, 3, 5) else None,
        )


def _kinds(stamps: Stamps, kinds: tuple[str, ...]) -> list[float]:
    return [ms for kind in kinds for ms in stamps.events.get(kind, ())]


def _split(report: Report, stamps: Stamps, work: dict[str, list[float]]) -> None:
    """Where the time goes: by stamps, and what of it is computing."""
    rows: list[dict[str, Any]] = []

    def row(what: str, samples: list[float], how: str) -> float:
        if not samples:
            return 0.0
        s = Spread.of(samples, 25, 99)
        rows.append({"ms": what, "p50": s.median, "p25": s.low, "p99": s.high, "from": how})
        return s.median

    arrived = row("published -> decoded by segmenter", stamps.to_segmenter, "segmenter's gauge")
    sent = row("published -> event sent by worker", stamps.to_worker, "event's stamps")
    row("event sent by worker -> received here", stamps.to_client, "event's stamps")
    for name, samples in work.items():
        row(f"  {name}", samples, "here, paced")
    medians = {name: Spread.of(samples).median for name, samples in work.items()}
    inside = sum(ms for name, ms in medians.items() if name.startswith(("segmenter", "worker")))
    inside -= medians.get("segmenter: decode frame", 0.0)
    rows.append(
        {
            "ms": "  left for the hop segmenter -> worker",
            "p50": sent - arrived - inside,
            "p25": "",
            "p99": "",
            "from": "difference of medians",
        }
    )
    report.tables["where the time goes (talkative model)"] = rows


if __name__ == "__main__":
    main()
