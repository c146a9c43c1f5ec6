"""How many hands at 120 fps go through all stages, none lost.

Synthetic devices of at most 64 hands each perform a script that ends; then every count is final,
and must agree: frames read = published = taken by the segmenter, windows sent = windows seen by the
worker, nothing dropped, stale, refused or twice. The rate must have kept up meanwhile and the
worker's lag must be bounded: the last windows come no later than the first.

Floors in the same run: frames a second that the driver can produce when nobody listens, and the
network's own time for one batch of that many hands. What was lost before all stages were up is
told apart; a number that fails is tried once more.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
from harness import (
    FPS,
    Daemon,
    Report,
    Spread,
    json_option,
    model_option,
    progress,
    synthetic,
)

from hgr_stream.client import Stream
from hgr_stream.messages import MessageError, Status

MOST_PER_DEVICE = 64
LEAST_RATE_HZ = 119.0
MOST_LAG_MS = 100.0
TARGET = 64
SEARCH = (16, 32, 64, 96, 128, 160, 192, 224, 256)
PAUSE_S = 0.5
#: A gesture and the rest after it last at least so long.
GESTURE_S = 2.5
GESTURES = ["LEFT", "RIGHT", "GRAB", "PINCH", "TAP", "V", "CROSS", "CIRCLE", "EXPAND", "OK"]
#: How the names of counts begin that tell of a loss.
LOSSES = (
    "lost",
    "stale",
    "duplicates",
    "dropped",
    "malformed",
    "hands_",
    "refused",
    "time_",
    "clock",
)


@dataclass
class Seen:
    """The statuses of one daemon, as they came."""

    counts: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    gauges: dict[str, list[tuple[float, dict[str, float]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    states: dict[str, str] = field(default_factory=dict)
    #: Losses that a stage told in its first status after all stages were up.
    at_start: dict[str, int] = field(default_factory=dict)
    started_ns: int = 0
    _based: set[str] = field(default_factory=set)

    def take(self, status: Status) -> None:
        mine = self.counts[status.stage]
        for name, n in status.counts.items():  # counts only grow
            mine[name] = max(n, mine.get(name, 0))
        if status.gauges:
            self.gauges[status.stage].append((time.monotonic(), status.gauges))
        self.states[status.stage] = status.state
        if status.host_ns >= self.started_ns and status.stage not in self._based:
            self._based.add(status.stage)
            self.at_start.update(_lossy(status.stage, mine))

    def losses(self) -> dict[str, int]:
        """What was lost since all stages were up."""
        return {
            name: n - self.at_start.get(name, 0)
            for stage, counts in self.counts.items()
            for name, n in _lossy(stage, counts).items()
            if n > self.at_start.get(name, 0)
        }

    def sum(self, prefix: str, name: str) -> int:
        return sum(c.get(name, 0) for s, c in self.counts.items() if s.startswith(prefix))


def _lossy(stage: str, counts: dict[str, int]) -> dict[str, int]:
    """The counts that tell of a loss."""
    return {f"{stage}: {name}": n for name, n in counts.items() if name.startswith(LOSSES)}


@dataclass
class Trial:
    """One number of hands."""

    hands: int
    seconds: float
    rate_hz: float
    lag_p50_ms: float
    lag_max_ms: float
    lag_rise_ms: float
    frames: int
    windows: int
    cpu: dict[str, float]
    at_start: str
    faults: list[str]

    @property
    def holds(self) -> bool:
        return not self.faults


def devices(hands: int, seconds: float) -> dict[str, dict[str, Any]]:
    """As few synthetic devices as can carry that many hands."""
    count = math.ceil(hands / MOST_PER_DEVICE)
    sizes = [hands // count + (k < hands % count) for k in range(count)]
    script = (GESTURES * 10)[: max(2, math.ceil(seconds / GESTURE_S))]
    return {
        f"synthetic{k + 1}": synthetic(hands=n, seed=k, repeat=1, pause_s=PAUSE_S, gestures=script)
        for k, n in enumerate(sizes)
    }


def attempt(hands: int, seconds: float, model: str) -> Trial:
    """Run that many hands through a daemon until their script ends."""
    table = devices(hands, seconds)
    seen, over = Seen(), threading.Event()
    with Daemon("hands", table, model) as daemon:
        seen.started_ns = time.monotonic_ns()

        def watch() -> None:
            with Stream(["status/"], daemon.endpoint, snapshot=True) as stream:
                for received in stream:
                    if over.is_set():
                        return
                    if received is None:
                        continue
                    try:
                        message = received.message()
                    except MessageError:
                        continue
                    if isinstance(message, Status):
                        seen.take(message)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        processes = daemon.processes()
        began_s = time.monotonic()
        before = {s: sum(p.cpu_times()[:2]) for s, p in processes.items()}
        cpu: dict[str, float] = {}
        deadline_s = began_s + 4 * seconds + 30.0
        while not all(seen.states.get(f"driver.{name}") == "stopped" for name in table):
            time.sleep(0.25)
            took_s = time.monotonic() - began_s
            if not cpu and took_s >= 0.6 * seconds:
                for stage, process in processes.items():
                    cpu[stage] = 100 * (sum(process.cpu_times()[:2]) - before[stage]) / took_s
            if time.monotonic() > deadline_s:
                break
        time.sleep(3.5)  # what queued up is worked off, and told
        over.set()
        watcher.join(2.0)
    return judge(hands, seen, cpu)


def judge(hands: int, seen: Seen, cpu: dict[str, float]) -> Trial:
    """What the statuses say."""
    faults = [f"{what} {n}" for what, n in seen.losses().items()]
    frames = seen.sum("driver.", "frames")
    taken, sent = seen.sum("segmenter", "frames"), seen.sum("segmenter", "sent")
    windows = seen.sum("worker", "windows")
    if not frames or frames != taken:
        faults.append(f"frames: {frames} published, {taken} taken")
    faults += [f"{s}: started again" for s, c in seen.counts.items() if c.get("restarts")]
    if sent != windows:
        faults.append(f"windows: {sent} sent, {windows} seen")
    unfinished = [s for s in seen.states if s.startswith("driver.") and seen.states[s] != "stopped"]
    faults += [f"{stage} did not end" for stage in unfinished]
    rates: list[float] = []
    for stage, gauges in seen.gauges.items():
        if stage.startswith("driver."):
            # The first beats and the last one hold a part of a second only.
            mine = [g["rate_hz"] for _, g in gauges if g.get("rate_hz")][2:-1]
            rates.append(statistics.fmean(mine) if mine else 0.0)
    rate = min(rates, default=0.0)
    if rate < LEAST_RATE_HZ:
        faults.append(f"rate {rate:.1f} Hz")
    lags = [g["lag_ms"] for _, g in seen.gauges["worker"] if g.get("hands")][2:]
    third = max(1, len(lags) // 3)
    rise = statistics.median(lags[-third:]) - statistics.median(lags[:third]) if lags else 0.0
    if not lags or statistics.median(lags) > MOST_LAG_MS or rise > MOST_LAG_MS / 2:
        faults.append(
            f"lag {statistics.median(lags) if lags else math.nan:.0f} ms, rising {rise:.0f}"
        )
    return Trial(
        hands,
        frames / max(rate, 1e-9) / max(1, len(rates)),
        rate,
        statistics.median(lags) if lags else math.nan,
        max(lags, default=math.nan),
        rise,
        frames,
        windows,
        cpu,
        ", ".join(f"{name} {n}" for name, n in seen.at_start.items() if n),
        faults,
    )


# -- floors ----------------------------------------------------------------------------------------


def driver_alone(hands: int, seconds: float = 1.5) -> float:
    """Frames a second of the driver and its publisher, encoded and given to nobody."""
    from hgr_drivers.runner import Stamper
    from hgr_drivers.synthetic import SyntheticDriver
    from hgr_drivers.synthetic.driver import SyntheticOptions

    from hgr_stream.messages import encode

    options = SyntheticOptions(fps=FPS, hands=min(hands, MOST_PER_DEVICE), pause_s=PAUSE_S)
    driver = SyntheticDriver(options, clock=lambda: 1 << 60, sleep=lambda _: None)
    driver.open()
    stamper = Stamper("synthetic", "bench", lossless=False)
    n, began_s = 0, time.perf_counter()
    while time.perf_counter() < began_s + seconds:
        sample = driver.read(1e9)
        if sample is not None:
            encode(stamper.frame(sample, time.monotonic_ns(), time.time_ns()))
            n += 1
    return n / (time.perf_counter() - began_s)


def batch_ms(model: str, hands: int, batches: int = 60) -> Spread:
    """The network alone: one step of ``hands`` hands in one batch, on one thread."""
    import torch

    from hgr_stream.recognition.bundle import load
    from hgr_stream.recognition.steppers import stepper

    bundle = load(model)
    joints = np.random.default_rng(0).random((hands, bundle.metadata.size, 22, 3), np.float32) * 0.2
    step = stepper(bundle) if bundle.metadata.kind == "streaming" else None
    state = bundle.module.initial_state(hands).numpy().copy() if step else None
    times: list[float] = []
    with torch.inference_mode():
        for k in range(batches + 5):
            began_ns = time.perf_counter_ns()
            if step:
                state = step(joints, state).state
            else:
                bundle.module(torch.from_numpy(joints))
            if k >= 5:
                times.append((time.perf_counter_ns() - began_ns) / 1e6)
    return Spread.of(times)


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/hands.py
  python tools/bench/hands.py --hands 64 --hands 96 --seconds 30 --json
""",
)
@model_option
@click.option("--hands", multiple=True, type=click.IntRange(1, 256), help="Try just these.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each, at least.")
@json_option
def main(model: str, hands: tuple[int, ...], seconds: float, as_json: bool) -> None:
    report = Report("hands")
    from hgr_stream.recognition.bundle import read_metadata

    metadata = read_metadata(model)
    trials: list[Trial] = []
    rows: list[dict[str, Any]] = []
    failed: list[str] = []

    def one(n: int) -> Trial:
        progress(f"{n} hands")
        alone, batch = driver_alone(n), batch_ms(model, n)
        trial = attempt(n, seconds, model)
        if not trial.holds:  # somebody else's work on this machine may have been it
            progress(f"{n} hands, once more: {'; '.join(trial.faults)}")
            failed.append(f"{n} hands, first try: {'; '.join(trial.faults)}")
            trial = attempt(n, seconds, model)
            if not trial.holds:
                failed.append(f"{n} hands, second try: {'; '.join(trial.faults)}")
        if trial.at_start:
            failed.append(f"{n} hands, lost before all stages were up: {trial.at_start}")
        trials.append(trial)
        batches = metadata.rate_hz / metadata.hop
        rows.append(
            {
                "hands": n,
                "": "holds" if trial.holds else "fails",
                "s": round(trial.seconds, 1),
                "Hz": round(trial.rate_hz, 2),
                "lag p50 ms": round(trial.lag_p50_ms, 1),
                "max ms": round(trial.lag_max_ms, 1),
                "frames": trial.frames,
                "windows": trial.windows,
                "CPU% driver": round(_share(trial, "driver")),
                "segmenter": round(_share(trial, "segmenter")),
                "worker": round(_share(trial, "worker")),
                "driver alone fps": round(alone),
                "network ms": round(batch.median, 2),
                "network CPU%": round(batch.median * batches / 10),
            }
        )
        return trial

    if hands:
        for n in hands:
            one(n)
    else:
        one(TARGET)
        if trials[0].holds:
            above = [n for n in SEARCH if n > TARGET]
            for n in above:
                if not one(n).holds:
                    break
        else:
            for n in reversed([n for n in SEARCH if n < TARGET]):
                if one(n).holds:
                    break
    largest = max((t.hands for t in trials if t.holds), default=0)
    at = next((r for r in rows if r["hands"] == TARGET), None)
    if at is not None:
        report.add(
            f"{TARGET} hands at {FPS:g} fps, frames a second",
            at["Hz"],
            "fps",
            floor=float(at["driver alone fps"]),
            target=f">= {LEAST_RATE_HZ:g}, none lost",
            holds=at[""] == "holds",
        )
        report.add(
            f"{TARGET} hands, frame published to events, p50",
            at["lag p50 ms"],
            "ms",
            floor=float(at["network ms"]),
        )
    report.add("largest number of hands that holds", largest, "hands", target=f">= {TARGET}")
    report.figures[-1].holds = largest >= TARGET if at is not None or largest >= TARGET else None
    report.tables["trials (floors of one process: driver alone, network)"] = rows
    report.notes += failed
    report.notes.append(
        "CPU is of one core, over the steady part; more than 64 hands are several devices"
    )
    report.show(as_json)


def _share(trial: Trial, stage: str) -> float:
    return float(np.sum([v for s, v in trial.cpu.items() if s.startswith(stage)]))


if __name__ == "__main__":
    main()
