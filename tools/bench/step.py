"""What one frame of one hand costs on one thread: features, network and decoder.

Subject: the engine's push of one window, as the worker does it, and within it the step (features
and network) alone; with the compiled step and with TorchScript, in turn. Twice: in a loop, and at
the model's own pace, sleeping between frames while other memory is touched, as in a daemon whose
processor does other things meanwhile. Floor: reading the step's weights once, in the same two ways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
from harness import Report, Spread, json_option, progress, synthetic_frames

from hgr_stream.messages import Window

PUSH_TARGET_US, STEP_TARGET_US = 60.0, 50.0
#: More than a processor's own caches hold.
OTHER_BYTES = 8 << 20
WARM_UP = 50


@dataclass
class Times:
    """Microseconds of each window."""

    push: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)


def windows_of(bundle: Any, seconds: float) -> list[Window]:
    """The synthetic hand's windows as this model gets them."""
    from hgr_stream.segmentation import Segmenter, WindowSpec

    m = bundle.metadata
    segmenter = Segmenter(WindowSpec(m.rate_hz, m.size, m.hop))
    frames = synthetic_frames(seconds, pause_s=0.5)
    return [w for frame in frames for w in segmenter.push(frame)]


def run(bundle: Any, windows: Sequence[Window], wait: Callable[[], None]) -> Times:
    """Every window pushed by itself, ``wait`` before each."""
    from hgr_stream.recognition.engine import Engine

    engine, times = Engine(bundle), Times()
    step = engine.recogniser.step

    def timed(*arrays: Any) -> Any:
        began_ns = time.perf_counter_ns()
        out = step(*arrays)
        times.step.append((time.perf_counter_ns() - began_ns) / 1e3)
        return out

    engine.recogniser.step = timed
    for window in windows:
        wait()
        began_ns = time.perf_counter_ns()
        engine.push([window])
        times.push.append((time.perf_counter_ns() - began_ns) / 1e3)
    return times


def pause(rate_hz: float) -> Callable[[], None]:
    """Wait for the next frame, other memory being used in the meantime."""
    other = np.zeros(OTHER_BYTES, np.uint8)

    def wait() -> None:
        time.sleep(0.5 / rate_hz)
        other[::64] += 1
        time.sleep(0.5 / rate_hz)

    return wait


def reading(weights: np.ndarray, wait: Callable[[], None], n: int) -> list[float]:
    """The floor: microseconds of a product with all weights, which reads each once."""
    matrix = weights[: len(weights) // 128 * 128].reshape(-1, 128)
    ones, out = np.ones(128, np.float32), np.empty(len(matrix), np.float32)
    times = []
    for _ in range(n):
        wait()
        began_ns = time.perf_counter_ns()
        np.dot(matrix, ones, out=out)
        times.append((time.perf_counter_ns() - began_ns) / 1e3)
    return times


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  OPENBLAS_NUM_THREADS=1 python tools/bench/step.py
  python tools/bench/step.py --model shrec17-14 --rounds 5 --json
""",
)
@click.option("--model", "models", multiple=True, help="Name or file. [leap, shrec17-14]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=12.0, show_default=True, help="Of stream, each form and round.")
@json_option
def main(models: tuple[str, ...], rounds: int, seconds: float, as_json: bool) -> None:
    report = Report("step")
    for model in models or ("leap", "shrec17-14"):
        _measure(report, model, rounds, seconds)
    report.notes.append("push: features, network and decoder, from window to events")
    report.show(as_json)


def _measure(report: Report, model: str, rounds: int, seconds: float) -> None:
    from hgr_stream.recognition.bundle import load
    from hgr_stream.recognition.steppers import Compiled, Scripted, disagreement, stepper

    bundle = load(model, threads=1)
    fast = stepper(bundle)
    if not isinstance(fast, Compiled):
        raise click.ClickException(
            f'{model}: no compiled step for it here: pip install "hgr-stream[inference]", and '
            "export a model of before it anew"
        )
    windows = windows_of(bundle, seconds)
    rate_hz = bundle.metadata.rate_hz
    waits: dict[str, Callable[[], None]] = {
        "in a loop": lambda: None,
        f"at {rate_hz:g} Hz": pause(rate_hz),
    }
    forms = {"compiled": fast, "TorchScript": Scripted(bundle)}
    all_times = {(pace, form): Times() for pace in waits for form in forms}
    floors: dict[str, list[float]] = {pace: [] for pace in waits}
    for k in range(rounds):
        for pace, wait in waits.items():
            progress(f"{model}, {pace}: round {k + 1} of {rounds}")
            floors[pace] += reading(fast.weights, wait, len(windows) // 4)
            for form, step in forms.items():
                bundle.stepper = step
                run(bundle, windows[:WARM_UP], lambda: None)
                took = run(bundle, windows, wait)
                all_times[pace, form].push += took.push
                all_times[pace, form].step += took.step
    rows: list[dict[str, Any]] = []
    for pace in waits:
        floor = Spread.of(floors[pace])
        rows.append({"us": f"{model}, {pace}: floor, reading the weights", "p50": floor.median,
                     "p25": floor.low, "p75": floor.high, "x TorchScript": ""})  # fmt: skip
        for form in forms:
            for part in ("push", "step"):
                s = Spread.of(getattr(all_times[pace, form], part))
                other = Spread.of(getattr(all_times[pace, "TorchScript"], part)).median
                rows.append(
                    {
                        "us": f"{model}, {pace}: {part}, {form}",
                        "p50": s.median,
                        "p25": s.low,
                        "p75": s.high,
                        "x TorchScript": f"{other / s.median:.1f}",
                    }
                )
    report.tables[model] = rows
    loop = all_times["in a loop", "compiled"]
    for part, values, limit in (
        ("features, network and decoder", loop.push, PUSH_TARGET_US),
        ("features and network", loop.step, STEP_TARGET_US),
    ):
        s = Spread.of(values)
        report.add(
            f"{model}: {part}, in a loop, median",
            s.median,
            "us",
            floor=Spread.of(floors["in a loop"]).median,
            spread=f"{s.low:.1f} - {s.high:.1f}",
            target=f"<= {limit:g} us",
            holds=s.median <= limit,
        )
    report.notes.append(
        f"{model}: {fast.weights.nbytes / 1e6:.2f} MB of weights; what it tells differs from "
        f"TorchScript by at most {disagreement(fast, bundle):.1g}"
    )


if __name__ == "__main__":
    main()
