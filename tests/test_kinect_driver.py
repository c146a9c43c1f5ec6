"""The first Kinect without one: libfreenect itself, and its fakenect, which plays recordings
through the same interface. A hand's photo stands for the colour image, a board for its depth."""

from __future__ import annotations

import ctypes
import re
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.kinect.freenect import Freenect
from hgr_drivers.kinect.v1 import (
    KinectDriver,
    KinectOptions,
    Pairing,
    Ticks,
    nominal_alignment,
    raw_to_mm,
)

from hgr_stream import config, skeleton
from hgr_stream.client import Stream
from hgr_stream.messages import Frame
from tests.daemon_process import Daemon, wait_until
from tests.kinect_files import photo, write_fakenect
from tests.models import save_palm_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def fakenect() -> Path:
    found = sorted(Path("/usr/lib").glob("*/fakenect/libfreenect.so.*"))
    if not found:
        pytest.skip("needs fakenect (apt-get install freenect)")
    return found[0]


@pytest.fixture(scope="module")
def libfreenect() -> None:
    try:
        ctypes.CDLL("libfreenect.so.0.5")
    except OSError:
        pytest.skip("needs libfreenect (apt-get install libfreenect0.5)")


# --- the arithmetic


def test_raw_disparities_are_metres() -> None:
    raw = np.arange(350, 1000, dtype=np.uint16)
    # An independent fit to a real device: S. Magnenat, 2010, in OpenKinect's wiki.
    expected_m = 0.1236 * np.tan(raw / 2842.5 + 1.1863)
    np.testing.assert_allclose(raw_to_mm(raw) / 1000, expected_m, rtol=0.03)
    nothing = np.array([0, 2047, 2048, 65535, 1090], dtype=np.uint16)
    assert raw_to_mm(nothing)[1:].tolist() == [0, 0, 0, 0]


def test_nominal_alignment_puts_a_board_where_the_colour_camera_sees_it() -> None:
    alignment = nominal_alignment(525.0)
    depth = np.zeros((480, 640), dtype=np.uint16)
    depth[190:290, 270:370] = 800  # in the depth camera's middle
    rows, columns = np.nonzero(alignment.depth(depth))
    assert rows.mean() == pytest.approx(239.5, abs=2)
    # libfreenect shifts by 2.3 cm x focal length / distance, towards the right.
    assert columns.mean() == pytest.approx(319.5 + 525 * 0.023 / 0.8, abs=2)
    assert np.ptp(columns) == pytest.approx(100 * 525 / 575.8, abs=3)


def test_the_clock_runs_on_where_it_wraps() -> None:
    ticks = Ticks()
    start = (1 << 32) - 30_000_000
    times = [ticks.ns((start + i * 2_000_000) % (1 << 32)) for i in range(40)]
    assert set(np.diff(times).tolist()) <= {33_333_333, 33_333_334}
    # The two cameras take turns: a stamp may lie a little before the last one.
    assert times[-1] - ticks.ns((start + 38 * 2_000_000) % (1 << 32)) in (33_333_333, 33_333_334)


def test_colour_takes_the_depth_of_its_time() -> None:
    pairing = Pairing()
    rgb, depth = np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.uint16)
    assert pairing.take() is None
    pairing.video(rgb, 1000)
    first = pairing.take()
    assert first is not None
    assert first.depth is None  # none has come yet
    assert pairing.take() is None
    pairing.depth(depth, 2_000_000)
    pairing.video(rgb, 2_500_000)
    pairing.video(rgb, 3_000_000)  # the newer one is taken
    second = pairing.take()
    assert second is not None
    assert (second.index, second.depth is depth) == (2, True)
    pairing.video(rgb, 2_000_000 + 60_000_000 // 10)  # the depth stream has stopped
    third = pairing.take()
    assert third is not None
    assert third.depth is None
    assert pairing.unpaired == 2


# --- libfreenect itself, without a device


def test_absent_kinect(libfreenect: None) -> None:
    assert KinectDriver.find() == []
    with closing(KinectDriver(KinectOptions())) as driver:
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"no Kinect .* is plugged in") as caught:
                driver.open()
        assert "power supply" in caught.value.cure
        assert not caught.value.fatal
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)


def test_absent_library() -> None:
    with pytest.raises(DeviceError, match=r"cannot load /nowhere/libfreenect\.so") as caught:
        Freenect("/nowhere/libfreenect.so")
    assert "apt-get install libfreenect0.5" in caught.value.cure
    assert caught.value.fatal
    with pytest.raises(DeviceError, match="too old"):
        Freenect("libm.so.6")


@pytest.mark.parametrize(
    ("said", "message", "cure"),
    [
        ("Could not open camera: -3", "no permission to open the Kinect", "plugdev"),
        ("Could not claim interface on camera: -6", "another program", "rmmod gspca_kinect"),
        ("Failed to do something", "cannot be opened: Failed to do something", "rmmod"),
    ],
)
def test_what_the_library_says_becomes_a_cure(
    libfreenect: None, said: str, message: str, cure: str
) -> None:
    library = Freenect()
    library._on_log(0, 1, said.encode())
    error = library._refused("")
    library.close()
    assert message in str(error)
    assert cure in error.cure


def test_config_file_shows_the_defaults() -> None:
    text = (ROOT / "configs" / "kinect.toml").read_text()
    head = text.partition("# A second")[0]
    table = config.parse(re.sub(r"^# (?=\w+ = )", "", head, flags=re.MULTILINE)).devices["kinect"]
    assert table.pop("driver") == KinectDriver.name
    assert msgspec.convert(table, KinectOptions) == KinectOptions()
    assert set(table) == set(KinectOptions.__struct_fields__)


# --- fakenect, in the daemon: a process of its own, as the library keeps everything in globals


def test_hands_through_the_daemon(
    shared_data: Path, tmp_path: Path, fakenect: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = photo(shared_data / "devices/hands/onehand10k/1402.jpg")
    rgb = np.full((480, 640, 3), 96, dtype=np.uint8)
    rgb[70 : 70 + 339, 230 : 230 + 226] = picture
    board = np.full((480, 640), 880, dtype=np.uint16)  # a wall at 1.5 m, a board at half a metre
    board[40:440, 170:500] = 400
    board[:, :8] = 2047
    plane_m = raw_to_mm(board[200:201, 300])[0] / 1000
    assert 0.49 < plane_m < 0.52
    recording = write_fakenect(tmp_path / "dump", [(rgb, board)] * 90)
    monkeypatch.setenv("FAKENECT_PATH", str(recording))
    monkeypatch.setenv("FAKENECT_LOOP", "0")
    model = save_palm_model(tmp_path / "palm.pt")
    daemon = Daemon(
        tmp_path,
        f'[devices.kinect]\ndriver = "kinect"\nlibrary = "{fakenect}"\n'
        f'alignment = "nominal"\n[model]\nuse = "{model}"\n',
        start=False,
    )
    try:
        daemon.start()
        frames: list[Frame] = []
        with Stream(["frame/kinect"], daemon.endpoint) as stream:
            end_s = time.monotonic() + 20
            while "lost the Kinect" not in daemon.text():
                assert time.monotonic() < end_s, daemon.text()
                received = next(stream)
                message = received.message() if received else None
                if isinstance(message, Frame):
                    frames.append(message)
        seen = [f for f in frames if f.hands]
        assert len(seen) >= 20
        times = [f.device_ns for f in frames]
        assert times == sorted(set(times))  # its 32-bit clock wrapped in the middle
        for frame in seen[5:]:
            [hand] = frame.hands
            assert (hand.side, hand.lacks) == ("right", [])
            joints = hand.array()
            assert plane_m * 0.98 < joints[skeleton.PALM, 2] < plane_m + 0.03
            assert 0.06 < np.linalg.norm(joints[0] - joints[10]) < 0.14
        medians = [float(skeleton.chirality(f.hands[0].array())) for f in seen]
        assert np.median(medians) > 0
        # The recording's end is what an unplugged device looks like.
        wait_until(
            lambda: daemon.status()["driver.kinect"].state == "degraded", 10, "word of the loss"
        )
        assert "plug in the Kinect and its power supply" in daemon.text()
    finally:
        daemon.stop()
