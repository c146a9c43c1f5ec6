"""LSL: real hands through liblsl's own outlets and inlets, on this machine."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hgr_drivers.network.lsl import (
    Description,
    LslDecoder,
    LslDriver,
    LslOptions,
    channel_labels,
    described,
    stream_info,
)
from hgr_drivers.network.packets import PacketError
from hypothesis import given
from hypothesis import strategies as st

from hgr_stream.skeleton import WRIST
from tests.daemon_process import wait_until
from tests.hands import hand_joints
from tests.network_hands import (
    assert_natural,
    assert_same_hands,
    clapping,
    complaint,
    opened,
    refusal_to_open,
)
from tools.senders import from_canonical

pylsl = pytest.importorskip("pylsl", reason="needs pylsl with liblsl")
ROOT = Path(__file__).resolve().parent.parent
HAND = hand_joints()
NUMBERS = itertools.count()


def name() -> str:
    """No other test's stream, nor another run's."""
    return f"hgr-test-{os.getpid()}-{next(NUMBERS)}"


def options(stream: str, **more: Any) -> LslOptions:
    return LslOptions(stream=stream, resolve_s=more.pop("resolve_s", 1.5), **more)


def until_heard(outlets: list[Any], driver: LslDriver) -> None:
    for outlet in outlets:
        assert outlet.wait_for_consumers(5)
    # What was sent before the inlet was there is not kept: begin with an empty one.
    while driver.read(0.05) is not None:
        pass


def collect(driver: LslDriver, count: int) -> list[Any]:
    samples: list[Any] = []
    deadline_s = time.monotonic() + 10
    while len(samples) < count and time.monotonic() < deadline_s:
        if (sample := driver.read(0.1)) is not None:
            samples.append(sample)
    return samples


def test_real_hands_arrive(shared_data: Path) -> None:
    """Two streams, one a hand, in the format of our own bridge."""
    truth = clapping(shared_data)[::4]
    stream = name()
    outlets = {
        side: pylsl.StreamOutlet(stream_info(stream, side, f"{stream}-{side}", 120))
        for side in ("left", "right")
    }
    with opened(LslDriver(options(stream))) as driver:
        until_heard(list(outlets.values()), driver)
        stamp_s = pylsl.local_clock()
        samples = []
        for i, hands in enumerate(truth):
            for side, outlet in outlets.items():
                outlet.push_sample(hands[side].ravel().tolist(), stamp_s + i / 120)
            samples += collect(driver, 2)
        assert driver.counts() == {}
    got = {side: [s for s in samples if s.hands[0].side == side] for side in ("left", "right")}
    for side, mine in got.items():
        assert_same_hands(mine, [{side: hands[side]} for hands in truth])
        assert {s.hands[0].id for s in mine} == {1 if side == "left" else 2}
        times_ns = [s.device_ns for s in mine]
        np.testing.assert_allclose(np.diff(times_ns), 1e9 / 120, atol=2e6)


def test_streams_of_other_layouts() -> None:
    info = pylsl.StreamInfo(name(), "Hand", 63, 0, pylsl.cf_float32, "a")
    description = described(info)
    assert description == Description(63)
    points = from_canonical(HAND, "unity", 0.001)[[0, *range(2, 22)]]
    decoder = LslDecoder(description, side="right", axes="unity", unit="mm")
    hand = decoder.push(points.ravel().tolist(), 1.0).hands[0]
    np.testing.assert_allclose(hand.joints, HAND, atol=1e-6)
    # OpenXR: palm and wrist first, metacarpals between.
    openxr = np.zeros((26, 3), dtype=np.float32)
    openxr[[1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 19, 20, 22, 23, 24, 25]] = HAND[
        [0, *range(2, 22)]
    ]
    hand = LslDecoder(Description(78, side="left")).push(openxr.ravel().tolist(), 0.0).hands[0]
    np.testing.assert_allclose(hand.joints, HAND, atol=1e-6)
    assert hand.side == "left"


def test_labels_may_come_in_any_order() -> None:
    labels = channel_labels()
    order = np.random.default_rng(1).permutation(66)
    decoder = LslDecoder(Description(66, tuple(labels[i] for i in order), "centimeters"))
    values = (100 * HAND.ravel())[order]
    np.testing.assert_allclose(decoder.push(values.tolist(), 0.0).hands[0].joints, HAND, atol=1e-6)


def test_heading_of_a_canonical_stream() -> None:
    joints = (
        LslDecoder(Description(66), heading_deg=90).push(HAND.ravel().tolist(), 0).hands[0].joints
    )
    x, y, z = HAND.T
    np.testing.assert_allclose(joints, np.stack([z, y, -x], axis=-1), atol=1e-6)


def test_hand_that_is_not_seen() -> None:
    decoder = LslDecoder(Description(66))
    assert not decoder.push([float("nan")] * 66, 1.0).hands
    assert not decoder.push([0.0] * 66, 1.0).hands
    assert not decoder.push([1e30] * 66, 1.0).hands
    half = HAND.copy()
    half[WRIST] = np.nan
    assert not decoder.push(half.ravel().tolist(), 1.0).hands
    assert decoder.counts == {"not_seen": 1, "hand_implausible": 2, "hand_empty": 1}


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (Description(8), "bad_layout"),
        (Description(66, layout="mediapipe21"), "bad_layout"),
        (Description(66, side="up"), "bad_side"),
        (Description(66, axes="sideways"), "bad_axes"),
        (Description(66, unit="furlong"), "bad_unit"),
    ],
)
def test_streams_that_do_not_fit(description: Description, reason: str) -> None:
    with pytest.raises(PacketError) as caught:
        LslDecoder(description)
    assert caught.value.reason == reason
    assert caught.value.cure


def test_stream_of_something_else_is_told() -> None:
    stream = name()
    outlet = pylsl.StreamOutlet(pylsl.StreamInfo(stream, "EEG", 8, 100, pylsl.cf_float32, "x"))
    error = refusal_to_open(LslDriver(options(stream)), "no LSL stream of use: 8 channels")
    assert "66, 63 or 78" in error.cure
    del outlet


def test_absent_stream_and_one_that_goes_and_comes_back() -> None:
    stream = name()
    driver = LslDriver(options(stream, resolve_s=0.3))
    error = refusal_to_open(driver, f"no LSL stream named '{stream}'")
    assert "start the program" in error.cure
    for _ in range(2):
        outlet = pylsl.StreamOutlet(stream_info(stream, "right", stream))
        driver.options.resolve_s = 2.0
        with opened(driver):
            until_heard([outlet], driver)
            outlet.push_sample(HAND.ravel().tolist())
            [sample] = collect(driver, 1)
            np.testing.assert_allclose(sample.hands[0].joints, HAND)
            del outlet
            error = complaint(driver, "lost the LSL stream")
            assert not error.fatal


def test_second_glove_that_is_switched_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.lsl.LOOK_S", 0.1)
    stream = name()
    first = pylsl.StreamOutlet(stream_info(stream, "right", f"{stream}-1"))
    with opened(LslDriver(options(stream))) as driver:
        until_heard([first], driver)
        second = pylsl.StreamOutlet(stream_info(stream, "left", f"{stream}-2"))
        sides: set[str] = set()
        deadline_s = time.monotonic() + 15
        while sides != {"left", "right"} and time.monotonic() < deadline_s:
            for outlet in (first, second):
                outlet.push_sample(HAND.ravel().tolist())
            sides |= {hand.side for s in collect(driver, 1) for hand in s.hands}
        assert sides == {"left", "right"}


_SENDING_ON = """
import sys, time
from hgr_drivers.network.lsl import stream_info
import pylsl
from tests.hands import hand_joints
outlet = pylsl.StreamOutlet(stream_info(sys.argv[1], "left", sys.argv[1] + "-2"))
while True:
    outlet.push_sample(hand_joints().ravel().tolist())
    time.sleep(0.02)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be held here")
def test_a_stream_that_does_not_answer_once_is_asked_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lsl = "hgr_drivers.network.lsl"
    monkeypatch.setattr(f"{lsl}.LOOK_S", 60.0)
    stream = name()
    first = pylsl.StreamOutlet(stream_info(stream, "right", f"{stream}-1"))
    with opened(LslDriver(options(stream))) as driver:
        until_heard([first], driver)
        second = subprocess.Popen([sys.executable, "-c", _SENDING_ON, stream], cwd=ROOT)
        try:
            wait_until(lambda: len(driver._resolver.results()) == 2, 15, "the second stream")
            second.send_signal(signal.SIGSTOP)
            monkeypatch.setattr(f"{lsl}.LOOK_S", 0.01)
            monkeypatch.setattr(f"{lsl}.RETRY_S", 1.0)
            driver._look_s = 0.0
            driver.read(0)
            assert driver.counts() == {"refused_gone": 1}
            began_s = time.monotonic()
            while time.monotonic() < began_s + 0.5:  # nobody waits for it meanwhile
                first.push_sample(HAND.ravel().tolist())
                assert len(collect(driver, 1)) == 1
            assert driver.counts() == {"refused_gone": 1}
            second.send_signal(signal.SIGCONT)
            wait_until(lambda: bool(driver.read(0.05)), 15, "a frame of the second stream")
        finally:
            second.kill()
            second.wait()


def test_found_streams_name_what_to_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = name()
    outlet = pylsl.StreamOutlet(stream_info(stream, "left", f"{stream}-id", 120))
    found = {f.options["stream"]: f for f in LslDriver.find()}
    assert found[stream].id == f"{stream}-id"
    assert "66 channels, 120 Hz" in found[stream].description
    del outlet
    monkeypatch.setitem(sys.modules, "pylsl", None)
    assert LslDriver.find() == []
    error = refusal_to_open(LslDriver(options(stream)), "needs the package pylsl")
    assert error.fatal
    assert error.cure == 'pip install "hgr-stream[lsl]"'


@given(
    st.sampled_from([66, 63, 78]),
    st.lists(st.floats(width=32), min_size=3, max_size=9),
    st.floats(),
)
def test_any_sample_is_told(n: int, values: list[float], time_s: float) -> None:
    sample = LslDecoder(Description(n)).push((values * 30)[:n], time_s)
    for hand in sample.hands:
        assert np.isfinite(hand.joints).all()


def test_real_hands_stay_natural(shared_data: Path) -> None:
    decoder = LslDecoder(Description(66, side="left"))
    stretch = [
        decoder.push(hands["left"].ravel().tolist(), 0.0).hands[0].joints
        for hands in clapping(shared_data)
    ]
    assert_natural({"left": np.array(stretch)})
