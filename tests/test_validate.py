"""How a streaming model's settings are chosen, on made-up scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_decoder import LABELS, probs

from hgr_stream.recognition.options import DecoderOptions
from hgr_stream.training.streams import Mark, Stream
from hgr_stream.training.validate import (
    EARLY_PRECISION,
    Scored,
    calibrate,
    calibrate_verifier,
    decode,
    evaluate,
    tune_early,
)

RATE = 25.0
LEFT = 1 + LABELS.index("LEFT")


def scored(rows: np.ndarray, *marks: tuple[int, int, int]) -> Scored:
    """A stream of these scores; marks: class, first and last tick."""
    n = len(rows)
    joints = np.zeros((n, 22, 3), np.float32)
    true = tuple(Mark(label, first / RATE, last / RATE) for label, first, last in marks)
    stream = Stream("s", joints, np.arange(n) / RATE, true)
    return Scored(stream, joints, np.log(rows), rows, np.zeros((n, 2), np.float32))


def ambiguous(like_circle: float, ticks: int = 5) -> Scored:
    """LEFT, which at first looks like CIRCLE."""
    rows = probs((30, 0, 0.98), (ticks, 1, like_circle), (30, LEFT, 0.97), (30, 0, 0.98))
    return scored(rows, (LEFT, 30, 59 + ticks))


def test_early_labels_are_told_as_soon_as_they_are_right_often_enough():
    options = DecoderOptions(smooth_s=0.08, begin_hold_s=0.08)
    items = [ambiguous(0.85) for _ in range(3)]
    found = tune_early(items, options, LABELS, RATE, None)
    assert found.early > 0.85
    early = evaluate(items, found, LABELS, RATE, None, "any", kind="early")
    assert early.precision >= EARLY_PRECISION
    # After the five ticks, and one for LEFT to have more evidence than CIRCLE for each of them.
    assert early.delay == pytest.approx(10 / RATE, abs=1.5 / RATE)
    soon = tune_early([ambiguous(0.6)], options, LABELS, RATE, None)
    assert soon.early < 0.85, "nothing asks for more"


def test_where_early_labels_cannot_be_right_often_enough_they_are_as_right_as_can_be():
    always = [ambiguous(0.99, 12), scored(probs((30, 0, 0.98), (30, 1, 0.89), (30, 0, 0.98)))]
    found = tune_early([*always, ambiguous(0.5)], DecoderOptions(), LABELS, RATE, None)
    told = evaluate([*always, ambiguous(0.5)], found, LABELS, RATE, None, "any", kind="early")
    assert told.precision < EARLY_PRECISION
    assert found.early >= 0.9, "which spares the second"


class Says:
    """A verifier of fixed logits."""

    def __init__(self, *logits: float) -> None:
        self.logits = torch.tensor([logits])

    def __call__(self, segment: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize(("right", "sure"), [(9, 0.9), (5, 0.5)])
def test_a_calibrated_verifier_is_as_sure_as_it_is_right(right, sure):
    """It says LEFT of all; ``right`` of ten are."""
    verifier = Says(-1.5, -1.5, 2.5, -1.5)
    rows = probs((30, 0, 0.98), (30, LEFT, 0.97), (30, 0, 0.98))
    items = [scored(rows, (LEFT if i < right else 3, 30, 59)) for i in range(10)]
    options = DecoderOptions(accept=0.0, relabel=False)
    temperature = calibrate_verifier(items, options, LABELS, RATE, verifier)
    assert temperature > 1.0
    (confirmed,) = (e for e in decode(items[0], options, LABELS, RATE, verifier)
                    if e.kind == "confirmed")  # fmt: skip
    assert confirmed.confidence == pytest.approx(sure, abs=0.15)
    assert items[0].verify_temperature == temperature


def test_scores_that_are_not_finite_choose_no_temperature():
    items = [scored(probs((30, 0, 0.98), (30, LEFT, 0.97)), (LEFT, 30, 59)) for _ in range(2)]
    assert 0.4 <= calibrate(items, RATE) <= 3.0
    items[1].logits[7] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        calibrate(items, RATE)


def test_without_anything_to_judge_verdicts_stay_as_they_are():
    silent = [scored(probs((50, 0, 0.98)))]
    verifier = Says(0.0, 0.0, 0.0, 0.0)
    assert calibrate_verifier(silent, DecoderOptions(), LABELS, RATE, verifier) == 1.0
