"""The decoder's rules, on made-up score tracks."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.messages import Event, Window
from hgr_stream.recognition.decoder import Decoder
from hgr_stream.recognition.options import ClassOptions, DecoderOptions
from hgr_stream.recognition.recogniser import Scores

LABELS = ["CIRCLE", "LEFT", "ONE"]
STEP_NS = 40_000_000


def probs(*parts: tuple[int, int, float]) -> np.ndarray:
    """(ticks, class, its probability) -> (n, 4) rows; what is left goes to none (or the next)."""
    rows = []
    for ticks, label, p in parts:
        row = np.full(4, (1 - p) * 0.05, np.float32)
        row[0 if label else 1] = (1 - p) * 0.9
        row[label] = p
        rows += [row / row.sum()] * ticks
    return np.array(rows, np.float32)


def run(
    rows: np.ndarray,
    options: DecoderOptions,
    *,
    boundary: np.ndarray | None = None,
    verify=None,
    finish: str = "end",
    chunk: int = 1,
) -> list[Event]:
    decoder = Decoder(options, LABELS, STEP_NS / 1e9, verify, "t")
    edges = np.zeros((len(rows), 2), np.float32) if boundary is None else boundary
    events = []
    for at in range(0, len(rows), chunk):
        part = slice(at, min(at + chunk, len(rows)))
        times = np.arange(part.start, part.stop, dtype=np.int64) * STEP_NS
        window = Window("d", "right", "right", "t", at, int(times[-1]), STEP_NS, 1, b"")
        events += decoder.push(Scores(window, times, rows[part], edges[part], rows[part, :0]))
    if finish:
        events += decoder.finish(len(rows) * STEP_NS, finish)
    return events


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.kind, e.label) for e in events]


PLAIN = DecoderOptions(smooth_s=0.0, begin_hold_s=0.08, early_hold_s=0.2, end_hold_s=0.12)


def test_a_gesture_begins_is_told_early_and_is_confirmed():
    events = run(probs((20, 0, 0.95), (25, 1, 0.95), (20, 0, 0.95)), PLAIN)
    assert kinds(events) == [("begin", "CIRCLE"), ("early", "CIRCLE"), ("confirmed", "CIRCLE")]
    begin, early, confirmed = events
    assert {e.id for e in events} == {"d:t:840"}
    assert begin.onset_ns == 20 * STEP_NS
    assert begin.decided_ns == 21 * STEP_NS
    assert early.decided_ns < 30 * STEP_NS
    assert confirmed.offset_ns == 45 * STEP_NS
    assert confirmed.decided_ns == 47 * STEP_NS
    assert confirmed.confidence > 0.8


def test_what_is_confirmed_is_told_with_a_margin():
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (20, 0, 0.95))
    plain, wide = (
        run(rows, msgspec.structs.replace(PLAIN, margin_s=margin_s))[-1] for margin_s in (0.0, 0.04)
    )
    assert wide.onset_ns == plain.onset_ns - 40_000_000
    assert wide.offset_ns == plain.offset_ns + 40_000_000
    assert wide.decided_ns == plain.decided_ns
    # Never to before the hand was there, nor past what has been seen.
    widest = run(rows, msgspec.structs.replace(PLAIN, margin_s=9.0))[-1]
    assert (widest.onset_ns, widest.offset_ns) == (0, widest.decided_ns)


def test_margins_leave_what_is_refused_and_what_begins_as_they_are():
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (6, 0, 0.95), (25, 2, 0.95), (20, 0, 0.95))
    plain, wide = (
        run(rows, msgspec.structs.replace(PLAIN, margin_s=margin_s)) for margin_s in (0.0, 0.2)
    )
    assert kinds(wide) == kinds(plain)
    assert [e.onset_ns for e in wide if e.kind == "begin"] == [
        e.onset_ns for e in plain if e.kind == "begin"
    ]
    first, second = (e for e in wide if e.kind == "confirmed")
    assert first.offset_ns < second.onset_ns  # though the two margins are longer than the pause


def test_a_flicker_of_one_tick_is_nothing():
    assert run(probs((20, 0, 0.95), (1, 1, 0.95), (20, 0, 0.95)), PLAIN) == []


def test_hysteresis_bridges_a_dip():
    rows = probs((20, 0, 0.95), (15, 2, 0.9), (2, 0, 0.8), (15, 2, 0.9), (20, 0, 0.95))
    assert Counter(e.kind for e in run(rows, PLAIN)) == {"begin": 1, "early": 1, "confirmed": 1}


def test_the_label_may_change_until_it_is_told_early():
    options = DecoderOptions(smooth_s=0.0, early=0.85, early_hold_s=0.2)
    rows = probs((20, 0, 0.95), (5, 1, 0.7), (25, 2, 0.95), (20, 0, 0.95))
    assert kinds(run(rows, options)) == [
        ("begin", "CIRCLE"), ("update", "LEFT"), ("early", "LEFT"), ("confirmed", "LEFT")
    ]  # fmt: skip
    fixed = probs((20, 0, 0.95), (10, 1, 0.95), (25, 2, 0.95), (20, 0, 0.95))
    assert {e.label for e in run(fixed, options)} == {"CIRCLE"}


def test_a_label_is_told_early_by_probabilities_with_a_smoothing_of_their_own():
    slow = DecoderOptions(smooth_s=0.08, begin_hold_s=0.2, early=0.9, early_hold_s=0.08)
    rows = probs((20, 0, 0.98), (40, 1, 0.98), (30, 0, 0.98))
    fast = msgspec.structs.replace(slow, early_smooth_s=0.0)
    begin, early, confirmed = run(rows, fast)
    # In the second sure tick: the hold that begins a gesture is not waited for.
    assert early.decided_ns == begin.decided_ns == 21 * STEP_NS
    assert early.confidence == pytest.approx(0.98, abs=0.01)
    before, late, same = run(rows, slow)
    assert late.decided_ns >= before.decided_ns > 24 * STEP_NS
    assert (same.onset_ns, same.offset_ns, same.confidence) == (
        confirmed.onset_ns, confirmed.offset_ns, confirmed.confidence
    )  # fmt: skip


def test_what_held_before_a_loss_does_not_count_after_it():
    options = DecoderOptions(smooth_s=0.0, early=0.9, early_hold_s=0.2)
    decoder = Decoder(options, LABELS, STEP_NS / 1e9, None, "t")
    row = probs((1, 1, 0.98))
    for k in range(4):
        time = np.array([k * STEP_NS])
        window = Window("d", "right", "right", "t", k, k * STEP_NS, STEP_NS, 1, b"")
        decoder.push(Scores(window, time, row, np.zeros((1, 2), np.float32), row[:, :0]))
    decoder.finish(4 * STEP_NS, "lost")
    time = np.array([5 * STEP_NS])
    window = Window("d", "right", "right", "t", 5, 5 * STEP_NS, STEP_NS, 1, b"")
    assert decoder.push(Scores(window, time, row, np.zeros((1, 2), np.float32), row[:, :0])) == []


def test_early_can_be_switched_off():
    options = DecoderOptions(smooth_s=0.0, early_on=False)
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (20, 0, 0.95))
    assert [e.kind for e in run(rows, options)] == ["begin", "confirmed"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (DecoderOptions(smooth_s=0.0, min_duration_s=3.0), "too short"),
        (DecoderOptions(smooth_s=0.0, min_mean=0.99), "too weak"),
        (
            DecoderOptions(smooth_s=0.0, per_class={"CIRCLE": ClassOptions(min_duration_s=3.0)}),
            "too short",
        ),
    ],
)
def test_what_fails_a_gate_is_cancelled_with_the_reason(options, reason):
    events = run(probs((20, 0, 0.95), (25, 1, 0.9), (20, 0, 0.95)), options)
    assert (events[-1].kind, events[-1].reason) == ("cancelled", reason)


def test_a_threshold_of_its_own_for_a_class():
    options = DecoderOptions(smooth_s=0.0, per_class={"CIRCLE": ClassOptions(begin=0.99)})
    rows = probs((20, 0, 0.95), (25, 1, 0.9), (20, 0, 0.95), (25, 2, 0.9), (20, 0, 0.95))
    assert {e.label for e in run(rows, options)} == {"LEFT"}


def test_refractory_time_after_an_end():
    rows = probs((20, 0, 0.95), (20, 1, 0.9), (6, 0, 0.95), (20, 1, 0.9), (20, 0, 0.95))
    assert len({e.id for e in run(rows, PLAIN)}) == 2
    slow = DecoderOptions(smooth_s=0.0, refractory_s=3.0)
    assert len({e.id for e in run(rows, slow)}) == 1


def test_a_gesture_without_end_is_cut_once():
    options = DecoderOptions(smooth_s=0.0, max_duration_s=2.0)
    events = run(probs((20, 0, 0.95), (400, 3, 0.95), (20, 0, 0.95), (25, 3, 0.9)), options)
    assert [e.kind for e in events if e.kind != "early"] == ["begin", "confirmed"] * 2
    confirmed = [e for e in events if e.kind == "confirmed"]
    assert (confirmed[0].offset_ns - confirmed[0].onset_ns) / 1e9 == pytest.approx(2.0, abs=0.05)


def test_boundary_peaks_date_both_ends():
    options = DecoderOptions(smooth_s=0.1, boundary_delay_s=0.24)
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (30, 0, 0.95))
    edges = np.full((75, 2), 0.01, np.float32)
    edges[15 + 6, 0] = 0.9  # the start was at tick 15, told 6 ticks late
    edges[41 + 6, 1] = 0.8
    confirmed = run(rows, options, boundary=edges)[-1]
    assert confirmed.kind == "confirmed"
    assert confirmed.onset_ns == pytest.approx(15 * STEP_NS, abs=STEP_NS / 2)
    assert confirmed.offset_ns == pytest.approx(41 * STEP_NS, abs=STEP_NS / 2)


def test_a_gesture_without_ends_of_its_own_is_doubtful():
    options = DecoderOptions(smooth_s=0.0, boundary_delay_s=0.24, min_quality=0.2)
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (30, 0, 0.95))
    edges = np.full((75, 2), 0.01, np.float32)
    edges[26, 0] = 0.9
    last = run(rows, options, boundary=edges)[-1]
    assert (last.kind, last.reason) == ("cancelled", "doubtful")
    edges[51, 1] = 0.8
    assert run(rows, options, boundary=edges)[-1].kind == "confirmed"
    edges[51, 1] = 0.01
    lost = run(rows[:45], options, boundary=edges[:45], finish="lost")[-1]
    assert lost.kind == "confirmed", "a lost hand shows no end"


def verdict(label: int, p: float):
    row = np.full(4, (1 - p) / 3, np.float32)
    row[label] = p
    return lambda start, end: row


def test_the_verifier_rejects():
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (20, 0, 0.95))
    events = run(rows, PLAIN, verify=verdict(0, 0.97))
    assert (events[-1].kind, events[-1].reason) == ("cancelled", "refused by the verifier")


def test_the_verifier_relabels_and_no_early_label_is_silently_withdrawn():
    rows = probs((20, 0, 0.95), (25, 1, 0.7), (20, 0, 0.95))
    quiet = DecoderOptions(smooth_s=0.0, early_on=False)
    assert kinds(run(rows, quiet, verify=verdict(2, 0.99))) == [
        ("begin", "CIRCLE"), ("confirmed", "LEFT")
    ]  # fmt: skip
    early = DecoderOptions(smooth_s=0.0, early=0.6)
    events = run(rows, early, verify=verdict(2, 0.99))
    assert [(e.kind, e.label, e.id) for e in events] == [
        ("begin", "CIRCLE", "d:t:840"),
        ("early", "CIRCLE", "d:t:840"),
        ("cancelled", "CIRCLE", "d:t:840"),
        ("begin", "LEFT", "d:t:840.2"),
        ("confirmed", "LEFT", "d:t:840.2"),
    ]
    assert events[2].reason == "verifier says LEFT"
    stubborn = DecoderOptions(smooth_s=0.0, relabel=False, accept=0.2)
    assert run(rows, stubborn, verify=verdict(2, 0.99))[-1].kind == "cancelled"


def test_of_an_early_label_an_unsure_verifier_says_only_yes_or_no():
    rows = probs((20, 0, 0.95), (25, 1, 0.7), (20, 0, 0.95))

    def leaning(start: int, end: int) -> np.ndarray:
        return np.array([0.01, 0.05, 0.79, 0.15], np.float32)

    early = DecoderOptions(smooth_s=0.0, early=0.6, accept=0.04)
    lives = [(e.kind, e.label, e.id) for e in run(rows, early, verify=leaning)]
    assert lives[1:] == [("early", "CIRCLE", "d:t:840"), ("confirmed", "CIRCLE", "d:t:840")]
    strict = DecoderOptions(smooth_s=0.0, early=0.6, accept=0.1)
    refused = run(rows, strict, verify=leaning)
    assert [e.kind for e in refused] == ["begin", "early", "cancelled"]
    assert refused[-1].reason == "refused by the verifier"
    silent = DecoderOptions(smooth_s=0.0, early_on=False)
    assert run(rows, silent, verify=leaning)[-1].label == "LEFT"
    never = DecoderOptions(smooth_s=0.0, early=0.6, overrule=1.1)
    assert {e.id for e in run(rows, never, verify=verdict(2, 0.999))} == {"d:t:840"}


def test_a_hand_that_is_lost_late_confirms_and_early_cancels():
    whole = probs((20, 0, 0.95), (25, 1, 0.95))
    assert run(whole, PLAIN, finish="lost")[-1].kind == "confirmed"
    short = DecoderOptions(smooth_s=0.0, min_duration_s=1.0)
    last = run(probs((20, 0, 0.95), (8, 1, 0.95)), short, finish="lost")[-1]
    assert (last.kind, last.reason) == ("cancelled", "hand lost: too short")
    last = run(whole, PLAIN, finish="model changed")[-1]
    assert (last.kind, last.reason) == ("cancelled", "model changed")


@pytest.mark.parametrize(("finish", "most_s"), [("lost", 6.0), ("", 0.6)])
def test_what_is_cut_lasted_until_then(finish, most_s):
    """The network would have gone on naming it after its end, had it ended."""
    options = DecoderOptions(release_s=0.2, min_duration_s=0.5, max_duration_s=most_s)
    last = run(probs((20, 0, 0.95), (17, 1, 0.95)), options, finish=finish)[-1]
    assert (last.kind, last.offset_ns) == ("confirmed", last.decided_ns)


def test_grouping_of_scores_changes_nothing():
    rows = probs((20, 0, 0.95), (25, 1, 0.95), (20, 0, 0.9), (20, 3, 0.9), (9, 0, 0.9))
    one, many = run(rows, PLAIN), run(rows, PLAIN, chunk=17)

    def told(e: Event):
        return (e.id, e.kind, e.label, e.onset_ns, e.offset_ns, e.decided_ns, e.confidence)

    assert [told(e) for e in one] == [told(e) for e in many]
    assert len(one) >= 4


part = st.tuples(st.integers(1, 30), st.integers(0, 3), st.floats(0.3, 0.99))


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(part, min_size=1, max_size=14),
    peaks=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 1), st.floats(0, 1)), max_size=20),
    options=st.builds(
        DecoderOptions,
        begin=st.floats(0.1, 0.9),
        end=st.floats(0.1, 0.9),
        early=st.floats(0.1, 0.95),
        smooth_s=st.floats(0, 0.3),
        begin_hold_s=st.floats(0, 0.3),
        early_smooth_s=st.none() | st.floats(0, 0.3),
        end_hold_s=st.floats(0, 0.4),
        refractory_s=st.floats(0, 1.0),
        max_duration_s=st.floats(0.2, 3.0),
        min_duration_s=st.floats(0, 0.5),
        boundary_delay_s=st.sampled_from([0.0, 0.24]),
        release_s=st.sampled_from([0.0, 0.2]),
        lookback_s=st.floats(0, 2.0),
        accept=st.floats(0, 0.8),
        min_quality=st.sampled_from([0.0, 0.1, 0.5]),
        margin_s=st.floats(0, 0.3),
    ),
    verified=st.one_of(st.none(), st.tuples(st.integers(0, 3), st.floats(0.3, 0.99))),
    reason=st.sampled_from(["lost", "end", "model changed"]),
)
def test_every_life_is_whole(parts, peaks, options, verified, reason):
    """Begins once, ends once, in between only updates; lives do not overlap; times are in order."""
    rows = probs(*parts)
    edges = np.zeros((len(rows), 2), np.float32)
    for at, side, value in peaks:
        edges[at % len(rows), side] = value
    verify = verdict(*verified) if verified else None
    events = run(rows, options, boundary=edges, verify=verify, finish=reason)
    lives: dict[str, list[Event]] = {}
    for e in events:
        lives.setdefault(e.id, []).append(e)
    last_decided = last_end = -1
    for life in lives.values():
        assert life[0].kind == "begin"
        assert Counter(e.kind for e in life)["begin"] == 1
        assert life[-1].kind in ("confirmed", "cancelled")
        assert all(e.kind in ("update", "early") for e in life[1:-1])
        assert Counter(e.kind for e in life)["early"] <= 1
        fixed = [
            e.label for i, e in enumerate(life) if any(x.kind == "early" for x in life[: i + 1])
        ]
        assert len(set(fixed)) <= 1, "a label told early stays"
        assert life[0].decided_ns >= last_decided
        last_decided = life[-1].decided_ns
        end = life[-1]
        assert 0 <= end.onset_ns <= end.offset_ns <= end.decided_ns
        if end.kind == "confirmed":
            assert end.onset_ns > last_end, "gestures of one hand must not overlap"
            last_end = end.offset_ns
            assert 0 <= end.confidence <= 1
    for before, after in pairwise(events):
        assert after.decided_ns >= before.decided_ns
