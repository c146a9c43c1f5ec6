"""The RealSense driver on one core, 640 x 480: what a frame costs, part by part, and how far off
wrist and knuckles are.

A real photo of a hand, moved about, with a depth rendered for it (noise, holes, a wall behind) goes
through librealsense's software device into a recording, and from there through the driver as it is.
Floor: MediaPipe's own graph on the same images, without anything around it. Peer: librealsense's
alignment of the whole depth image, which the driver does without. Truth: where the hand was put,
its shape and place in the image those of MediaPipe's exact model, which the driver does not use.

"processor" is the time that the core worked for it, which other programs on it do not lengthen.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import REPOSITORY, Report, Spread, json_option, progress
from numpy.typing import NDArray

sys.path.insert(0, str(REPOSITORY))

from hgr_drivers import librealsense
from hgr_drivers.base import EndOfStream, Sample
from hgr_drivers.realsense import RealSenseDriver, RealSenseOptions

from tools.hand_photos import open_hand, true_points, two_hands
from tools.rendered_hand import render
from tools.software_realsense import BASELINE_M, CAMERA, Images, record

TARGET_MS = 15.0
TARGET_OFF = 0.02
FRAMES = 48
WARM = 8
KNUCKLES = [0, 5, 9, 13, 17]

Points = list[NDArray[np.float64]]


def scenes(image: NDArray[np.uint8], truth: Points) -> Iterator[tuple[Images, Points]]:
    """The photo on a circle of 12 pixels, and where its hands are then."""
    rng = np.random.default_rng(0)
    for n in range(FRAMES):
        x, y = (round(12 * wave(2 * np.pi * n / FRAMES)) for wave in (np.cos, np.sin))
        moved = [p + p[:, 2:] * [x / CAMERA.fx, y / CAMERA.fy, 0] for p in truth]
        depth = np.full((CAMERA.height, CAMERA.width), 1.4)
        for points in moved:
            hand = render(points + np.array([BASELINE_M, 0, 0]), CAMERA)
            depth = np.where(hand > 0, hand, depth)
        depth += rng.normal(0, 0.001 + 0.004 * depth**2)
        depth[rng.random(depth.shape) < 0.05] = 0
        yield (np.roll(image, (y, x), (0, 1)), (depth * 1000).astype(np.uint16)), moved


class Timed:
    """Calls that are timed, by name, in milliseconds a frame."""

    def __init__(self) -> None:
        self.frames: dict[str, list[float]] = defaultdict(list)
        self._now: dict[str, float] = defaultdict(float)

    def timed(self, plain: Callable[..., Any], name: str) -> Callable[..., Any]:
        def out(*arguments: Any) -> Any:
            began_s, used_s = time.perf_counter(), time.process_time()
            try:
                return plain(*arguments)
            finally:
                self._now[name] += 1000 * (time.perf_counter() - began_s)
                self._now[f"{name}, processor"] += 1000 * (time.process_time() - used_s)

        return out

    def wrap(self, holder: Any, method: str, name: str) -> None:
        setattr(holder, method, self.timed(getattr(holder, method), name))

    def end_of_frame(self, counts: bool) -> None:
        for name, took_ms in self._now.items() if counts else ():
            self.frames[name].append(took_ms)
        self._now.clear()


def measured(path: Path, rounds: int, **options: Any) -> tuple[Timed, list[Sample]]:
    """Every frame of the recording through the driver, and the last round's samples."""
    timed = Timed()
    options = {"file": str(path), "realtime": False, **options}
    with closing(RealSenseDriver(RealSenseOptions(**options))) as driver:
        driver.open()
        frames = []
        try:
            while True:
                if (one := driver._newest(0.2)) is not None:
                    one.keep()
                    frames.append(one)
        except EndOfStream:
            pass
        assert driver._landmarker is not None
        timed.wrap(driver, "_sample", "in all")
        timed.wrap(driver._landmarker, "process", "landmarks")
        timed.wrap(driver._landmarker._graph, "process", "MediaPipe alone")
        timed.wrap(driver._depths, "of", "depths")
        timed.wrap(driver._lifter, "lift_anchored", "lift")
        rs = librealsense.library()
        align = timed.timed(rs.align(rs.stream.color).process, "align, whole image")
        for _ in range(rounds):
            driver._last = None
            samples = []
            for n, one in enumerate(frames):
                samples.append(driver._sample(one))
                align(one)
                timed.end_of_frame(n >= WARM)
    return timed, [sample for sample in samples if sample is not None]


def errors(samples: list[Sample], truths: list[Points]) -> NDArray[np.float64]:
    """Shares of the distance, (n, 5): wrist and knuckles of each hand that was seen."""
    out = []
    for sample in samples[WARM:]:
        truth = truths[sample.index - 1]
        for hand in sample.hands:
            got = hand.joints[[0, *range(2, 22)]] * [-1, -1, 1]
            offs = [
                np.linalg.norm(got - points, axis=1)[KNUCKLES] / points[:, 2].mean()
                for points in truth
            ]
            out.append(min(offs, key=lambda one: float(one.mean())))
    return np.array(out)


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="Of the recording.")
@json_option
def main(rounds: int, as_json: bool) -> None:
    data = REPOSITORY.parent / "shared" / "data"
    if not data.is_dir():
        raise click.ClickException(f"needs the photos in {data} (see the README: data)")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report = Report("realsense, 640 x 480, one core")
    with tempfile.TemporaryDirectory(prefix="hgr-bench-") as folder:
        for name, image, hands in (
            ("one hand", open_hand(data), 1),
            ("two hands", two_hands(data), 2),
        ):
            progress(f"{name}: filming")
            filmed = list(scenes(image, true_points(image, None, CAMERA)))
            path = Path(folder) / f"{hands}.db3"
            record(path, [images for images, _ in filmed])
            progress(f"{name}: measuring")
            timed, samples = measured(path, rounds)
            spreads = {part: Spread.of(took) for part, took in timed.frames.items()}
            for part in ("landmarks", "depths", "lift", "in all", "in all, processor"):
                spread = spreads[part]
                alone = "MediaPipe alone" + (", processor" if "processor" in part else "")
                floor = spreads[alone].median
                total = "in all" in part and hands == 1
                report.add(
                    f"{name}: {part}",
                    spread.median,
                    "ms",
                    spread=f"{spread.low:.3g}-{spread.high:.3g}",
                    floor=floor if part not in ("depths", "lift") else None,
                    target=f"<= {TARGET_MS:g}" if total else "",
                    holds=spread.median <= TARGET_MS if total else None,
                )
            report.add(
                f"{name}: peer, align",
                spreads["align, whole image"].median,
                "ms",
                spread=f"{spreads['align, whole image'].low:.3g}-"
                f"{spreads['align, whole image'].high:.3g}",
            )
            off = 100 * errors(samples, [truth for _, truth in filmed])
            report.add(
                f"{name}: wrist and knuckles off",
                float(off.mean()),
                "%",
                spread=f"95 %: {np.quantile(off, 0.95):.2g}",
                target=f"< {100 * TARGET_OFF:g}",
                holds=bool(off.mean() < 100 * TARGET_OFF),
            )
            seen = sum(len(sample.hands) for sample in samples)
            report.notes.append(
                f"{name}: {seen} hands seen in {len(samples)} images of {hands}; each of wrist, "
                f"index, middle, ring, pinky off by {', '.join(f'{e:.2f}' for e in off.mean(0))} %"
            )
    report.show(as_json)


if __name__ == "__main__":
    main()
