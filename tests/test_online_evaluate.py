"""Online evaluation: figures that can be worked out by hand, and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import Recording
from hgr_stream.messages import Truth
from hgr_stream.recognition.bundle import load
from hgr_stream.training.metrics import Span, calibration_error
from hgr_stream.training.online_evaluate import (
    Played,
    edit_distance,
    evaluate,
    report,
    timeline,
    truths_of,
)
from hgr_stream.training.thresholds import Candidate, choose, tune
from tests.hands import swipe_frames
from tests.models import save_palm_model


def played(truths: list[Span], found: list[Span], confidence: float = 1.0) -> Played:
    return Played(
        "x", truths, {"confirmed": found, "early": []},
        {"confirmed": [confidence] * len(found), "early": []}, 60.0, 0.02,
    )  # fmt: skip


def test_figures_by_hand() -> None:
    truths = [Span("A", 100, 200), Span("B", 300, 400), Span("A", 500, 520)]
    found = [
        Span("A", 110, 205, report=215),  # right
        Span("A", 300, 400, report=410),  # a B taken for an A
        Span("B", 1000, 1100, report=1110),  # where nothing was
    ]
    r = report([played(truths, found)], "confirmed", "shrec21")
    b = r.benchmark
    assert b.detection_rate == pytest.approx((0.5 + 0.0) / 2)
    assert b.false_positives == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert b.jaccard == pytest.approx((1 / 3 + 0 / 2) / 2)
    assert (b.precision, b.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    idle_s = 60 - 0.02 * 220
    assert b.false_per_hour == pytest.approx(3600 / idle_s)
    assert r.commit_lag_ms == pytest.approx((215 - 200) * 20)
    assert r.edit_accuracy == pytest.approx(1 - 2 / 3)  # A A B for A B A


def test_edit_distance() -> None:
    assert edit_distance("", "") == 0
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("abc", "") == 3


def test_calibration_error() -> None:
    told = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 10 + [True] * 5 + [False] * 5)
    assert calibration_error(told, right) == pytest.approx(0.05)
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0


def test_the_pipeline_on_a_recording_with_truth_and_its_picture(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    frames = swipe_frames(3)
    strokes = [(1.0, 1.4), (7.4, 7.8), (13.8, 14.2)]
    truths = [Truth("test", "right", "RIGHT", int(a * 1e9), int(b * 1e9)) for a, b in strokes]
    recording = Recording("swipes", tmp_path / "x", "swipes", frames, truths)
    result, reports = evaluate(bundle, [recording], "any")
    confirmed = reports["confirmed"]
    assert (confirmed.benchmark.f1, confirmed.edit_accuracy) == (1.0, 1.0)
    assert confirmed.benchmark.false_per_hour == 0.0
    assert reports["early"].commit_lag_ms < 400
    assert result[0].frame_s == pytest.approx(0.01, abs=1e-4)
    timeline(bundle, recording, result[0], tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    recording.truths = []
    with pytest.raises(DatasetError, match="what is performed"):
        evaluate(bundle, [recording], "any")


def test_thresholds_are_raised_where_they_cost_least() -> None:
    found = [
        *(Candidate("A", c, True, False) for c in (0.5, 0.6, 0.9)),
        Candidate("A", 0.3, False, True),  # cheap: no true A is below it
        *(Candidate("B", c, True, False) for c in (0.2, 0.3, 0.9)),
        Candidate("B", 0.5, False, True),  # dear: costs two
    ]
    assert choose(found, 2) == {}
    assert choose(found, 1) == {"A": 0.4}
    assert choose(found, 0) == {"A": 0.4, "B": 0.7}


def test_tuning_rids_a_recording_of_its_false_events(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    truths = [Truth("test", "right", "RIGHT", int(1.0e9), int(1.4e9))]  # of three strokes
    recording = Recording("swipes", tmp_path / "x", "swipes", swipe_frames(3), truths)
    tuned = tune(bundle, [recording], 1.0)
    assert tuned.before.benchmark.false_per_hour > 100
    assert tuned.after.benchmark.false_per_hour == 0.0
    assert tuned.threshold["RIGHT"] > 0.5


def test_a_truth_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("label,start_s,end_s\nLEFT,1.5,2.25\n\n# rest\nRIGHT,4,5\n")
    assert [(t.label, t.onset_ns, t.offset_ns) for t in truths_of(path, "leap")] == [
        ("LEFT", 1_500_000_000, 2_250_000_000),
        ("RIGHT", 4_000_000_000, 5_000_000_000),
    ]
    for text, line in (("LEFT,1.5\n", ":1:"), ("A,1,2\nLEFT,2,1\n", ":2:"), ("A,x,2\n", ":1:")):
        path.write_text(text)
        with pytest.raises(DatasetError, match=line):
            truths_of(path, "leap")
    with pytest.raises(DatasetError, match="No such file"):
        truths_of(tmp_path / "none.csv", "leap")
