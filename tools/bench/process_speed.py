"""How many times faster than real time recordings are processed, on one thread.

Subject: the pipeline in lock step in this process (what ``hgr process`` runs), from file to
events; and the command itself, its start included. Floor, in turn with it: reading the file and
decoding its frames, without doing anything with them. Recordings: the synthetic hand at 120 fps,
and, where the data is at hand, SHREC'21 sequences (50 fps) imported one after the other.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from harness import (
    SHREC21,
    Report,
    Split,
    Spread,
    command,
    json_option,
    model_option,
    progress,
    synthetic_frames,
    write_recording,
)

from hgr_stream.messages import Frame
from hgr_stream.pipeline import BATCH, Pipeline, run_recording

TARGET = 200.0
PAUSE_NS = 1_000_000_000


def shrec21(seconds: float, path: Path) -> Path | None:
    """Sequences one after the other, a second apart, as one recording; None without the data."""
    from hgr_stream.datasets.convert import open_recordings

    if not SHREC21.is_file():
        return None
    frames: list[Frame] = []
    shift_ns = 0
    for recording in open_recordings([SHREC21], "shrec21"):
        mine = list(recording.frames)
        for frame in mine:
            if not frame.end:
                time_ns = frame.time_ns - mine[0].time_ns + shift_ns
                frames.append(
                    msgspec.structs.replace(
                        frame,
                        device="shrec21",
                        boot_id="bench",
                        seq=len(frames),
                        time_ns=time_ns,
                        wall_ns=time_ns,
                    )
                )
        shift_ns = frames[-1].time_ns + PAUSE_NS
        if shift_ns > seconds * 1e9:
            break
    write_recording(frames, path)
    return path


def read(path: Path) -> list[Frame]:
    """The floor: every frame of the file, decoded."""
    from hgr_stream.datasets.convert import open_recordings

    return [frame for recording in open_recordings([path]) for frame in recording.frames]


def run(path: Path, bundle: Any) -> int:
    """The subject: from the file to events, as ``hgr process`` does; the events' number."""
    from hgr_stream.datasets.convert import open_recordings

    n = 0
    for recording in open_recordings([path]):
        events, _ = run_recording(Pipeline(bundle, batch=BATCH), recording.frames)
        n += len(events)
    return n


def stages(split: Split, read_s: float, stream_s: float, frames: int) -> list[dict[str, Any]]:
    """Seconds, share and "times real time on its own" of each stage."""
    t = split.took_s
    parts = {
        "reading and decoding": read_s,
        "segmentation": t["segmentation"],
        "network (features, step, softmax)": t["network"],
        "around the network (stack, history)": t["recogniser"] - t["network"],
        "verifier": t["verifier"],
        "decoder": t["engine"] - t["recogniser"] - t["verifier"],
        "the loop itself": t["all"] - t["segmentation"] - t["engine"],
    }
    total = sum(parts.values())
    return [
        {
            "stage": name,
            "s": round(s, 3),
            "share": f"{s / total:.0%}",
            "us a frame": round(1e6 * s / frames, 2),
            "x real time alone": round(stream_s / s) if s > 0 else "",
        }
        for name, s in parts.items()
    ]


def run_split(split: Split, frames: list[Frame], bundle: Any) -> None:
    """One pass over frames in memory, every stage timed."""
    pipeline = Pipeline(bundle, batch=BATCH)
    split.attach(pipeline.segmenter, pipeline.engine)
    began_s = time.perf_counter()
    for frame in frames:
        pipeline.push(frame)
    pipeline.finish()
    split.took_s["all"] += time.perf_counter() - began_s


def run_command(path: Path, model: str) -> tuple[float, float]:
    """(wall, CPU) seconds of ``hgr process FILE --json``."""
    argv = [command("hgr"), "process", str(path), "--model", model, "--json"]
    thrifty = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    began_s, before = time.perf_counter(), os.times()
    done = subprocess.run(argv, env=thrifty, capture_output=True, text=True, check=False)
    took_s, after = time.perf_counter() - began_s, os.times()
    if done.returncode:
        raise click.ClickException(f"hgr process failed: {done.stderr.strip()[-300:]}")
    cpu_s = after.children_user + after.children_system
    return took_s, cpu_s - before.children_user - before.children_system


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/process_speed.py
  python tools/bench/process_speed.py --minutes 10 --rounds 7 --json
""",
)
@model_option
@click.option("--minutes", default=5.0, show_default=True, help="Of each recording.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@json_option
def main(model: str, minutes: float, rounds: int, as_json: bool) -> None:
    from hgr_stream.recognition.bundle import load

    report = Report("process_speed")
    bundle = load(model, threads=1)
    with tempfile.TemporaryDirectory(prefix="hgr-bench-") as folder:
        progress("making the recordings")
        long = Path(folder) / "synthetic.mcap"
        write_recording(synthetic_frames(60 * minutes), long)
        short = Path(folder) / "short.mcap"
        write_recording(synthetic_frames(0.1), short)
        recordings = {"synthetic, 120 fps": long}
        if real := shrec21(60 * minutes, Path(folder) / "shrec21.mcap"):
            recordings["SHREC'21, 50 fps"] = real
        else:
            report.notes.append(f"SHREC'21 is not at hand ({SHREC21}): the synthetic hand only")
        for what, path in recordings.items():
            _measure(report, what, path, short, model, bundle, rounds)
    report.show(as_json)


def _measure(
    report: Report, what: str, path: Path, short: Path, model: str, bundle: Any, rounds: int
) -> None:
    frames = read(path)
    stream_s = (frames[-1].time_ns - frames[0].time_ns) / 1e9
    floors: list[float] = []
    subjects: list[float] = []
    commands: list[float] = []
    cpus: list[float] = []
    starts: list[float] = []
    split = Split()
    for k in range(rounds):
        progress(f"{what}: round {k + 1} of {rounds}")
        floors.append(_seconds(lambda: read(path)))
        subjects.append(_seconds(lambda: run(path, bundle)))
        run_split(split, frames, bundle)
        starts.append(run_command(short, model)[0])
        wall_s, cpu_s = run_command(path, model)
        commands.append(wall_s)
        cpus.append(cpu_s)
    for name, took, floor in (
        ("pipeline, file to events", subjects, floors),
        ("hgr process, the whole command", commands, starts),
    ):
        s = Spread.of([stream_s / t for t in took])
        report.add(
            f"{what}: {name}",
            s.median,
            "x real time",
            floor=stream_s / Spread.of(floor).median,
            spread=f"{s.low:.0f} - {s.high:.0f}",
            target=f">= {TARGET:g}" if took is subjects else "",
            holds=s.median >= TARGET if took is subjects else None,
        )
    wall, cpu, start = (Spread.of(t).median for t in (commands, cpus, starts))
    report.notes.append(
        f"{what}: {len(frames):,} frames, {stream_s:.0f} s of stream; the command took "
        f"{wall:.2f} s ({cpu:.2f} s of CPU), of which {start:.2f} s is its start (its floor above)"
    )
    for name in split.took_s:
        split.took_s[name] /= rounds
    rows = stages(split, Spread.of(floors).median, stream_s, len(frames))
    report.tables[f"{what}: where the time goes"] = rows


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
