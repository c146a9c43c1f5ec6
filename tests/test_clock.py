"""The clock map: drift, jitter, jumps, repeats. Time is an argument; nothing sleeps."""

from __future__ import annotations

import runpy
import time

import numpy as np
import pytest

import hgr_stream.stream.clock
from hgr_stream.stream.clock import ClockMap, PaceJudge

S = 1_000_000_000
MS = 1_000_000


def feed(device: np.ndarray, host: np.ndarray) -> np.ndarray:
    clock = ClockMap()
    return np.array([clock.map(int(d), int(h)) for d, h in zip(device, host, strict=True)])


def test_transport_jitter_is_taken_out() -> None:
    rng = np.random.default_rng(1)
    device = np.arange(2000) * 10 * MS
    host = device + 500 * S + 2 * MS + (rng.exponential(3, 2000) * MS).astype(int)
    mapped = feed(device, host)
    assert (mapped <= host).all()
    settled = mapped[200:]
    assert np.diff(settled).std() < 0.05 * MS  # host's own spacing has 3 ms
    assert np.diff(host[200:]).std() > 2 * MS


@pytest.mark.parametrize("drift", [-2e-4, 2e-4])
def test_drift_is_followed(drift: float) -> None:
    true = np.arange(60_000) * 10 * MS  # ten minutes
    device = (true * (1 + drift)).astype(int)
    host = true + 77 * S + 3 * MS
    error = feed(device, host) - host
    assert np.abs(error).max() < 3 * MS


@pytest.mark.parametrize("jump_ns", [3600 * S, -3600 * S, -2 * S])
def test_a_jump_of_the_device_clock_does_not_reach_the_stream(jump_ns: int) -> None:
    host = np.arange(400) * 10 * MS + 10_000 * S
    device = host - 9_000 * S
    device[200:] += jump_ns
    clock = ClockMap()
    mapped = np.array([clock.map(int(d), int(h)) for d, h in zip(device, host, strict=True)])
    assert (np.diff(mapped) > 0).all()
    assert np.abs(mapped - host).max() < MS
    assert clock.jumps == 1


def stalled(stall_ns: int, lost: slice = slice(0)) -> tuple[np.ndarray, np.ndarray]:
    """120 Hz for four seconds, of which the transport holds back what was sent after the first,
    and then gives it all at once; ``lost``: what does not arrive."""
    device = np.arange(480) * S // 120
    host = device + 50 * S + 2 * MS
    held = (device >= S) & (device < S + stall_ns)
    host[held] = host[~held & (device > S)][0] - 20_000 * np.arange(held.sum(), 0, -1)
    return np.delete(device, lost), np.delete(host, lost)


@pytest.mark.parametrize("stall_s", [0.3, 0.67, 2.5])
@pytest.mark.parametrize("lost", [slice(0), slice(125, 150)])
def test_a_stall_of_the_transport_keeps_the_devices_spacing(stall_s: float, lost: slice) -> None:
    device, host = stalled(int(stall_s * S), lost)
    clock = ClockMap()
    mapped = np.array([clock.map(int(d), int(h)) for d, h in zip(device, host, strict=True)])
    assert (mapped <= host).all()
    np.testing.assert_array_equal(mapped, device + 50 * S + 2 * MS)
    assert clock.jumps == 0


@pytest.mark.parametrize("slept_s", [0.7, 3, 90])
def test_a_device_whose_clock_slept_is_followed_again_within_a_second(slept_s: float) -> None:
    device = np.arange(400) * 10 * MS
    host = device + 50 * S
    host[200:] += int(slept_s * S)
    clock = ClockMap()
    mapped = np.array([clock.map(int(d), int(h)) for d, h in zip(device, host, strict=True)])
    assert (np.diff(mapped) > 0).all()
    assert (mapped <= host).all()
    np.testing.assert_array_equal(mapped[302:], host[302:])
    assert clock.jumps == 1


def test_a_source_that_plays_slowly_does_not_jump() -> None:
    clock = ClockMap()
    for i in range(6000):
        clock.map(i * 8 * MS, 50 * S + i * 10 * MS)
    assert clock.jumps == 0


def test_repeats_and_small_steps_back_stay_in_order() -> None:
    host = np.arange(100) * 10 * MS + S
    device = np.arange(100) * 10 * MS
    device[50] = device[49]
    device[60] = device[58]
    clock = ClockMap()
    mapped = np.array([clock.map(int(d), int(h)) for d, h in zip(device, host, strict=True)])
    assert (np.diff(mapped) > 0).all()
    assert clock.repeats == 1
    assert clock.jumps == 0


def test_a_silence_is_no_jump() -> None:
    clock = ClockMap()
    clock.map(0, S)
    assert clock.map(30 * S, 31 * S + MS) == pytest.approx(31 * S, abs=2 * MS)
    assert clock.jumps == 0


def test_a_source_without_a_clock_gets_arrival_time() -> None:
    clock = ClockMap()
    assert clock.map(None, 5) == 5
    assert clock.map(None, 5) > 5


def judged(device: np.ndarray, host: np.ndarray, unit_ns: int = 0) -> list[str]:
    """What is told of these samples, each time that it changes; nothing at first."""
    judge, told = PaceJudge(unit_ns), [""]
    for d, h in zip(device.tolist(), host.tolist(), strict=True):
        if (fault := judge.push(d, h)) != told[-1]:
            told.append(fault)
    return told[1:]


HOST = 7_000 * S + np.arange(600) * 1_000 * MS // 60  # ten seconds at 60 Hz
TRUE = HOST - 6_000 * S


@pytest.mark.parametrize(
    ("device", "unit_ns", "fault"),
    [
        (np.full(600, 5), 1, "stands still"),
        (TRUE // S * S, 1, "stands still"),  # for a second, and then jumps
        (-TRUE, 1, "runs backwards"),
        (TRUE // MS, 1, "advances 1,000,000 times too slowly: is it in milliseconds?"),
        (TRUE // 1_000, 1, "advances 1,000 times too slowly: is it in microseconds?"),
        (TRUE // S, 1, "advances 1,000,000,000 times too slowly: is it in seconds?"),
        (TRUE // 1_000, MS, "advances 1,000 times too slowly: is it in seconds?"),
        (TRUE * MS, MS, "advances 1,000,000 times too fast: is it in nanoseconds?"),
        (TRUE // 1_000, 0, "advances 1,000 times too slowly"),
        (TRUE * 1_000, 1, "advances 1,000 times too fast"),
    ],
)
def test_a_clock_that_cannot_be_is_told_of_once_within_a_second(device, unit_ns, fault) -> None:
    assert judged(device[:65], HOST[:65], unit_ns) == [fault]
    assert judged(device, HOST, unit_ns) == [fault]


def test_a_clock_that_is_mended_is_well_again() -> None:
    device = np.where(np.arange(600) < 200, TRUE // MS, TRUE)
    slowly = "advances 1,000,000 times too slowly: is it in milliseconds?"
    assert judged(device, HOST, 1) == [slowly, ""]
    judge = PaceJudge()
    for host in HOST[:100].tolist():
        judge.push(5, host)
    assert judge.push(None, int(HOST[100])) == ""  # a source that bears no time any more


RNG = np.random.default_rng(5)
BURSTS = HOST[(np.arange(600) // 24 * 24 + 23).clip(max=599)] + np.arange(600) * 20_000


@pytest.mark.parametrize(
    ("device", "host"),
    [
        (TRUE, HOST),
        (TRUE, HOST + RNG.exponential(20 * MS, 600).astype(int)),  # jitter, out of step
        (TRUE, BURSTS),  # 24 frames at once, every 0.4 s
        (TRUE // (100 * MS) * (100 * MS), HOST),  # a coarse clock: six frames bear one time
        (TRUE * 50, HOST),  # a recording, fast and slow
        (TRUE // 50, HOST),
        ((TRUE * (1 + 3e-4)).astype(int), HOST),
        (TRUE[::6], HOST[::6]),  # ten a second
        (TRUE[::120], HOST[::120]),  # one in two seconds
        (np.full(15, 5), HOST[::40]),  # too rare to be judged
        (np.where(np.arange(600) < 333, TRUE, TRUE + 3600 * S), HOST),  # set by an hour
        (np.where(np.arange(600) < 333, TRUE, TRUE - 3600 * S), HOST),
        (np.where(np.arange(600) < 333, TRUE, TRUE - TRUE[333]), HOST),  # started anew
        (TRUE, np.where(np.arange(600) < 333, HOST, HOST + 90 * S)),  # the device's clock slept
        (np.where(np.arange(600) < 333, TRUE, TRUE + 90 * S), HOST),  # the host's slept
        (TRUE, np.where((HOST - HOST[0]) // S == 5, HOST[360] + np.arange(600), HOST)),  # a stall
        (TRUE % (2 * S), HOST),  # a loop of two seconds
    ],
)
def test_pauses_bursts_jumps_and_other_speeds_are_no_fault_of_the_clock(device, host) -> None:
    assert judged(device, host, 1) == []


def test_stamps_on_windows_are_fine_enough_for_any_sensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    found = runpy.run_path(
        hgr_stream.stream.clock.__file__, run_name=hgr_stream.stream.clock.__name__
    )
    assert found["monotonic_ns"] is time.perf_counter_ns
