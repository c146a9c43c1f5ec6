"""The supervisor's judgement, with time as an argument."""

from __future__ import annotations

from hgr_stream.config import Supervisor
from hgr_stream.daemon.keeper import Keeper, Watch
from hgr_stream.daemon.processes import EXIT_FATAL

OPTIONS = Supervisor(
    heartbeat_timeout_s=5, start_timeout_s=20, backoff_s=0.5, backoff_max_s=3, max_restarts=4,
    window_s=100,
)  # fmt: skip


def test_a_life_without_trouble() -> None:
    keeper = Keeper(OPTIONS)
    assert keeper.due(0) == "start"
    keeper.started(0)
    assert keeper.due(19) is None
    keeper.beat(3, ready=False)
    assert keeper.state == "starting"
    keeper.beat(4, ready=True)
    assert keeper.state == "up"
    assert keeper.due(8.9) is None


def test_a_device_that_is_opened_again_may_take_as_long_as_at_first() -> None:
    keeper = Keeper(OPTIONS)
    keeper.started(0)
    keeper.beat(1, ready=True)
    keeper.beat(3, ready=False)
    assert (keeper.state, keeper.due(22)) == ("starting", None)
    keeper.beat(22, ready=False)  # beating alone is not getting on
    assert keeper.due(23.1) == "kill"


def test_silence_is_killed_and_started_again_later_each_time() -> None:
    keeper = Keeper(OPTIONS)
    now, delays = 0.0, []
    for _ in range(4):
        assert keeper.due(now) == "start"
        keeper.started(now)
        keeper.beat(now + 1, ready=True)
        assert keeper.due(now + 6.1) == "kill"
        assert "silent" in keeper.reason
        now += 6.2
        keeper.exited(now, -9)
        delays.append(keeper.start_at_s - now)
        assert keeper.due(now + 0.99 * delays[-1]) is None
        now = keeper.start_at_s
    assert [round(d, 3) for d in delays] == [0.5, 1.0, 2.0, 3.0]
    assert keeper.restarts == 4


def test_too_many_falls_within_the_window_are_given_up() -> None:
    keeper = Keeper(OPTIONS)
    for i in range(4):
        keeper.started(i)
        keeper.exited(i + 0.5, 1)
        assert keeper.state == "waiting"
        keeper.reason = ""
    keeper.started(5)
    keeper.exited(6, 1)
    assert keeper.state == "gave-up"
    assert "5 times" in keeper.reason
    assert keeper.due(605.9) is None


def test_one_that_was_given_up_for_its_falls_is_tried_once_more_now_and_then() -> None:
    keeper = Keeper(OPTIONS)
    now_s = 0.0
    for _ in range(5):
        keeper.started(now_s)
        keeper.exited(now_s, 1)
    for times in range(3):
        now_s += 600
        assert keeper.due(now_s - 0.1) is None
        assert keeper.due(now_s) == "start"
        keeper.started(now_s)
        assert (keeper.state, keeper.restarts) == ("starting", 5 + times)
        keeper.reason = ""
        keeper.beat(now_s + 1, ready=True)
        now_s += 99  # within the window: no better than it was
        keeper.exited(now_s, 1)
        assert keeper.state == "gave-up"
        assert keeper.reason == "exit code 1; tried once more every 600 s"
    now_s = keeper.start_at_s
    keeper.started(now_s)
    keeper.exited(now_s + 100, 1)  # it lasted: as any other again
    assert keeper.state == "waiting"


def test_falls_are_forgotten_after_the_window() -> None:
    keeper = Keeper(OPTIONS)
    for i in range(20):
        keeper.started(i * 101.0)
        keeper.exited(i * 101.0 + 1, 1)
        assert keeper.state == "waiting"


def test_thousands_of_falls_are_waited_for_no_longer_than_the_limit() -> None:
    keeper = Keeper(Supervisor(max_restarts=100_000, window_s=1e9, backoff_max_s=3))
    now_s = 0.0
    for _ in range(3000):
        keeper.started(now_s)
        keeper.exited(now_s, 1)
        assert keeper.start_at_s - now_s <= 3
        now_s = keeper.start_at_s
    assert (keeper.restarts, keeper.state) == (3000, "waiting")


def test_a_start_that_takes_too_long() -> None:
    keeper = Keeper(OPTIONS)
    keeper.started(0)
    keeper.beat(10, ready=False)
    assert keeper.due(20.1) == "kill"


def test_fatal_and_wanted_ends() -> None:
    keeper = Keeper(OPTIONS)
    keeper.started(0)
    keeper.exited(1, EXIT_FATAL)
    assert keeper.state == "gave-up"
    assert keeper.due(1e9) is None
    source = Keeper(OPTIONS, may_end=True)
    source.started(0)
    source.exited(1, 0)
    assert source.state == "ended"
    stage = Keeper(OPTIONS)
    stage.started(0)
    stage.exited(1, 0)
    assert stage.state == "waiting"


def test_a_machine_that_slept_finds_nobody_silent() -> None:
    clock, keeper = Watch(0.0), Keeper(OPTIONS)
    keeper.started(clock.at(0.1))
    keeper.beat(clock.at(0.2), ready=True)
    assert keeper.due(clock.at(3600.0)) is None
    looks = [3600.0 + i / 10 for i in range(100)]
    assert [keeper.due(clock.at(s)) for s in looks].index("kill") == 41  # 1 s went into the sleep
