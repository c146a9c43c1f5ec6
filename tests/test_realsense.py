"""The RealSense driver through the real library: its software device, live and pulled out, and
recordings of it; then what has no hardware double: its errors, stale frames, missing packages."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from daemon_process import Daemon, wait_until
from hgr_drivers import librealsense, realsense
from hgr_drivers.base import DeviceError, EndOfStream, Sample
from hgr_drivers.realsense import Freshness, RealSenseDriver, RealSenseOptions
from numpy.typing import NDArray

from hgr_stream.config import load
from hgr_stream.skeleton import bone_lengths, chirality
from tools.hand_photos import open_hand, true_points, two_hands
from tools.rendered_hand import render
from tools.software_realsense import (
    BASELINE_M,
    CAMERA,
    Images,
    Port,
    SoftwareCamera,
    filming,
    record,
)

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 15.0

needs_both = pytest.mark.skipif(
    sys.platform == "darwin" or sys.version_info >= (3, 13),
    reason="there is no wheel of pyrealsense2 (macOS) or of mediapipe 0.10.14 (Python 3.13)",
)


@dataclass
class Scene:
    """What the camera films, and where the hands truly are: (21, 3) each, in its axes."""

    images: Images
    truth: list[NDArray[np.float64]]


def scene_of(image: NDArray[np.uint8], truth: list[NDArray[np.float64]], beside_m: float) -> Scene:
    """Its depth is seen from the depth camera, with noise and a wall behind."""
    rng = np.random.default_rng(1)
    depth = np.full((480, 640), 1.4)
    for points in truth:
        hand = render(points + np.array([beside_m, 0, 0]), CAMERA)
        depth = np.where(hand > 0, hand, depth)
    depth += rng.normal(0, 0.002, depth.shape)
    depth[rng.random(depth.shape) < 0.02] = 0
    return Scene((image, (depth * 1000).astype(np.uint16)), truth)


@pytest.fixture(scope="module")
def scene(shared_data: Path) -> Scene:
    image = open_hand(shared_data)
    return scene_of(image, true_points(image, None, CAMERA), BASELINE_M)


@pytest.fixture(scope="module")
def recording(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 framesets at 30 Hz; the last five without a hand."""
    path = tmp_path_factory.mktemp("realsense") / "hand.db3"
    empty = (np.full_like(scene.images[0], 255), np.full_like(scene.images[1], 1400))
    record(path, [scene.images] * 40 + [empty] * 5)
    return path


@pytest.fixture
def port() -> Iterator[Port]:
    with closing(Port()) as out:
        yield out


@contextmanager
def opened(**options: Any) -> Iterator[RealSenseDriver]:
    with closing(RealSenseDriver(RealSenseOptions(**options))) as driver:
        driver.open()
        yield driver


def read(driver: RealSenseDriver, count: int) -> list[Sample]:
    samples: list[Sample] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(samples) < count:
        assert time.monotonic() < deadline_s, f"{len(samples)} of {count} samples came"
        if (sample := driver.read(0.1)) is not None:
            samples.append(sample)
    return samples


def played(driver: RealSenseDriver) -> list[Sample]:
    """Everything, to the end."""
    samples = []
    deadline_s = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            sample = driver.read(0.1)
        except EndOfStream:
            return samples
        if sample is not None:
            samples.append(sample)
    pytest.fail(f"it has no end: {len(samples)} samples")


def fails_to_open(**options: Any) -> DeviceError:
    with closing(RealSenseDriver(RealSenseOptions(**options))) as driver:
        began_s = time.monotonic()
        with pytest.raises(DeviceError) as caught:
            driver.open()
        assert time.monotonic() - began_s < 5  # the library itself would wait for 15
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)
    assert caught.value.cure
    assert "\n" not in f"{caught.value}{caught.value.cure}"
    return caught.value


def off(sample: Sample, truth: list[NDArray[np.float64]]) -> list[float]:
    """How far wrist and knuckles are off, on average, as a share of the distance; each hand."""
    out = []
    for hand, points in zip(sorted(sample.hands, key=lambda h: h.side), truth, strict=True):
        got = hand.joints[[0, *range(2, 22)]] * [-1, -1, 1]
        error = np.linalg.norm(got - points, axis=1)[[0, 5, 9, 13, 17]]
        out.append(float(error.mean() / points[:, 2].mean()))
    return out


# --- recordings


@needs_both
def test_recording_frame_by_frame(scene: Scene, recording: Path) -> None:
    with opened(file=str(recording), realtime=False) as driver:
        assert driver.lossless
        samples = played(driver)
        counts = driver.counts()
    assert [s.index for s in samples] == list(range(1, 46))
    assert not counts.get("skipped")
    assert "stale" not in counts
    times_ns = np.array([s.device_ns for s in samples])
    np.testing.assert_allclose(np.diff(times_ns), 1e9 / 30, atol=1e3)
    assert [len(s.hands) for s in samples[-3:]] == [0, 0, 0]
    filmed = [s for s in samples if s.index <= 40]
    assert sum(len(s.hands) for s in filmed) >= len(filmed) - 2
    errors = []
    for sample in filmed[3:]:
        [hand] = sample.hands
        assert (hand.id, hand.side, hand.lacks) == (1, "right", ())
        assert hand.confidence > 0.8
        assert chirality(hand.joints) > 0
        assert 0.07 < bone_lengths(hand.joints)[9] < 0.12  # wrist to middle base
        errors += off(sample, scene.truth)
    assert np.mean(errors) < 0.02
    assert np.quantile(errors, 0.95) < 0.03


@needs_both
def test_recording_at_its_own_pace(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "live.db3"
    record(path, [scene.images] * 30, pace_s=1 / 30)
    with opened(file=str(path)) as driver:
        assert not driver.lossless
        began_s = time.monotonic()
        samples = played(driver)
        took_s = time.monotonic() - began_s
        counts = driver.counts()
    # What was passed over for a newer one was counted: nothing is missing.
    indices = [s.index for s in samples]
    assert indices == sorted(set(indices))
    missing = indices[-1] - indices[0] + 1 - len(indices)
    assert counts == {"skipped": missing}
    assert len(samples) >= 10
    assert 0.7 < took_s < 5


@needs_both
def test_camera_that_looks_away_from_the_user(recording: Path) -> None:
    def last(**options: Any) -> NDArray[np.float32]:
        with opened(file=str(recording), realtime=False, max_hands=1, **options) as driver:
            return read(driver, 10)[-1].hands[0].joints

    towards, away = last(), last(facing="away")
    np.testing.assert_allclose(away, towards * [-1, 1, -1], atol=1e-6)
    assert chirality(away) > 0


@needs_both
def test_images_from_one_place(scene: Scene, tmp_path: Path) -> None:
    """A D405, or a recording that was aligned before it was written; and it is a left hand."""
    image = np.ascontiguousarray(scene.images[0][:, ::-1])
    flipped = scene_of(image, true_points(image, None, CAMERA), 0)
    path = tmp_path / "aligned.db3"
    record(path, [flipped.images] * 9, baseline_m=0.0)
    with opened(file=str(path), realtime=False) as driver:
        sample = read(driver, 9)[-1]
    assert [(h.side, h.lacks) for h in sample.hands] == [("left", ())]
    assert chirality(sample.hands[0].joints) < 0
    assert off(sample, flipped.truth)[0] < 0.03


@needs_both
def test_two_hands(shared_data: Path, tmp_path: Path) -> None:
    image = two_hands(shared_data)
    both = scene_of(image, true_points(image, None, CAMERA), BASELINE_M)
    path = tmp_path / "two.db3"
    record(path, [both.images] * 12)
    with opened(file=str(path), realtime=False) as driver:
        samples = read(driver, 12)
    assert {(h.id, h.side) for h in samples[-1].hands} == {(1, "left"), (2, "right")} or {
        (h.id, h.side) for h in samples[-1].hands
    } == {(2, "left"), (1, "right")}
    errors = [off(s, both.truth) for s in samples[-6:]]
    assert np.mean(errors) < 0.02


@needs_both
def test_depth_that_sees_nothing(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "blind.db3"
    record(path, [(scene.images[0], np.zeros_like(scene.images[1]))] * 6)
    with opened(file=str(path), realtime=False) as driver:
        samples = read(driver, 6)
        assert driver.counts()["without_depth"] == sum(len(s.hands) for s in samples)
    [hand] = samples[-1].hands
    assert hand.lacks == ("distance",)
    assert hand.confidence < 0.55
    assert off(samples[-1], scene.truth)[0] < 0.2


@needs_both
def test_the_last_frames_of_a_file_may_come_a_moment_late(recording: Path) -> None:
    class Late:
        """A pipeline that had nothing yet when it was asked for the first time."""

        def __init__(self, pipeline: Any) -> None:
            self.pipeline, self.waits = pipeline, 0

        def try_wait_for_frames(self, timeout_ms: int) -> tuple[bool, Any]:
            self.waits += 1
            return self.pipeline.try_wait_for_frames(1000) if self.waits > 1 else (False, None)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.pipeline, name)

    with opened(file=str(recording), realtime=False) as driver:
        stopped = librealsense.library().playback_status.stopped
        driver._pipeline = Late(driver._pipeline)
        driver._playback = SimpleNamespace(current_status=lambda: stopped)
        assert driver.read(0.1) is not None


@needs_both
def test_a_file_is_not_played_before_the_pipeline_takes_its_frames(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = []
    set_up = RealSenseDriver._set_up

    def asked_for_frames(driver: RealSenseDriver, profile: Any) -> None:
        set_up(driver, profile)
        early.append(driver._pipeline.try_wait_for_frames(200)[0])

    monkeypatch.setattr(RealSenseDriver, "_set_up", asked_for_frames)
    with opened(file=str(recording), realtime=False) as driver:
        assert read(driver, 1)[0].index == 1
    assert early == [False]


@needs_both
def test_files_that_cannot_be_played(tmp_path: Path, recording: Path) -> None:
    missing = fails_to_open(file=str(tmp_path / "none.db3"))
    assert missing.fatal
    assert "none.db3" in str(missing)
    for name, content in (
        ("empty.db3", b""),
        ("cut.db3", recording.read_bytes()[:100_000]),
        ("text.bag", b"this is no recording\n" * 100),
        ("other.txt", b"x"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        error = fails_to_open(file=str(path))
        assert error.fatal
        assert name in str(error)


# --- live


@needs_both
def test_live(scene: Scene, port: Port) -> None:
    camera = SoftwareCamera("111111111111")
    port.plug(camera)
    with filming(camera, scene.images), opened(serial="111111111111") as driver:
        assert driver.camera == "RealSense 111111111111"
        samples = read(driver, 12)
        for sample in samples:
            assert sample.device_ns == round(5e9 + 1e9 * sample.index / 30)
        assert [h.side for h in samples[-1].hands] == ["right"]
        assert off(samples[-1], scene.truth)[0] < 0.03
        driver.open()  # again, as after an error
        assert read(driver, 1)[0].index > samples[-1].index


@needs_both
def test_absent_wrong_serial_and_wrong_profile(scene: Scene, port: Port) -> None:
    absent = fails_to_open()
    assert str(absent) == "a RealSense camera is not connected"
    assert "RealSense 5 is not connected" in str(fails_to_open(serial="5"))
    camera = SoftwareCamera("222222222222")
    port.plug(camera)
    wrong = fails_to_open(serial="5")
    assert str(wrong) == "no RealSense has the serial '5'; there are 222222222222"
    assert not wrong.fatal  # it may be plugged in yet
    profile = fails_to_open(width=1280, height=720, fps=60)
    assert "RealSense 222222222222 has no 1280 x 720 colour with depth at 60 Hz" in str(profile)
    with filming(camera, scene.images), opened() as driver:  # the one there is
        read(driver, 1)
    port.pull(camera)
    assert str(fails_to_open()) == "a RealSense camera is not connected"


@needs_both
def test_camera_without_colour(scene: Scene, port: Port) -> None:
    blind = SoftwareCamera("121212121212", color=False)
    port.plug(blind)
    [found] = RealSenseDriver.find()
    assert "no colour" in found.description
    only = fails_to_open()
    assert str(only) == "no RealSense has a colour camera; there are 121212121212"
    assert "121212121212 has no colour camera" in str(fails_to_open(serial="121212121212"))
    other = SoftwareCamera("343434343434")
    port.plug(other)
    with filming(other, scene.images), opened() as driver:
        assert driver.camera == "RealSense 343434343434"
        read(driver, 1)


@needs_both
def test_unplugged_and_plugged_again(
    scene: Scene, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realsense, "SILENT_S", 0.6)
    camera = SoftwareCamera("333333333333")
    port.plug(camera)
    with opened(serial="333333333333") as driver:
        with filming(camera, scene.images):
            read(driver, 3)
        port.pull(camera)
        with pytest.raises(DeviceError, match="sends no frames") as caught:
            read(driver, 1000)  # at most the frames that were under way, then silence
        assert "USB 3" in caught.value.cure
        driver.close()
        for _ in range(2):
            with pytest.raises(DeviceError, match="333333333333 is not connected"):
                driver.open()
        again = SoftwareCamera("333333333333")
        port.plug(again)
        with filming(again, scene.images):
            with pytest.raises(DeviceError):
                driver.read(0)
            driver.open()
            assert read(driver, 3)[-1].hands


@needs_both
def test_unplugging_is_told_of_before_the_silence_is(
    scene: Scene, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realsense, "LOOK_S", 0.05)
    camera = SoftwareCamera("333333333334")
    port.plug(camera)
    with opened() as driver:
        with filming(camera, scene.images):
            read(driver, 1)
        # The software device stays in the list as long as it is streamed from; a real one does not.
        monkeypatch.setattr(librealsense, "cameras", list)
        with pytest.raises(DeviceError, match="333333333334 is unplugged") as caught:
            read(driver, 100)
    assert "plug it in" in caught.value.cure


@needs_both
def test_frozen_camera_is_reset(scene: Scene, port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realsense, "SILENT_S", 0.3)
    resets: list[str] = []
    camera = SoftwareCamera("444444444444")
    port.plug(camera)
    with closing(RealSenseDriver(RealSenseOptions())) as driver:
        driver.open()
        with pytest.raises(DeviceError, match="sends no frames"):
            read(driver, 1)
        assert not librealsense.reset("999")

        def reset(serial: str) -> bool:  # a software device has none
            resets.append(serial)
            return True

        monkeypatch.setattr(librealsense, "reset", reset)
        with pytest.raises(DeviceError, match="is being reset"):
            driver.open()
        driver.open()  # once only; then it is tried as it is
        assert resets == ["444444444444"]
        assert driver.counts()["resets"] == 1
        with filming(camera, scene.images):
            assert read(driver, 1)


@needs_both
def test_two_cameras_side_by_side(scene: Scene, port: Port) -> None:
    left, right = SoftwareCamera("555555555551"), SoftwareCamera("555555555552")
    port.plug(left)
    port.plug(right)
    found = {one.id: one for one in RealSenseDriver.find()}
    assert set(found) == {"555555555551", "555555555552"}
    one = found["555555555551"]
    assert one.options == {"serial": "555555555551"}
    assert one.driver == "realsense"
    for part in ("Software RealSense", "USB 3.2", "firmware 5.16.0.1", "colour 640x480 to 30 Hz"):
        assert part in one.description
    empty = (np.full_like(scene.images[0], 255), scene.images[1])
    left.skip(1000)
    with (
        opened(serial=left.serial) as one_driver,
        opened(serial=right.serial) as other_driver,
        filming(left, scene.images),
        filming(right, empty),
    ):
        [with_hand], [without] = read(one_driver, 4)[-1:], read(other_driver, 4)[-1:]
        assert (with_hand.index > 1000, len(with_hand.hands)) == (True, 1)
        assert (without.index < 1000, len(without.hands)) == (True, 0)


@needs_both
def test_newest_first_when_the_machine_is_slow(
    scene: Scene, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = SoftwareCamera("666666666666")
    port.plug(camera)
    ages = []
    with filming(camera, scene.images), opened() as driver:
        landmarker = driver._landmarker
        assert landmarker is not None
        plain = landmarker.process

        def slow(image: Any, time_ns: int) -> Any:
            ages.append(camera.number - round((time_ns - 5e9) * 30 / 1e9))
            time.sleep(0.2)  # six periods
            return plain(image, time_ns)

        monkeypatch.setattr(landmarker, "process", slow)
        samples = read(driver, 6)
        counts = driver.counts()
    indices = [s.index for s in samples]
    assert max(ages) <= 2
    assert np.diff(indices).min() >= 4
    assert counts["skipped"] + counts.get("stale", 0) == indices[-1] - indices[0] + 1 - len(indices)


# --- through the daemon


@needs_both
def test_daemon_plays_a_recording(recording: Path, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "realsense.toml").read_text()
    for line, wanted in (
        ('file = ""', f'file = "{recording}"'),
        ("realtime = true", "realtime = false"),
    ):
        assert line in text
        text = text.replace(line, wanted)
    daemon = Daemon(tmp_path, text)
    try:
        wait_until(lambda: daemon.count("segmenter", "tracks_ended_end") == 1, 60, "the end")
        rows = daemon.status()
        assert rows["driver.realsense"].counts["skipped"] == 0
        assert rows["driver.realsense"].counts["frames"] == 45
        assert rows["segmenter"].counts["frames"] == rows["driver.realsense"].counts["frames"]
        assert rows["segmenter"].counts["tracks"] == 1  # one hand, from the first to the last
    finally:
        daemon.stop()
    assert "hand.db3 is open" in daemon.text()


def test_config_shows_the_defaults() -> None:
    table = load(ROOT / "configs" / "realsense.toml").devices["realsense"]
    assert table.pop("driver") == "realsense"
    options = RealSenseOptions()
    assert table == {name: getattr(options, name) for name in options.__struct_fields__}


# --- what has no double


@pytest.mark.parametrize(
    ("said", "tells", "cure"),
    [
        ("No device connected", "is not connected", "plug it in"),
        ("Couldn't resolve requests", "has no 640 x 480 colour", "hgr devices"),
        ("Frame didn't arrive within 5000", "sends no frames", "USB 3 port"),
        ("failed to set power state", "held by another program", "realsense-viewer"),
        ("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy",
         "held by another program", "close the other program"),
        ("failed to open usb interface: 0, error: RS2_USB_STATUS_BUSY", "held by another", "close"),
        ("failed to open usb interface: 0, error: RS2_USB_STATUS_ACCESS",
         "may not be opened", "udev rules"),
        ("Cannot open '/dev/video2' Last Error: Permission denied", "may not be opened", "udev"),
        ("get_xu(...). xioctl(UVCIOC_CTRL_QUERY) failed Last Error: No such device",
         "is unplugged", "plug it in"),
        ("something new\nin two lines", "something new", "plug the camera in again"),
        ("", "unknown error", "plug the camera in again"),
    ],
)  # fmt: skip
def test_errors_in_words(said: str, tells: str, cure: str) -> None:
    wanted = "640 x 480 colour with depth at 30 Hz"
    error = librealsense.explained(RuntimeError(said), "RealSense 7", wanted, is_file=False)
    assert str(error).startswith("RealSense 7")
    assert tells in str(error)
    assert cure in error.cure
    assert "\n" not in f"{error}{error.cure}"
    assert not error.fatal


def test_camera_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not librealsense.on_usb(tmp_path)
    for name, product in (("1-2", "Keyboard"), ("2-1", "Intel(R) RealSense(TM) Depth Camera 435")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "product").write_text(product + "\n")
    assert librealsense.on_usb(tmp_path)
    monkeypatch.setattr(librealsense, "on_usb", lambda: True)
    monkeypatch.setattr(librealsense, "cameras", list)
    monkeypatch.setattr(librealsense, "library", _Anything)
    error = fails_to_open()
    assert str(error) == "a RealSense camera is plugged in, but may not be opened"
    assert "udev rules" in error.cure
    with pytest.raises(DeviceError, match="may not be opened"):
        RealSenseDriver.find()


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any) -> Any:
        return self


def test_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rules() -> tuple[str, bool, str]:
        [row] = [r for r in librealsense.checks([str(tmp_path), "/none"]) if "udev" in r[0]]
        return row

    monkeypatch.setattr(sys, "platform", "linux")
    assert rules() == ("RealSense udev rules", False, librealsense.RULES_CURE)
    (tmp_path / "99-realsense-libusb.rules").touch()
    assert rules() == ("RealSense udev rules", True, "")
    monkeypatch.setattr(sys, "platform", "win32")
    assert [name for name, _, _ in realsense.checks()] == ["pyrealsense2 and libusb"]


@needs_both
def test_checks_of_an_installed_library() -> None:
    assert realsense.checks()[0] == ("pyrealsense2 and libusb", True, "")


@pytest.fixture
def forgotten_library() -> Iterator[None]:
    librealsense.library.cache_clear()
    yield
    librealsense.library.cache_clear()


@pytest.mark.usefixtures("forgotten_library")
def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    error = fails_to_open()
    assert error.fatal
    assert "need the package pyrealsense2" in str(error)
    assert error.cure == 'pip install "hgr-stream[realsense]"'
    assert realsense.checks()[0] == ("pyrealsense2 and libusb", False, error.cure)


@pytest.mark.usefixtures("forgotten_library")
def test_without_libusb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyrealsense2.py").write_text(
        "raise ImportError('libusb-1.0.so.0: cannot open shared object file')\n"
    )
    monkeypatch.delitem(sys.modules, "pyrealsense2", raising=False)
    monkeypatch.setitem(sys.modules, "libusb_package", None)
    monkeypatch.syspath_prepend(tmp_path)
    error = fails_to_open()
    assert str(error) == "pyrealsense2 finds no libusb-1.0"
    assert "libusb-package" in error.cure


# --- stale frames; milliseconds on both clocks


def fresh(rule: Freshness, device_ms: float, now_ms: float) -> bool:
    return rule.push(round(device_ms * 1e6), round(now_ms * 1e6))


def test_frames_older_than_two_periods_are_stale() -> None:
    rule = Freshness(2 / 30)
    for i in range(30):
        assert fresh(rule, 9000 + 33 * i, 100 + 33 * i + (i % 3))
    assert fresh(rule, 10_000, 1100 + 60)
    assert not fresh(rule, 10_033, 1133 + 70)
    assert not fresh(rule, 10_066, 1166 + 500)
    assert fresh(rule, 10_660, 1760)


def test_a_clock_that_drifts_or_jumps_is_no_reason_to_fall_silent() -> None:
    rule = Freshness(2 / 30)
    assert all(fresh(rule, 33.3 * i * 0.999, 33.3 * i) for i in range(30 * 60))  # 1 ms a second
    assert fresh(rule, 900_000, 60_000)  # forwards: at once
    verdicts = [fresh(rule, 800_000 + 33 * i, 60_033 + 33 * i) for i in range(60)]
    assert not verdicts[0]
    assert verdicts[-20:] == [True] * 20
