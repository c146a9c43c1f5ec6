"""``hgr hz``: what a topic's rate is. Time is an argument."""

from __future__ import annotations

import pytest

from hgr_stream.cli.stream import Meter
from hgr_stream.client import Received

ONE = Received("gesture/leap/right/LEFT", b"...", 0)


def meter(*arrivals_s: float) -> Meter:
    made = Meter(window_s=5.0, began_s=100.0)
    for at_s in arrivals_s:
        made.take(100.0 + at_s, ONE, None)
    return made


def rate_hz(made: Meter, now_s: float) -> float:
    return made.row(100.0 + now_s)["rate_hz"]


def test_a_burst_is_counted_over_the_window() -> None:
    burst = meter(8.0, 8.0 + 80e-6)
    assert rate_hz(burst, 8.1) == pytest.approx(0.4)
    assert rate_hz(burst, 12.0) == pytest.approx(0.4)
    assert rate_hz(burst, 14.0) == 0.0


def test_before_a_window_has_passed_it_is_counted_over_the_time_measured() -> None:
    assert rate_hz(meter(0.5, 0.5001), 2.0) == pytest.approx(1.0)
    assert rate_hz(meter(1.0), 2.0) == pytest.approx(0.5)
    assert rate_hz(meter(0.0), 0.0) == 0.0


def test_an_even_topic_has_its_own_rate_however_short_the_measurement() -> None:
    """Half a second passes before the subscription has reached the gateway."""
    even = meter(*(0.5 + k / 60 for k in range(60)))
    assert rate_hz(even, 1.5) == pytest.approx(60.0, abs=0.01)
    long = meter(*(k / 60 for k in range(1200)))
    assert rate_hz(long, 20.0) == pytest.approx(60.0, abs=0.01)
