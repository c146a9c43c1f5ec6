"""The replay clock, with time as an argument: nothing here sleeps."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.messages import Frame
from hgr_stream.playback import Player, Speed, exact_speed

MS = 1_000_000
SECOND = 1_000_000_000
NOW = 77 * SECOND  # where the host's clock happens to stand


def frames(*times_ns: int, host_ns: list[int] | None = None) -> list[Frame]:
    hosts = host_ns or [0] * len(times_ns)
    return [
        Frame("d", "b", seq, time_ns, time_ns, host, 0, 0)
        for seq, (time_ns, host) in enumerate(zip(times_ns, hosts, strict=True))
    ]


def steady(n: int, step_ns: int = 10 * MS, start_ns: int = 5 * SECOND) -> list[Frame]:
    return frames(*(start_ns + i * step_ns for i in range(n)))


def seqs(due: list[Frame]) -> list[int]:
    return [frame.seq for frame in due]


def play_times(player: Player, limit: int = 10_000) -> list[int]:
    """Jump from deadline to deadline; when each frame came, in ns after the start."""
    now, out = NOW, []
    while not player.ended and limit:
        limit -= 1
        out += [now - NOW] * len(player.due(now))
        now = max(player.next_deadline_ns() or now, now)
    return out


def test_keeps_the_recordings_own_timing() -> None:
    player = Player(frames(100, 100 + 7 * MS, 100 + 30 * MS))
    assert player.next_deadline_ns() == 0
    assert seqs(player.due(NOW)) == [0]
    assert player.next_deadline_ns() == NOW + 7 * MS
    assert player.due(NOW + 7 * MS - 1) == []
    assert seqs(player.due(NOW + 7 * MS)) == [1]
    assert seqs(player.due(NOW + 31 * MS)) == [2]
    assert player.ended
    assert player.next_deadline_ns() is None
    assert player.due(NOW + SECOND) == []


@pytest.mark.parametrize("speed", [2, 0.5, 0.1, 3, "7/3"])
def test_a_deadline_is_exactly_when_the_frame_becomes_due(speed: Speed) -> None:
    player = Player(steady(50, step_ns=8_333_333), speed)
    player.due(NOW)
    ratio = exact_speed(speed)
    assert ratio is not None
    for i in range(1, 50):
        deadline = player.next_deadline_ns()
        assert deadline is not None
        assert deadline - NOW - 1 < Fraction(i * 8_333_333) / ratio <= deadline - NOW
        assert player.due(deadline - 1) == []
        assert seqs(player.due(deadline)) == [i]


def test_an_odd_rate_loses_no_nanosecond_in_a_day() -> None:
    day = 86_400 * SECOND
    host = [1, 1 + day]
    player = Player(frames(0, day, host_ns=host), 0.1)
    player.due(NOW)
    assert player.next_deadline_ns() == NOW + 10 * day


def test_late_calls_do_not_drift() -> None:
    player = Player(steady(100))
    player.due(NOW)
    assert seqs(player.due(NOW + 55 * MS)) == [1, 2, 3, 4, 5]
    assert player.next_deadline_ns() == NOW + 60 * MS


def test_max_gives_everything_and_a_limit_holds_it_back() -> None:
    player = Player(steady(10), "max")
    assert seqs(player.due(NOW, limit=3)) == [0, 1, 2]
    assert player.next_deadline_ns() == 0
    assert seqs(player.due(NOW)) == [3, 4, 5, 6, 7, 8, 9]
    assert player.ended


@pytest.mark.parametrize("speed", [0, -1, "fast", float("nan"), float("inf"), "1/0", ""])
def test_a_wrong_speed_is_refused_by_name(speed: Speed) -> None:
    with pytest.raises(ValueError, match="is neither a number above 0 nor"):
        Player([], speed)


def test_start_skips_and_begins_there_at_once() -> None:
    player = Player(steady(100), 1, start_s=0.5)
    assert seqs(player.due(NOW)) == [50]
    assert player.next_deadline_ns() == NOW + 10 * MS
    assert player.position_ns == 500 * MS


def test_start_between_frames_keeps_the_time_to_the_next() -> None:
    player = Player(steady(10), 1, start_s=0.0151)
    assert player.due(NOW) == []
    assert player.next_deadline_ns() == NOW + 4_900_000


def test_start_past_the_end_is_the_end() -> None:
    assert Player(steady(10), 1, start_s=60).ended


def test_pause_holds_the_place_and_resume_goes_on_from_it() -> None:
    player = Player(steady(100))
    player.due(NOW)
    player.pause(NOW + 4 * MS)
    assert player.paused
    assert player.next_deadline_ns() is None
    assert player.due(NOW + 10 * SECOND) == []
    player.resume(NOW + 20 * SECOND)
    assert player.next_deadline_ns() == NOW + 20 * SECOND + 6 * MS
    assert seqs(player.due(NOW + 20 * SECOND + 6 * MS)) == [1]


def test_step_gives_one_frame_each_and_resume_follows_on() -> None:
    player = Player(steady(10), 1, step=True)
    assert player.due(NOW) == []
    player.step()
    assert player.next_deadline_ns() == 0
    assert seqs(player.due(NOW)) == [0]
    assert player.due(NOW + SECOND) == []
    player.step(2)
    assert seqs(player.due(NOW + SECOND)) == [1, 2]
    player.resume(NOW + 2 * SECOND)
    assert player.next_deadline_ns() == NOW + 2 * SECOND + 10 * MS


def test_seek_forward_and_back() -> None:
    player = Player(steady(100))
    player.due(NOW)
    player.seek(0.8, NOW + SECOND)
    assert seqs(player.due(NOW + SECOND)) == [80]
    player.seek(0.2, NOW + 2 * SECOND)
    assert seqs(player.due(NOW + 2 * SECOND)) == [20]
    assert player.next_deadline_ns() == NOW + 2 * SECOND + 10 * MS
    player.seek(-3, NOW + 3 * SECOND)
    assert seqs(player.due(NOW + 3 * SECOND)) == [0]
    player.seek(99, NOW + 4 * SECOND)
    assert player.ended
    player.seek(0.5, NOW + 5 * SECOND)
    assert seqs(player.due(NOW + 5 * SECOND)) == [50]


def test_time_that_stands_or_steps_back_a_little_follows_at_once() -> None:
    # Two devices interleave: a little back is order, not a jump, and costs no drift.
    player = Player(frames(0, 20 * MS, 15 * MS, 15 * MS, 40 * MS))
    assert play_times(player) == [0, 20 * MS, 20 * MS, 20 * MS, 40 * MS]


def test_a_clock_set_back_an_hour_goes_on_in_its_own_pace() -> None:
    hour = 3600 * SECOND
    player = Player(frames(hour, hour + 10 * MS, 0, 10 * MS, 20 * MS))
    assert play_times(player) == [0, 10 * MS, 10 * MS, 20 * MS, 30 * MS]


def test_a_jump_of_an_hour_that_the_host_clock_denies_is_not_waited_for() -> None:
    hour = 3600 * SECOND
    times = (0, 10 * MS, hour, hour + 10 * MS, 30 * MS)
    host = [1 + i * 10 * MS for i in range(5)]
    assert play_times(Player(frames(*times, host_ns=host))) == [i * 10 * MS for i in range(5)]


def test_a_pause_that_the_host_clock_bears_out_is_kept() -> None:
    minute = 60 * SECOND
    assert play_times(Player(frames(0, minute, host_ns=[1, minute]))) == [0, minute]
    # Without a host clock (an import) a pause is believed up to ten seconds.
    assert play_times(Player(frames(0, 5 * SECOND, minute))) == [0, 5 * SECOND, 15 * SECOND]


def test_an_end_bears_no_time() -> None:
    given = frames(5 * SECOND, 5 * SECOND + 10 * MS, 0, 5 * SECOND + 20 * MS)
    given[2].end = True
    assert play_times(Player(given)) == [0, 10 * MS, 10 * MS, 20 * MS]


def test_no_frames() -> None:
    player = Player([])
    assert player.ended
    assert player.due(NOW) == []
    assert player.next_ns is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-(2**62), 2**62), max_size=30),
    st.fractions(min_value=Fraction(1, 100), max_value=100),
)
def test_any_stamps_give_every_frame_once_and_in_order(times: list[int], speed: Fraction) -> None:
    player = Player(frames(*times), speed)
    now, out = NOW, []
    while not player.ended:
        out += seqs(player.due(now))
        deadline = player.next_deadline_ns()
        assert player.ended or deadline is not None
        if deadline is not None:
            assert deadline - now <= 10 * SECOND / speed + 1 or len(out) <= 1
            now = max(now, deadline)
    assert out == list(range(len(times)))
