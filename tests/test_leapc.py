"""Ultraleap's service through LeapC: a stand-in shared library, built here from our own header,
called through the same calls as the vendor's binding makes, fed with real recorded hands."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.leap import HMD_AXES
from hgr_drivers.leapc import BACKLOG, LeapCDriver, LeapCOptions

from hgr_stream.datasets.leapjs import load_leapjs
from hgr_stream.skeleton import bone_lengths, chirality
from tests.network_hands import collect

HERE = Path(__file__).parent / "leapc"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("leapc") / "libLeapC.so"
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-include", "stdint.h",
         str(HERE / "stand_in.c"), "-o", str(out), "-lpthread"],
        check=True,
    )  # fmt: skip
    return out


@pytest.fixture
def leap(library, monkeypatch):
    """The binding, over a service that runs with one sensor."""
    monkeypatch.setenv("LEAPC_STAND_IN", str(library))
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("leap", None)
    binding = importlib.import_module("leap")
    binding.libleapc.stand_in_reset()
    binding.libleapc.stand_in_service(1)
    binding.libleapc.stand_in_plug(1, b"LP-0001")
    yield binding
    sys.modules.pop("leap", None)


@pytest.fixture
def driver(leap):
    made = LeapCDriver(LeapCOptions())
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def recorded(shared_data):
    """Frames of a real Leap recording that hold hands."""
    file = shared_data / "leap_recordings" / "leapjs_playback" / "pinch.json.gz"
    return [frame for frame in load_leapjs(file).frames if frame.hands]


def send(leap, hands, number, device=1, timestamp_us=None) -> None:
    """Canonical hands, (side, (22, 3)), as a tracking frame of the service's."""
    message = leap.ffi.new("LEAP_CONNECTION_MESSAGE*")
    message.type, message.device_id = leap.libleapc.TYPE_TRACKING, device
    message.tracking_frame_id = number
    message.timestamp = number * 10_000 if timestamp_us is None else timestamp_us
    message.n_hands = len(hands)
    for i, (side, joints) in enumerate(hands):
        hand = message.hands[i]
        hand.id, hand.type, hand.confidence = 7 + i, side == "right", 0.75

        def put(vector, point) -> None:
            vector.x, vector.y, vector.z = (float(v) * 1000 for v in point)

        put(hand.arm.next_joint, joints[0])
        for finger in range(5):
            digit, base = hand.digits[finger], 2 + 4 * finger
            put(digit.metacarpal.next_joint, joints[base])
            put(digit.proximal.prev_joint, joints[base])
            put(digit.proximal.next_joint, joints[base + 1])
            put(digit.intermediate.next_joint, joints[base + 2])
            put(digit.distal.next_joint, joints[base + 3])
    leap.libleapc.stand_in_frame(message)


def test_real_hands_come_back_as_they_were(leap, driver, recorded) -> None:
    for number, frame in enumerate(recorded[:100]):
        send(leap, [(hand.side, hand.joints) for hand in frame.hands], number)
    samples = collect(driver, 100)
    assert [s.index for s in samples] == list(range(100))
    for sample, frame in zip(samples, recorded, strict=False):
        assert sample.device_ns == sample.index * 10_000_000
        for got, true in zip(sample.hands, frame.hands, strict=True):
            np.testing.assert_allclose(got.joints[2:], true.joints[2:], atol=1e-6)
            assert (got.side, got.confidence) == (true.side, 0.75)
            assert (chirality(got.joints) > 0) == (chirality(true.joints) > 0)
            assert bone_lengths(got.joints)[1:].min() > 0.01
    assert driver.counts() == {}


def test_a_headset_mount_has_its_own_axes(leap, recorded) -> None:
    driver = LeapCDriver(LeapCOptions(mode="hmd"))
    with contextlib.closing(driver):
        driver.open()
        assert leap.libleapc.stand_in_mode() == leap.TrackingMode.HMD.value
        hand = recorded[0].hands[0]
        send(leap, [(hand.side, hand.joints)], 1)
        got = collect(driver, 1)[0].hands[0].joints
    np.testing.assert_allclose(got[2:], hand.joints[2:] @ HMD_AXES.T, atol=1e-6)


def test_lost_and_overtaken_frames_are_counted(leap, driver) -> None:
    for number in (1, 2, 6):
        send(leap, [], number)
    assert len(collect(driver, 3)) == 3
    assert driver.counts() == {"lost": 3}
    for number in range(7, 7 + BACKLOG + 30):
        send(leap, [], number)
    end_s = time.monotonic() + 5
    while driver.counts().get("overtaken", 0) < 30 and time.monotonic() < end_s:
        time.sleep(0.01)
    samples = collect(driver, BACKLOG)
    assert samples[-1].index == 6 + BACKLOG + 30  # the newest were kept
    assert driver.counts()["overtaken"] == 30


def test_one_of_two_sensors_by_its_serial(leap) -> None:
    leap.libleapc.stand_in_plug(2, b"LP-0002")
    assert [found.id for found in LeapCDriver.find()] == ["LP-0001", "LP-0002"]
    drivers = [LeapCDriver(LeapCOptions(serial=f"LP-000{i}")) for i in (1, 2)]
    with contextlib.closing(drivers[0]), contextlib.closing(drivers[1]):
        for driver in drivers:
            driver.open()
        for number in range(10):
            send(leap, [], number, device=1 + number % 2)
        assert [s.index for s in collect(drivers[0], 5)] == [0, 2, 4, 6, 8]
        assert [s.index for s in collect(drivers[1], 5)] == [1, 3, 5, 7, 9]
        assert collect(drivers[0], 1, 0.2) == []
    with pytest.raises(DeviceError, match="LP-0001, LP-0002"):
        LeapCDriver(LeapCOptions(serial="LP-9")).open()


@pytest.mark.parametrize(("what", "told"), [("unplug", "is unplugged"), ("fail", "fails")])
def test_of_two_sensors_only_the_chosen_ones_end_is_told(leap, what, told) -> None:
    end = getattr(leap.libleapc, f"stand_in_{what}")
    leap.libleapc.stand_in_plug(2, b"LP-0002")
    driver = LeapCDriver(LeapCOptions(serial="LP-0001"))
    with contextlib.closing(driver):
        driver.open()
        end(2)
        send(leap, [], 1)
        assert [s.index for s in collect(driver, 1)] == [1]
        end(1)
        with pytest.raises(DeviceError, match=told):
            collect(driver, 1)


def test_an_unplugged_sensor_and_a_stopped_service_are_told_and_come_back(leap, driver) -> None:
    leap.libleapc.stand_in_unplug(1)
    with pytest.raises(DeviceError, match="unplugged") as caught:
        collect(driver, 1)
    assert "plug it in" in caught.value.cure
    with pytest.raises(DeviceError, match="sees no sensor"):
        driver.open()
    leap.libleapc.stand_in_plug(1, b"LP-0001")
    driver.open()
    send(leap, [], 1)
    assert len(collect(driver, 1)) == 1
    leap.libleapc.stand_in_service(0)
    with pytest.raises(DeviceError, match="lost the Ultraleap service") as caught:
        collect(driver, 1)
    assert "start" in caught.value.cure
    late = LeapCDriver(LeapCOptions(connect_timeout_s=0.2))
    with pytest.raises(DeviceError, match="no Ultraleap service answers"):
        late.open()
    assert LeapCDriver.find() == []


def test_an_event_that_cannot_be_read_is_counted_and_the_next_is_taken(leap, driver) -> None:
    class Broken:
        metadata = type("M", (), {"device_id": 1})
        timestamp, tracking_frame_id = 1, 1
        hands = property(lambda self: 1 / 0)

    driver.take(Broken(), driver._events)
    send(leap, [], 2)
    assert len(collect(driver, 1)) == 1
    assert driver.counts() == {"malformed": 1}


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (None, "not installed"),
        ("", "another one"),
        ("raise Exception('Unable to find leapc_cffi dir')", "leapc_cffi"),
        ("import not_there", "not_there"),
    ],
)
def test_a_missing_or_wrong_binding_is_named_with_its_cure(
    tmp_path, monkeypatch, module, told
) -> None:
    sys.modules.pop("leap", None)
    if module is None:
        monkeypatch.setitem(sys.modules, "leap", None)
    else:
        (tmp_path / "leap.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeviceError, match=told) as caught:
        LeapCDriver(LeapCOptions()).open()
    assert "leapc-python-bindings" in caught.value.cure
    monkeypatch.undo()
    sys.modules.pop("leap", None)
