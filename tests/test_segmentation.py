"""The segmentation stage: rates, jitter, gaps, lost hands, and every bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.config import Segmentation
from hgr_stream.messages import Frame, Hand, Window, joint_bytes
from hgr_stream.segmentation import Segmenter, WindowSpec
from hgr_stream.skeleton import Side
from tests.hands import MS, frame, hand_joints

SPEC = WindowSpec(25.0, 1, 1)
STEP = SPEC.step_ns


#: Shorter than the default, so that the timelines below are.
SHORT_GAP = Segmentation(max_gap_s=0.25)


def run(frames: list[Frame], spec: WindowSpec = SPEC, **options: float) -> tuple:
    segmenter = Segmenter(spec, Segmentation(**{"max_gap_s": 0.25, **options}))  # type: ignore[arg-type]
    windows = [w for f in frames for w in segmenter.push(f)]
    return segmenter, windows


def moving(
    n: int, rate_hz: float, *, jitter: float = 0.0, speed: float = 0.1, seed: int = 0
) -> list[Frame]:
    """A hand that moves along x at ``speed`` m/s, sampled with jitter."""
    rng = np.random.default_rng(seed)
    times = (np.arange(n) + rng.uniform(-jitter, jitter, n) / 2) / rate_hz
    times -= times[0]
    return [frame(i, round(t * 1e9), hand_joints(x=float(speed * t))) for i, t in enumerate(times)]


def ticks(windows: list[Window]) -> list[int]:
    return [w.time_ns for w in windows if not w.ended]


@pytest.mark.parametrize("rate_hz", [15.0, 20.0, 30.0, 50.0, 60.0, 110.0, 240.0])
@pytest.mark.parametrize("jitter", [0.0, 0.6])
def test_any_rate_becomes_the_fixed_clock(rate_hz: float, jitter: float) -> None:
    frames = moving(round(4 * rate_hz), rate_hz, jitter=jitter)
    _, windows = run(frames)
    times = ticks(windows)
    assert times == [k * STEP for k in range(len(times))]
    assert times[-1] <= frames[-1].time_ns < times[-1] + STEP
    # Linear motion survives linear interpolation, whatever the jitter.
    x = np.array([w.array()[0, 0, 0] for w in windows])
    np.testing.assert_allclose(x, 0.1 * np.array(times) / 1e9, atol=2e-6)


def test_a_tick_is_given_by_the_first_frame_at_or_after_it() -> None:
    times = [0, 30, 39, 40, 70, 72, 75, 79, 95, 120]
    frames = [frame(i, t * MS, hand_joints()) for i, t in enumerate(times)]
    segmenter = Segmenter(SPEC, SHORT_GAP)
    given = [[w.time_ns // MS for w in segmenter.push(f)] for f in frames]
    # From the eighth frame on it is believed.
    assert given == [[], [], [], [], [], [], [], [0, 40], [80], [120]]


def test_windows_of_size_every_hop() -> None:
    frames = moving(101, 100.0)
    _, windows = run(frames, WindowSpec(50.0, 8, 4))
    step = 20 * MS
    assert [w.time_ns for w in windows] == [(7 + 4 * k) * step for k in range(11)]
    assert [w.seq for w in windows] == list(range(11))
    assert [w.new for w in windows] == [8] + [4] * 10
    assert all(w.array().shape == (8, 22, 3) for w in windows)
    np.testing.assert_array_equal(windows[1].array()[:4], windows[0].array()[4:])


def test_short_gap_is_bridged_and_a_long_one_ends_the_track() -> None:
    times = [*range(0, 281, 40), 480]  # 200 ms without a frame
    _, windows = run([frame(i, t * MS, hand_joints(0.001 * t)) for i, t in enumerate(times)])
    assert [t // MS for t in ticks(windows)] == list(range(0, 481, 40))
    assert len({w.track for w in windows}) == 1
    times = [*range(0, 281, 40), *range(600, 881, 40)]  # 320 ms
    segmenter, windows = run([frame(i, t * MS, hand_joints()) for i, t in enumerate(times)])
    assert [(w.ended, w.time_ns // MS) for w in windows] == [
        *(("", ms) for ms in range(0, 281, 40)),
        ("lost", 280),
        *(("", ms) for ms in range(600, 881, 40)),
    ]
    assert len({w.track for w in windows}) == 2
    assert segmenter.counts["tracks_ended_lost"] == 1


def test_lost_hand_is_told_once_while_frames_go_on() -> None:
    frames = [frame(i, i * 40 * MS, hand_joints() if i < 8 else None) for i in range(20)]
    segmenter, windows = run(frames)
    ended = [w for w in windows if w.ended]
    assert [(w.ended, w.time_ns // MS, w.frame_time_ns // MS) for w in ended] == [
        ("lost", 280, 530)
    ]
    assert segmenter.hands == 0


def test_silence_flushed_gives_the_same_ending_as_a_later_frame() -> None:
    frames = [frame(i, i * 40 * MS, hand_joints(), lossless=False) for i in range(5)]
    by_silence = Segmenter(SPEC, SHORT_GAP)
    for f in frames:
        by_silence.push(f)
    by_frame = Segmenter(SPEC, SHORT_GAP)
    for f in frames:
        by_frame.push(f)
    later = by_frame.push(frame(5, 2000 * MS, None, lossless=False))
    for a, b in zip(by_silence.flush("test"), later, strict=True):
        b.frame_seq = a.frame_seq
        assert a == b


@pytest.mark.parametrize("then", [(7, "right"), (8, "right"), (7, "left")])
def test_who_comes_after_a_silence_is_followed_as_if_it_had_been_flushed(
    then: tuple[int, Side],
) -> None:
    """Sensors send nothing while they see no hand: the next may have its id, or its side."""
    hand_id, side = then
    frames = [frame(i, i * 40 * MS, hand_joints(), lossless=False) for i in range(8)]
    joints = hand_joints(side=side)
    later = [
        frame(i, (1800 + i * 40) * MS, joints, hand_id=hand_id, side=side, lossless=False)
        for i in range(8, 17)
    ]
    told = []
    for flushed in (True, False):
        segmenter = Segmenter(SPEC, SHORT_GAP)
        for f in frames:
            segmenter.push(f)
        windows = segmenter.flush("test") if flushed else []
        windows += [w for f in later for w in segmenter.push(f)]
        told.append([(w.hand, w.side, w.track, w.ended, w.frame_time_ns) for w in windows])
    assert told[0] == told[1]
    assert told[0][1][:2] == (side, side)


def test_a_hand_found_under_another_id_is_the_same_track() -> None:
    frames = [
        frame(
            i, i * 10 * MS, None if 20 <= i < 30 else hand_joints(0.001 * i), hand_id=3 + (i > 25)
        )
        for i in range(60)
    ]
    segmenter, windows = run(frames)
    assert len({w.track for w in windows}) == 1
    assert segmenter.counts["ids_changed"] == 1
    assert not [w for w in windows if w.ended]


def two_hands(
    n: int, ids: tuple[int, int], sides: tuple[Side, Side] = ("right", "left"), apart_m: float = 0.3
) -> list[Frame]:
    """Two hands that rest beside one another, and that every second frame tells in other order."""
    frames = []
    for i in range(n):
        hands = [
            Hand(id_, side, joint_bytes(hand_joints(x, side="left" if side == "left" else "right")))
            for id_, side, x in zip(ids, sides, (apart_m / 2, -apart_m / 2), strict=True)
        ]
        frames.append(frame(i, i * 10 * MS, hands[:: 1 if i % 2 else -1]))
    return frames


def wrists(windows: list[Window]) -> dict[str, set[float]]:
    """Where on the x axis each slot's wrist was."""
    found: dict[str, set[float]] = {}
    for w in windows:
        if not w.ended:
            x = w.array()[:, 0, 0].tolist()
            found.setdefault(w.hand, set()).update(round(value, 2) for value in x)
    return found


@pytest.mark.parametrize("apart_m", [0.3, 0.8])
@pytest.mark.parametrize("sides", [("right", "left"), ("right", "right"), ("unknown", "unknown")])
def test_hands_of_the_same_id_are_followed_by_side_and_place(
    sides: tuple[Side, Side], apart_m: float
) -> None:
    segmenter, windows = run(two_hands(200, (1, 1), sides, apart_m))
    assert segmenter.counts["tracks"] == 2
    assert not [w for w in windows if w.ended]
    assert sorted(wrists(windows).values(), key=min) == [{-apart_m / 2}, {apart_m / 2}]
    assert segmenter.counts["ids_repeated"] == 200
    assert segmenter.counts["ids_changed"] == segmenter.counts["hands_of_changing_side"] == 0
    assert "several hands of one frame have the same id" in segmenter.notices["ids_repeated"]


def test_an_id_that_two_hands_had_tells_nothing_when_one_is_out_of_view() -> None:
    frames = two_hands(200, (1, 1))
    for i in range(20, 200):  # now one is missed, now the other
        frames[i].hands = [h for h in frames[i].hands if h.side == ("right", "left")[i // 3 % 2]]
    segmenter, windows = run(frames)
    assert segmenter.counts["tracks"] == 2
    assert wrists(windows) == {"right": {0.15}, "left": {-0.15}}
    assert segmenter.counts["ids_repeated"] == 20


def test_one_hands_own_id_is_good_beside_hands_that_share_theirs() -> None:
    frames = two_hands(200, (1, 1))
    for i, f in enumerate(frames):  # the third jumps for a moment: its id holds it
        x = 2.5 if i in (50, 51) else 0.6
        f.hands.append(Hand(7, "right", joint_bytes(hand_joints(x))))
    segmenter, windows = run(frames)
    assert segmenter.counts["tracks"] == 3
    assert segmenter.counts["hands_jumped"] == 2
    assert {min(x) for x in wrists(windows).values()} == {0.15, -0.15, 0.6}


def test_of_hands_with_new_ids_the_nearest_keep_their_tracks() -> None:
    """Also where the one that is told first is farther from both."""
    frames = [frame(i, i * 10 * MS, hand_joints(0.1)) for i in range(20)]
    for i in range(20, 40):
        hands = [Hand(9, "right", joint_bytes(hand_joints(-0.1)))]
        hands += [Hand(8, "right", joint_bytes(hand_joints(0.1)))]
        frames.append(frame(i, i * 10 * MS, hands))
    segmenter, windows = run(frames)
    assert wrists(windows) == {"right": {0.1}, "right.2": {-0.1}}
    assert segmenter.counts["ids_changed"] == 1


@pytest.mark.parametrize(("x", "missed"), [(0.15, 0), (0.0, 1)])
def test_the_other_hand_is_not_readopted(x: float, missed: int) -> None:
    frames = [frame(i, i * 10 * MS, hand_joints(), hand_id=1) for i in range(10)]
    frames += [frame(10, 100 * MS, None)] * missed
    frames += [
        frame(i, i * 10 * MS, hand_joints(x, side="left"), hand_id=2, side="left")
        for i in range(10 + missed, 60)
    ]
    _, windows = run(frames)
    assert {w.hand for w in windows} == {"right", "left"}
    assert [w.ended for w in windows if w.hand == "right" and w.ended] == ["lost"]


@pytest.mark.parametrize("by_side", [False, True])
@pytest.mark.parametrize("first", [0, 20])
def test_a_hand_whose_side_flickers_keeps_its_track_and_the_side_of_most_frames(
    first: int, by_side: bool
) -> None:
    frames = moving(400, 100.0)
    wrong = [f for i, f in enumerate(frames) if (i - first) % 40 < 3]
    for f in wrong:
        f.hands[0].side = "left"
        f.hands[0].id += by_side
    segmenter, windows = run(frames)
    right = [w for w in windows if w.hand == "right"]
    assert len({w.track for w in right}) == 1
    assert {w.side for w in right} == {"right"}
    assert ticks(right)[-1] == ticks(windows)[-1]
    lead_ms = 70 if first == 0 else 0  # called left at first, until most frames say otherwise
    assert ticks(right)[0] >= lead_ms * MS
    assert right == windows  # too short a while to be told of
    assert segmenter.counts["tracks_ended_side"] == (first == 0)
    assert segmenter.counts["hands_of_changing_side"] == len(wrong) + (1 if first == 0 else 0)
    assert "now left, now right" in segmenter.notices["hands_of_changing_side"]


def test_a_hand_that_is_called_the_other_one_for_good_becomes_it() -> None:
    frames = moving(300, 100.0)
    for f in frames[150:]:
        f.hands[0].side = "left"
    _, windows = run(frames)
    assert [(w.hand, w.ended) for w in windows if w.ended] == [("right", "side")]
    assert ticks([w for w in windows if w.hand == "left"])[0] == 2000 * MS


def test_many_hands_have_their_own_slots() -> None:
    hands = [Hand(i, "right", joint_bytes(hand_joints(x=0.3 * i))) for i in range(5)]
    _, windows = run([frame(i, i * 40 * MS, hands) for i in range(9)])
    assert {w.hand for w in windows} == {"right", "right.2", "right.3", "right.4", "right.5"}
    for w in windows:
        k = int(w.hand.partition(".")[2] or 1) - 1
        assert w.array()[0, 0, 0] == pytest.approx(0.3 * k, abs=1e-6)


# -- what is no hand, or only seldom seen -----------------------------------------------------


def seen_in(shown: np.ndarray, period_ms: int, beside: bool) -> list[Frame]:
    """A hand in those frames, (n,), true or false, at rest; beside it one that is in all of them,
    half a metre away, or none."""
    other = [Hand(3, "right", joint_bytes(hand_joints(x=-0.5)))] if beside else []
    hand = [Hand(9, "left", joint_bytes(hand_joints(side="left")))]
    return [
        frame(i, i * period_ms * MS, [*other, *(hand if here else [])])
        for i, here in enumerate(shown)
    ]


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("period_ms", [8, 16, 66])
@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_what_shows_up_in_single_frames_is_no_hand(
    share: float, period_ms: int, beside: bool
) -> None:
    shown = np.random.default_rng(1).random(3000) < share
    segmenter, windows = run(seen_in(shown, period_ms, beside), max_gap_s=0.6)
    told = [w for w in windows if w.hand == "left" and not w.ended]
    assert len(told) < 0.02 * 3000 * period_ms / 40
    assert segmenter.counts["tracks"] > 10
    ended = segmenter.counts["tracks_ended_fleeting"] + segmenter.counts["tracks_ended_lost"]
    assert ended >= segmenter.counts["tracks"] - 1 - beside
    if beside:  # which misses nothing
        right = [w.time_ns for w in windows if w.hand == "right"]
        assert right == list(range(0, (2999 * period_ms // 40) * 40 * MS + 1, 40 * MS))


@pytest.mark.parametrize("period_ms", [4, 16, 66, 200])
@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_a_hand_that_is_lost_in_many_single_frames_is_one(share: float, period_ms: int) -> None:
    shown = np.random.default_rng(2).random(1000) < share
    shown[:8] = shown[-8:] = True
    segmenter, windows = run(seen_in(shown, period_ms, True), max_gap_s=5)
    times = [w.time_ns for w in windows if w.hand == "left"]
    assert times == list(range(0, 999 * period_ms * MS + 1, 40 * MS))
    assert segmenter.counts["tracks"] == 2


def test_windows_that_were_held_come_with_the_frame_that_showed_the_hand() -> None:
    frames = [frame(i, i * 20 * MS, hand_joints(), sent_ns=i + 100) for i in range(10)]
    segmenter = Segmenter(SPEC, SHORT_GAP)
    given = [
        [(w.time_ns // MS, w.frame_seq, w.frame_time_ns // MS, w.frame_sent_ns) for w in out]
        for out in map(segmenter.push, frames)
    ]
    held = [(ms, 7, 140, 107) for ms in (0, 40, 80, 120)]
    assert given == [*[[]] * 7, held, [(160, 8, 160, 108)], []]


def test_a_hand_in_doubt_ends_with_the_last_window_that_was_told() -> None:
    """Lost for 22 frames, seen in one, and then never again: of that one nobody hears."""
    shown = np.zeros(80, dtype=bool)
    shown[:20] = shown[42] = True
    segmenter, windows = run(seen_in(shown, 10, False), max_gap_s=0.25)
    assert [(w.ended, w.time_ns // MS) for w in windows[-2:]] == [("", 160), ("lost", 160)]
    assert [w.seq for w in windows] == [0, 1, 2, 3, 4, 5]
    assert segmenter.counts["windows_doubted"] == 6


def test_trackers_that_take_turns_are_all_believed() -> None:
    """Gloves under one name: each frame holds one hand, one in eight of them this one."""
    hands = [Hand(i, "right", joint_bytes(hand_joints(x=0.7 * i))) for i in range(8)]
    _, windows = run([frame(i, i * 2 * MS, [hands[i % 8]]) for i in range(400)])
    told = {slot: sum(w.hand == slot for w in windows) for slot in {w.hand for w in windows}}
    assert len(told) == 8
    assert set(told.values()) <= {19, 20}


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        (lambda j: np.full_like(j, np.nan), "hands_not_finite"),
        (lambda j: np.where(np.arange(22)[:, None] == 9, np.inf, j), "hands_not_finite"),
        (lambda j: j + 15.0, "hands_absurd"),
        (lambda j: j * 1000.0, "hands_absurd"),
        (lambda j: j * 1e-3, "hands_absurd"),
        (lambda j: j + 2.0, "hands_jumped"),
    ],
)
def test_an_impossible_hand_costs_only_itself(spoil, count: str) -> None:
    good = Hand(1, "left", joint_bytes(hand_joints(-0.3, side="left")))
    frames = []
    for i in range(50):
        joints = hand_joints()
        if i in (20, 21):
            joints = spoil(joints).astype(np.float32)
        frames.append(frame(i, i * 10 * MS, [Hand(2, "right", joint_bytes(joints)), good]))
    segmenter, windows = run(frames)
    assert segmenter.counts[count] == 2
    for slot in ("right", "left"):  # both hands have every tick, on one track
        mine = [w for w in windows if w.hand == slot]
        assert [w.time_ns // MS for w in mine] == list(range(0, 481, 40))
        assert len({w.track for w in mine}) == 1
        assert np.isfinite([w.array() for w in mine]).all()
    if count != "hands_jumped":
        assert len(segmenter.notices) == 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda j: j * 1000.0, "in millimetres?"),
        (lambda j: j * 100.0, "in centimetres?"),
        (lambda j: j * 0.001, "in metres?"),
        (lambda j: j + np.eye(22, 3, -10) * 90.0, "over 10 m away"),  # one joint astray
        (lambda j: j + 15.0, "over 10 m away"),
        (lambda j: j * 1e30, "over 10 m away"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_absurd_hand_is_told_with_its_likely_cause(spoil, told: str) -> None:
    joints = spoil(hand_joints()).astype(np.float32)
    segmenter, _ = run([frame(i, i * 10 * MS, joints) for i in range(20)])
    assert segmenter.counts["hands_absurd"] == 20
    assert segmenter.notices["hands_absurd"].endswith(told)


def test_a_hand_that_stays_where_it_jumped_starts_anew() -> None:
    frames = [frame(i, i * 10 * MS, hand_joints(0.0 if i < 20 else 1.5)) for i in range(100)]
    segmenter, windows = run(frames)
    assert len({w.track for w in windows}) == 2
    assert [w.ended for w in windows if w.ended] == ["lost"]
    assert segmenter.counts["hands_jumped"] == 25  # 250 ms of it, then it is believed


def test_time_that_stands_still_or_runs_back_a_little_is_refused() -> None:
    times = [0, 40, 40, 30, *range(80, 281, 40)]
    segmenter, windows = run([frame(i, t * MS, hand_joints()) for i, t in enumerate(times)])
    assert segmenter.counts["time_backwards"] == 2
    assert [t // MS for t in ticks(windows)] == list(range(0, 281, 40))


def test_time_that_jumps_an_hour_forward_or_back_starts_anew() -> None:
    hour = 3600 * 1000
    for jump, reason in ((hour, "lost"), (-hour, "clock")):
        times = [hour + 40 * i + (jump if i >= 8 else 0) for i in range(16)]
        segmenter, windows = run([frame(i, t * MS, hand_joints()) for i, t in enumerate(times)])
        assert [w.ended for w in windows if w.ended] == [reason]
        assert [t // MS for t in ticks(windows)] == times
        assert segmenter.counts["clock_resets"] == (reason == "clock")


def test_duplicates_and_losses_are_counted() -> None:
    seqs = [0, 1, 1, 2, 5, 4, 6]
    segmenter, _ = run([frame(s, i * 10 * MS, hand_joints()) for i, s in enumerate(seqs)])
    assert segmenter.counts["duplicates"] == 2
    assert segmenter.counts["lost"] == 2
    assert segmenter.counts["frames"] == 5


def test_a_publisher_that_starts_again_and_one_that_will_not_go() -> None:
    segmenter = Segmenter(SPEC, SHORT_GAP)
    for i in range(8):
        segmenter.push(frame(i, i * 40 * MS, hand_joints(), boot_id="a"))
    [ended] = segmenter.push(frame(0, 320 * MS, hand_joints(), boot_id="b"))
    assert ended.ended == "restart"
    later = [frame(i, (320 + i * 40) * MS, hand_joints(), boot_id="b") for i in range(1, 8)]
    assert [w.ended for f in later for w in segmenter.push(f)] == [""] * 8
    assert segmenter.push(frame(8, 640 * MS, hand_joints(), boot_id="a")) == []
    assert segmenter.counts["conflicting"] == 1
    assert "two publishers" in segmenter.notices["conflicting"]


def test_publishers_without_end_are_not_all_remembered() -> None:
    segmenter = Segmenter(SPEC, SHORT_GAP)
    for i in range(500):  # a recording of several starts that is replayed in a loop
        segmenter.push(frame(0, i * 40 * MS, hand_joints(), boot_id=f"boot.{i}"))
    assert segmenter.counts["restarts"] == 499
    [device] = segmenter._devices.values()
    assert len(device.retired) <= 100
    assert "boot.498" in device.retired


def test_stale_live_frames_are_refused_and_replayed_ones_never() -> None:
    late_ns = 2_000_000_000
    live = Segmenter(SPEC, SHORT_GAP)
    for i in range(4):
        assert live.push(frame(i, i, hand_joints(), lossless=False), late_ns) == []
    assert live.counts["stale"] == 4
    assert live.hands == 0
    live.push(frame(4, 40 * MS, hand_joints(), lossless=False, sent_ns=late_ns), late_ns)
    assert live.hands == 1
    assert live.counts["lost"] == 0
    replayed = Segmenter(SPEC, SHORT_GAP)
    replayed.push(frame(0, 0, hand_joints()), late_ns)
    assert replayed.hands == 1


def test_a_mirrored_device_is_told() -> None:
    segmenter, _ = run(
        [frame(i, i * 40 * MS, hand_joints(side="left"), side="right") for i in range(60)]
    )
    assert segmenter.counts["chirality"] == 1
    assert "mirrored" in segmenter.notices["chirality"]


def test_more_hands_than_allowed() -> None:
    hands = [Hand(i, "right", joint_bytes(hand_joints(x=0.3 * i))) for i in range(5)]
    segmenter, windows = run([frame(i, i * 40 * MS, hands) for i in range(8)], max_hands=3)
    assert len(windows) == 3 * 8
    assert segmenter.counts["hands_too_many"] == 2 * 8


def test_the_last_message_ends_every_track() -> None:
    segmenter = Segmenter(SPEC, SHORT_GAP)
    for i in range(8):
        segmenter.push(frame(i, i * 40 * MS, hand_joints()))
    last = frame(8, 320 * MS, None)
    last.end = True
    assert [w.ended for w in segmenter.push(last)] == ["end"]
    assert segmenter.finish() == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-2, 6),  # step of the sequence number
            st.integers(-400, 400),  # step of time, ms
            st.sampled_from(["hand", "none", "nan", "far", "other-id", "left"]),
        ),
        max_size=60,
    )
)
def test_no_timeline_breaks_the_invariants(steps: list[tuple[int, int, str]]) -> None:
    """Whatever comes: windows of one track are numbered, evenly spaced, finite, and end once."""
    segmenter = Segmenter(SPEC, SHORT_GAP)
    seq, time_ms = 0, 1000
    windows: list[Window] = []
    for seq_step, time_step, what in steps:
        seq, time_ms = max(0, seq + seq_step), max(0, time_ms + time_step)
        joints = {
            "none": None,
            "nan": np.full((22, 3), np.nan, np.float32),
            "far": hand_joints(12.0),
        }.get(what, hand_joints(side="left" if what == "left" else "right"))
        windows += segmenter.push(
            frame(
                seq,
                time_ms * MS,
                joints,
                hand_id=9 if what == "other-id" else 7,
                side="left" if what == "left" else "right",
            )
        )
    windows += segmenter.finish()
    tracks: dict[str, list[Window]] = {}
    for w in windows:
        tracks.setdefault(w.track, []).append(w)
    for mine in tracks.values():
        assert [bool(w.ended) for w in mine] == [False] * (len(mine) - 1) + [True]
        assert [w.seq for w in mine] == list(range(len(mine)))
        times = [w.time_ns for w in mine[:-1]]
        assert times == [times[0] + k * STEP for k in range(len(times))] if times else True
        assert all(np.isfinite(w.array()).all() for w in mine[:-1])
