"""Both ends of a gesture dated anew once it is over, and what that is trained on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_decoder import PLAIN, STEP_NS, probs
from test_training import RATE, sequence

from hgr_stream.messages import Event, Window
from hgr_stream.recognition.causal import CausalNet, export
from hgr_stream.recognition.decoder import Decoder
from hgr_stream.recognition.options import DecoderOptions
from hgr_stream.recognition.recogniser import Scores, refined
from hgr_stream.recognition.segments import SegmentDater, SegmentVerifier
from hgr_stream.recognition.steppers import of_segment
from hgr_stream.skeleton import bone_lengths
from hgr_stream.training import augment
from hgr_stream.training.draw import Pool, draw_roughly
from hgr_stream.training.online import Schedule, train_dater
from hgr_stream.training.streams import Stream, to_streams
from hgr_stream.training.validate import spans

STEP = 1_000_000_000 // int(RATE)


def streams() -> list[Stream]:
    return to_streams([sequence(str(i), i) for i in range(4)], ["LEFT", "OPEN"])


@pytest.fixture
def plain_hands(monkeypatch):
    """Undistorted: only the ends are wrong."""
    monkeypatch.setattr(augment, "hand", lambda joints, *_: joints)
    monkeypatch.setattr(augment, "speeds", lambda n, *_: np.ones(n))


def test_the_shifts_that_are_taught_lead_to_the_true_ends(plain_hands):
    (stream,) = to_streams([sequence("1", 1)], ["LEFT", "OPEN"])
    # A hand whose wrist tells the time.
    clock = np.zeros_like(stream.joints)
    clock[:, 0, 0] = stream.time_s
    stream = Stream(stream.name, clock, stream.time_s, stream.marks)
    rng = np.random.default_rng(1)
    margin = round(SegmentDater.MARGIN_S * RATE)
    wrong = 0.0
    for _ in range(50):
        mark = stream.marks[int(rng.integers(len(stream.marks)))]
        joints, (start_by, end_by), length = draw_roughly(Pool([stream], [(0, mark)]), RATE, rng)
        told = joints[:, 0, 0]
        assert told[margin] + start_by == pytest.approx(mark.start_s, abs=1e-3)
        assert told[-1 - margin] + end_by == pytest.approx(mark.end_s, abs=1e-3)
        assert length == pytest.approx(mark.end_s - mark.start_s)
        wrong = max(wrong, abs(start_by), abs(end_by))
    assert 0.1 < wrong < 1.0


def test_a_trained_dater_brings_the_ends_nearer(plain_hands):
    torch.set_num_threads(1)
    material = streams()
    dater, steps = train_dater(material, 2, RATE, Schedule(steps=150, batch=32), 0)
    assert steps == 150
    rng = np.random.default_rng(9)
    pool = Pool.of(material, 2)
    before, after = [], []
    for _ in range(60):
        joints, shifts, _ = draw_roughly(pool, RATE, rng)
        with torch.inference_mode():
            told = dater(torch.from_numpy(joints)[None])[0].numpy()
        before.append(np.abs(shifts).mean())
        after.append(np.abs(told - shifts).mean())
    assert np.mean(after) < 0.7 * np.mean(before)


def test_nothing_after_now_is_looked_at():
    torch.manual_seed(0)
    dates = partial(of_segment, SegmentDater(RATE).eval())
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 0.05, (100, 22, 3)).astype(np.float32)
    start_ns, end_ns, now_ns = 40 * STEP, 60 * STEP, 63 * STEP
    want = refined(dates, joints[:64], (63 * STEP, start_ns, end_ns, now_ns), RATE, 0.24)
    assert refined(dates, joints, (99 * STEP, start_ns, end_ns, now_ns), RATE, 0.24) == want
    other = refined(dates, joints, (99 * STEP, start_ns, end_ns, 99 * STEP), RATE, 0.24)
    assert other != want
    assert abs(want[0] - start_ns) < 2e9
    # A track that began with the gesture has nothing before it, and is dated all the same.
    first = refined(dates, joints, (99 * STEP, 0, 10 * STEP, 99 * STEP), RATE, 0.24)
    assert all(isinstance(at, int) for at in first)


def test_a_burst_that_ran_ahead_dates_half_ticks_alike():
    torch.manual_seed(0)
    dates = partial(of_segment, SegmentDater(RATE).eval())
    joints = np.random.default_rng(0).normal(0, 0.05, (100, 22, 3)).astype(np.float32)
    half = STEP // 2
    ends = (40 * STEP + half, 60 * STEP - half, 64 * STEP)
    dated = {
        refined(dates, joints[: last + 1], (last * STEP, *ends), RATE, 0.24)
        for last in range(64, 72)
    }
    assert len(dated) == 1


def run(options: DecoderOptions, by: tuple[float, float], ticks: int = 20) -> list[Event]:
    """A gesture of tick 20 on, with a dater that always moves the ends by so many ticks."""
    asked = []

    def refine(start_ns: int, end_ns: int, now_ns: int) -> tuple[int, int]:
        asked.append(now_ns)
        return start_ns + int(by[0] * STEP_NS), end_ns + int(by[1] * STEP_NS)

    rows = probs((20, 0, 0.95), (ticks, 1, 0.95), (30, 0, 0.95))
    decoder = Decoder(options, ["CIRCLE", "LEFT", "ONE"], STEP_NS / 1e9, None, "t", refine)
    times = np.arange(len(rows), dtype=np.int64) * STEP_NS
    window = Window("d", "right", "right", "t", 0, int(times[-1]), STEP_NS, 1, b"")
    events = decoder.push(
        Scores(window, times, rows, np.zeros((len(rows), 2), np.float32), rows[:, :0])
    )
    events += decoder.finish(len(rows) * STEP_NS, "end")
    assert asked == [e.decided_ns for e in events if e.kind in ("confirmed", "cancelled")] or (
        not asked and ticks * STEP_NS > options.refine_max_s * 1e9
    )
    return events


def test_the_decoder_confirms_with_the_ends_of_the_dater():
    told = run(PLAIN, (-2, -3))[-1]
    assert told.kind == "confirmed"
    assert (told.onset_ns, told.offset_ns) == (18 * STEP_NS, 37 * STEP_NS)


def test_long_gestures_keep_their_ends():
    told = run(PLAIN, (-2, -3), ticks=60)[-1]
    assert (told.onset_ns, told.offset_ns) == (20 * STEP_NS, 80 * STEP_NS)


def test_the_dater_cannot_date_into_the_future_or_before_the_track():
    told = run(PLAIN, (-40, 40))[-1]
    assert told.onset_ns == 0
    assert told.offset_ns == told.decided_ns
    crossed = run(PLAIN, (30, -30))[-1]
    assert crossed.kind == "cancelled"
    assert crossed.reason == "too short"


def test_a_model_without_a_dater_shifts_nothing():
    torch.manual_seed(1)
    net, verifier = CausalNet(3).eval(), SegmentVerifier(3, RATE).eval()
    joints = torch.randn(1, 30, 22, 3) * 0.05
    assert torch.equal(export(net, verifier).refine(joints), torch.zeros(1, 2))
    dater = SegmentDater(RATE).eval()
    with torch.inference_mode():
        want = dater(joints)
    assert torch.allclose(export(net, verifier, dater).refine(joints), want, atol=1e-6)
    assert want.abs().max() > 0


def test_fingers_are_straightened_and_no_bone_changes():
    joints = sequence("1", 1).joints[:100]
    rng = np.random.default_rng(4)
    out = augment.straightened(joints, rng, 1.0)
    assert np.allclose(bone_lengths(out)[:, 1:], bone_lengths(joints)[:, 1:], atol=1e-5)
    moved = np.abs(out - joints).max((0, 2))
    assert moved[[0, 6, 10, 14, 18]].max() < 1e-5, "neither wrist nor knuckles"
    assert moved[[9, 13, 17, 21]].min() > 1e-3
    assert np.allclose(augment.straightened(joints, rng, 0.0), joints, atol=1e-5)


def test_half_of_the_training_is_far_slower_or_faster():
    rng = np.random.default_rng(0)
    wide = [float(augment.speeds(25, RATE, rng, 1.0).mean()) for _ in range(400)]
    near = [float(augment.speeds(25, RATE, rng, 1.0, 0.0).mean()) for _ in range(400)]
    assert min(wide) < 0.5
    assert max(wide) > 2.0
    assert 0.3 < np.mean([v < 0.7 or v > 1.45 for v in wide]) < 0.5
    assert min(near) > 0.6
    assert max(near) < 1.7


def test_early_labels_get_the_end_of_their_gesture_even_when_it_is_cancelled():
    def event(kind: str, event_id: str, decided: int, offset: int = 0) -> Event:
        return Event(
            id=event_id, kind=kind, label="LEFT", device="d", hand="right", side="right",
            onset_ns=1_000_000_000, decided_ns=decided, confidence=0.9, offset_ns=offset,
        )  # fmt: skip

    events = [
        event("early", "t:1", 1_200_000_000),
        event("confirmed", "t:1", 2_500_000_000, 2_000_000_000),
        event("early", "t:2", 1_300_000_000),
        event("cancelled", "t:2", 1_900_000_000, 1_600_000_000),
    ]
    early = spans(events, "early")
    assert [(s.start, s.end, s.report) for s in early] == [(1.0, 2.0, 1.2), (1.0, 1.6, 1.3)]
    assert [(s.start, s.end, s.report) for s in spans(events)] == [(1.0, 2.0, 2.5)]
