"""Intervals, against scipy's and against drawing again."""

from __future__ import annotations

import numpy as np
import pytest

from hgr_stream.training import metrics
from hgr_stream.training.intervals import by_recording, byar, wilson
from hgr_stream.training.metrics import Span, score_with_limits


def test_wilson_interval() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(81, 100)
    # Agresti and Coull's and Newcombe's example values.
    assert (low, high) == pytest.approx((0.7222, 0.8749), abs=1e-3)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert wilson(10, 10)[0] == pytest.approx(0.7225, abs=1e-3)


@pytest.mark.parametrize("events", [0, 1, 2, 5, 40, 1000])
def test_byars_interval_is_nearly_the_exact_one(events: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    low, high = byar(events, 2.0)
    exact_low = stats.chi2.ppf(0.025, 2 * events) / 4 if events else 0.0
    assert low == pytest.approx(exact_low, rel=0.02, abs=0.05)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * events + 2) / 4, rel=0.02)


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        share = rng.normal(0.8, 0.1, 40)  # of a recording; they differ
        low, high = by_recording(40, lambda of, s=share: {"mean": s[of].mean()})["mean"]
        held.append(low < 0.8 < high)
    assert 0.90 < np.mean(held) < 0.98


def test_mistakes_in_one_recording_make_it_wide() -> None:
    def width(mistakes: list[int]) -> float:
        low, high = by_recording(10, lambda of: {"sum": sum(mistakes[i] for i in of)})["sum"]
        return high - low

    assert width([10] + [0] * 9) > 2 * width([1] * 5 + [2, 1, 1, 0, 1])


def test_one_recording_says_nothing_of_others() -> None:
    assert by_recording(1, lambda of: {"x": 1.0}) == {}
    assert by_recording(5, lambda of: {"x": 1.0}) == {"x": (1.0, 1.0)}


def test_recordings_in_which_nobody_gestures_hide_no_gesture() -> None:
    truths = [[Span("A", 1, 2, 3)], [Span("A", 5, 6, 7)], *([] for _ in range(8))]
    _, limits = score_with_limits(truths, truths, "shrec21", [60.0] * 10)
    assert limits["detection_rate"] == limits["jaccard"] == limits["overlap"] == (1.0, 1.0)
    assert limits["delay"] == (2.0, 2.0)
    _, silent = score_with_limits([[], []], [[], []], "any", [60.0] * 2)
    assert list(silent) == ["false_per_hour"]


def test_each_recording_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paired: list[str] = []
    pair = metrics.pair
    monkeypatch.setattr(metrics, "pair", lambda t, f, rule: paired.append(rule) or pair(t, f, rule))
    truths = [[Span("A", 1, 2)], [Span("A", 5, 6)]]
    score_with_limits(truths, truths, "shrec21", [60.0] * 2)
    assert sorted(paired) == ["any", "any", "shrec21", "shrec21"]  # not for each of 400 draws
