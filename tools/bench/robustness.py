"""How well recognition bears another rate, jitter, gaps, glitches, lost hands, the left hand,
another seat or sensor pose; and how often it speaks when nobody gestures.

Real recordings run through the real pipeline in lock step, as they are and perturbed (see
``hgr_stream.training.perturb``), and event F1 (the right label, any overlap) is compared with that
of the clean recordings. ``leap`` runs on SHREC'22 and ``hololens`` on SHREC'21, the sensor that
each never saw: on its own training recordings a model bears anything. Gestures that a model does
not know are not asked for. Silence: what the recordings hold between gestures (false/h), hands of
that sensor that take up a movement's posture, hold still for some seconds and go back, a
synthetic hand at rest, and Leap Motion streams in which people play without any gesture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import REPOSITORY, Report, json_option, progress, synthetic_frames

from hgr_stream.datasets.convert import Recording, open_recordings
from hgr_stream.training.perturb import Perturbation, parse

DATA = REPOSITORY.parent / "shared" / "data"
PERTURBATIONS = (
    *(f"rate={hz}" for hz in (15, 30, 60, 120, 240)),
    "jitter=0.15", "jitter=0.4", "gaps=0.1", "gaps=0.2", "glitch=0.01", "glitch=0.05",
    "phantom=0.03", "phantom=0.1", "lost=0.1", "lost=0.2", "lost=0.4", "left", "turned=20",
    "turned=-20", "raised=15", "raised=-15", "size=0.85", "size=1.15", "noise=2",
)  # fmt: skip
#: model -> the data set of another sensor, and where it lies beside the repository.
PAIRS = {"leap": "shrec22", "hololens": "shrec21"}
PAUSE_S = 300.0  #: the synthetic hand performs nothing for longer than this
STILLS = 200  #: hands that hold still
FOLDERS = {"shrec21": "shrec21_online_train", "shrec22": "shrec22_online_train"}


def folder_of(dataset: str, given: Path | None, scratch: Path) -> Path:
    """Where a data set lies; its archive is unpacked where there is only that."""
    import tarfile

    root = given or DATA / FOLDERS[dataset]
    packed = DATA / f"{FOLDERS[dataset]}.tar.xz"
    if not root.exists() and packed.is_file():
        root = scratch / dataset
        with tarfile.open(packed) as archive:
            archive.extractall(root, filter="data")
    if not root.exists():
        raise click.ClickException(f"{root}: no such folder; give it with --{dataset} DIR")
    return root


def stills(dataset: str, root: Path) -> list[Recording]:
    """Hands that take up a posture of one of the data set's movements, and do not perform it."""
    from hgr_stream.datasets.base import HandSequence
    from hgr_stream.training.draw import Pool
    from hgr_stream.training.material import load, recording_of
    from hgr_stream.training.stills import draw_still
    from hgr_stream.training.streams import labels_of, to_streams

    sequences = load([(dataset, root)])
    labels = labels_of(sequences)
    pool = Pool.of(to_streams(sequences, labels), len(labels))
    rng = np.random.default_rng(0)
    found = []
    for n in range(STILLS):
        stream, mark = pool.movement(rng)
        ticks = (30, int(rng.uniform(50, 300)), 30)
        joints = draw_still(stream, mark, ticks, 50.0, rng).joints
        index = np.arange(len(joints), dtype=np.int64)
        found.append(HandSequence(f"still{n}", joints, 20_000_000 * index, index))
    return [recording_of(q, root, dataset) for q in found]


def silences(seconds: float) -> Iterable[tuple[str, list[Recording]]]:
    """Streams in which nobody gestures."""
    rests = []
    for seed in range(max(round(seconds / PAUSE_S), 1)):
        # It performs once, soon after its start, and then pauses for longer than is looked at.
        frames = synthetic_frames(PAUSE_S + 10, pause_s=600, gestures=["ONE"], seed=seed)
        frames = [f for f in frames if f.time_ns > frames[0].time_ns + 10_000_000_000]
        rests.append(Recording(f"rest{seed}", Path("rest"), frames))
    yield "synthetic hand at rest", rests
    leap = DATA / "leap_recordings"
    if leap.is_dir():
        errors: list[Any] = []
        yield "Leap Motion, nobody performs", list(open_recordings([leap], None, errors.append))


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/robustness.py
  python tools/bench/robustness.py --model leap --every 6 --only rate=15 --only left
""",
)
@click.option("--model", "models", multiple=True, help="Of leap, hololens.  [default: both]")
@click.option("--shrec21", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--shrec22", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--every", default=3, show_default=True, help="Take every so many-th sequence.")
@click.option("--only", multiple=True, metavar="NAME=NUMBER", help="Only these perturbations.")
@click.option("--seconds", default=600.0, show_default=True, help="Of the synthetic silence.")
@json_option
def main(
    models: tuple[str, ...],
    shrec21: Path | None,
    shrec22: Path | None,
    every: int,
    only: tuple[str, ...],
    seconds: float,
    as_json: bool,
) -> None:
    from hgr_stream.datasets.base import DatasetError
    from hgr_stream.recognition.bundle import load
    from hgr_stream.training.online_evaluate import evaluate

    given = {"shrec21": shrec21, "shrec22": shrec22}
    try:
        changes = [parse(text) for text in only or PERTURBATIONS]
    except DatasetError as error:
        raise click.ClickException(str(error)) from None
    report = Report("robustness")
    with tempfile.TemporaryDirectory(prefix="hgr-bench-") as scratch:
        for model in models or tuple(PAIRS):
            dataset = PAIRS[model]
            bundle = load(model)
            root = folder_of(dataset, given[dataset], Path(scratch))
            recordings = list(open_recordings([root], dataset))[::every]  # type: ignore[arg-type]
            rows: list[dict[str, Any]] = []
            clean = 0.0
            for change in (None, *changes):
                progress(f"{model}: {change or 'clean'}")
                some = [r if change is None else _perturbed(r, change) for r in recordings]
                _, reports = evaluate(bundle, some, "shrec21", shared=True)
                sure, early = reports["confirmed"].benchmark, reports["early"].benchmark
                clean = clean or sure.f1
                rows.append(
                    {
                        "": str(change or "clean"),
                        "F1": round(sure.f1, 3),
                        "of clean": round(sure.f1 / clean, 3) if clean else 0.0,
                        "precision": round(sure.precision, 3),
                        "recall": round(sure.recall, 3),
                        "early F1": round(early.f1, 3),
                        "false/h": round(sure.false_per_hour, 1),
                        "early false/h": round(early.false_per_hour, 1),
                    }
                )
            title = f"{model} on {dataset}, {len(recordings)} sequences"
            report.tables[title] = rows
            worst = min(rows, key=lambda row: row["F1"])
            report.add(
                f"{model}: worst F1 ({worst['']})", worst["F1"], "", floor=clean, target=">= 0.9 x"
            ).holds = bool(worst["F1"] >= 0.9 * clean)
            report.tables[f"{model}, nobody gestures"] = quiet = []
            still = (f"{STILLS} hands hold still", stills(dataset, root))
            for name, streams in (still, *silences(seconds)):
                progress(f"{model}: {name}")
                played, reports = evaluate(bundle, streams, "any", silent=True)
                hours = sum(p.seconds for p in played) / 3600
                told = {g: sum(len(p.found[g]) for p in played) for g in reports}
                quiet.append(
                    {
                        "": name,
                        "hours": round(hours, 3),
                        **{f"{g} false": n for g, n in told.items()},
                        **{f"{g} false/h": round(n / hours, 1) for g, n in told.items()},
                    }
                )
    report.notes.append("F1: right label, any overlap; false/h: events that touch no gesture")
    report.show(as_json)


def _perturbed(recording: Recording, change: Perturbation) -> Recording:
    return change.of(recording)


if __name__ == "__main__":
    main()
