"""The clock map: drift, jitter, jumps, repeats. Time is an argument; nothing sleeps."""

from __future__ import annotations

import numpy as np
import pytest

from hgr_stream.stream.clock import ClockMap

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
