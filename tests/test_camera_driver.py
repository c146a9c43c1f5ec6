"""Webcams and video files: real pictures of hands, a virtual input device as the live camera, and
what goes wrong with both."""

from __future__ import annotations

import errno
import math
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hgr_drivers import camera
from hgr_drivers.base import DeviceError, Sample
from hgr_drivers.camera import CameraDriver, CameraOptions, load_video
from hgr_drivers.vision import video
from hgr_drivers.vision.video import camera_address, camera_error, focal_px, open_file

from hgr_stream import config, skeleton
from hgr_stream.client import Stream
from hgr_stream.datasets.base import DatasetError, HandFrames
from hgr_stream.messages import Frame
from tests.daemon_process import Daemon, wait_until
from tests.kinect_files import keypoints, photo
from tests.models import save_palm_model
from tests.test_newest import until_end

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def waving(shared_data: Path) -> Path:
    return shared_data / "devices/video/waving_hand.mp4"


@contextmanager
def opened(**options: Any) -> Iterator[CameraDriver]:
    with closing(CameraDriver(msgspec.convert(options, CameraOptions))) as driver:
        driver.open()
        yield driver


def read(driver: CameraDriver, count: int, patience_s: float = 20) -> list[Sample]:
    samples: list[Sample] = []
    end_s = time.monotonic() + patience_s
    while len(samples) < count:
        assert time.monotonic() < end_s, f"{len(samples)} of {count} samples came"
        if (sample := driver.read(0.1)) is not None:
            samples.append(sample)
    return samples


def write_video(path: Path, pictures: list[np.ndarray], fps: int = 30) -> Path:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


# --- hands of real pictures


@pytest.fixture(scope="module")
def waved(waving: Path) -> HandFrames:
    [found] = load_video(waving)
    return found


def test_real_video(waved: HandFrames) -> None:
    assert (waved.name, len(waved.frames), waved.notes) == ("waving_hand", 58, [])
    times = np.array([f.time_ns for f in waved.frames])
    assert (np.diff(times) > 0).all()
    assert (times[-1] - times[0]) * 1e-9 == pytest.approx(1.905, abs=0.01)
    assert [f.index for f in waved.frames] == list(range(58))
    # A hand that waves as fast as this one is blurred in every second picture.
    hands = [hand for frame in waved.frames for hand in frame.hands]
    assert len(hands) >= 18
    assert {hand.lacks for hand in hands} == {("distance",)}
    main = [hand.joints for hand in hands if hand.side == "right"]
    assert len(main) >= 0.9 * len(hands)
    assert np.median([float(skeleton.chirality(joints)) for joints in main]) > 0
    bones = np.median([skeleton.bone_lengths(joints) for joints in main], axis=0)
    names = [skeleton.JOINTS[child] for _, child in skeleton.BONES]
    assert 0.06 < bones[names.index("middle_base")] < 0.12
    assert (bones > 0.008).all()
    assert (bones < 0.12).all()
    palms = np.array([joints[skeleton.PALM] for joints in main])
    assert ((palms[:, 2] > 0.1) & (palms[:, 2] < 1.0)).all()  # it fills a third of the picture


def test_photos_with_their_truth(shared_data: Path, tmp_path: Path) -> None:
    """The lifted joints lie on their points' pixel rays: seen through the camera again they must
    fall upon what people marked."""
    found, near, errors = 0, [], []
    for name, folder in (
        ("freihand", shared_data / "devices/hands/freihand"),
        ("onehand10k", shared_data / "devices/hands/onehand10k"),
    ):
        for file, truth in keypoints(folder / f"test_{name}.json").items():
            picture = photo(folder / file)
            picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            path = write_video(tmp_path / f"{file}.mp4", [picture] * 3)
            [frames] = load_video(path, CameraOptions(max_hands=1))
            seen = truth[:, 2] > 0
            hand = next((h for f in reversed(frames.frames) for h in f.hands), None)
            if hand is None or seen.sum() < 10:
                continue
            found += 1
            height, width = picture.shape[:2]
            focal = focal_px(width, height, CameraOptions().fov_deg)
            joints = hand.joints[[0, *range(2, 22)]] * np.array([-1, -1, 1])
            points = joints[:, :2] / joints[:, 2:] * focal + [(width - 1) / 2, (height - 1) / 2]
            size = np.ptp(truth[seen, :2], axis=0).max()
            error = np.linalg.norm(points - truth[:, :2], axis=1)[seen] / size
            errors.append(error.mean())
            near.append((error < 0.2).mean())
    assert found >= 9
    assert np.mean(near) > 0.8  # PCK at a fifth of the hand
    assert np.median(errors) < 0.15


def test_a_hand_that_looks_half_as_large_is_twice_as_far(shared_data: Path, tmp_path: Path) -> None:
    picture = photo(shared_data / "devices/hands/onehand10k/1402.jpg")
    distances = []
    for step in (1, 2):
        canvas = np.full((480, 640, 3), 96, dtype=np.uint8)
        small = picture[::step, ::step]
        canvas[40 : 40 + small.shape[0], 200 : 200 + small.shape[1]] = small
        [found] = load_video(write_video(tmp_path / f"{step}.mp4", [canvas] * 4))
        [hand] = found.frames[-1].hands
        distances.append(hand.joints[skeleton.PALM, 2])
    assert distances[1] / distances[0] == pytest.approx(2, rel=0.15)
    # And a camera that sees twice the tangent has to be twice as near to see it as large.
    wide = CameraOptions(fov_deg=math.degrees(2 * math.atan(2 * math.tan(math.radians(65 / 2)))))
    [found] = load_video(tmp_path / "1.mp4", wide)
    assert found.frames[-1].hands[0].joints[1, 2] == pytest.approx(distances[0] / 2, rel=0.1)


def test_mirrored_pictures_give_the_hand_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    picture = photo(shared_data / "devices/hands/onehand10k/1402.jpg")[:338]
    results = []
    for mirrored in (False, True):
        shown = np.ascontiguousarray(picture[:, ::-1] if mirrored else picture)
        path = write_video(tmp_path / f"{mirrored}.mp4", [shown] * 4)
        [found] = load_video(path, CameraOptions(mirrored=mirrored))
        [hand] = found.frames[-1].hands
        results.append(hand)
    assert [hand.side for hand in results] == ["right", "right"]
    apart = np.linalg.norm(results[0].joints - results[1].joints, axis=1)
    assert np.median(apart) < 0.03


# --- a file as a device


def test_file_plays_at_its_own_pace_and_ends(waving: Path) -> None:
    with opened(file=str(waving), complexity=0) as driver:
        began_s = time.monotonic()
        samples = list(until_end(lambda: driver.read(0.05)))
        took_s = time.monotonic() - began_s
        assert took_s > 1.85
        counts = driver.counts()
        assert len(samples) + counts.get("pictures_skipped", 0) == 58
        times = [s.device_ns for s in samples]
        assert times == sorted(set(times))
        assert times[0] == 0
        assert set(counts) <= {"pictures_skipped"}


def test_loop_goes_on_in_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 6, fps=20)
    with opened(file=str(path), loop=True, complexity=0) as driver:
        samples = read(driver, 15)
    assert {s.index for s in samples} == set(range(6))
    rounds = [divmod(s.device_ns // 50_000_000, 6) for s in samples]  # a late one may be skipped
    assert [index for _, index in rounds] == [s.index for s in samples]
    assert rounds == sorted(set(rounds))
    assert rounds[-1][0] >= 2


# --- a live camera: FFmpeg's virtual input device, in real time


def test_live_takes_the_newest_and_counts_the_rest(waving: Path) -> None:
    address = f"movie={waving}:loop=0,realtime"
    with opened(device=address, input_format="lavfi", complexity=0) as driver:
        samples = read(driver, 12)
        before = driver.counts().get("pictures_skipped", 0)
        time.sleep(0.5)  # busy elsewhere: 15 pictures come meanwhile
        skipped = driver.counts()["pictures_skipped"] - before
        [sample] = read(driver, 1)
        assert skipped >= 8
        assert sample.index > samples[-1].index + skipped
        assert len({s.index for s in samples}) == 12


def test_live_stream_that_ends_is_lost_and_comes_back(waving: Path) -> None:
    address = f"movie={waving},trim=end_frame=4,realtime"
    with opened(device=address, input_format="lavfi") as driver:
        with pytest.raises(DeviceError, match="its stream ended") as caught:
            read(driver, 10)
        assert caught.value.cure == "plug it in again"
        assert not caught.value.fatal
        driver.open()
        assert read(driver, 1)


# --- what goes wrong


def fails(**options: Any) -> DeviceError:
    with closing(CameraDriver(msgspec.convert(options, CameraOptions))) as driver:
        with pytest.raises(DeviceError) as caught:
            driver.open()
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.skipif(sys.platform != "linux", reason="Linux names of cameras")
def test_absent_camera() -> None:
    error = fails(device=63)
    assert str(error) == "no camera at /dev/video63"
    assert "hgr devices" in error.cure
    assert not error.fatal
    assert "is no camera" in str(fails(device="/dev/null"))


@pytest.mark.parametrize(
    ("code", "message", "cure"),
    [
        (errno.EACCES, "no permission to use the camera", "usermod -aG video"),
        (errno.EBUSY, "is used by another program", "fuser -v /dev/video0"),
        (errno.ENODEV, "no camera at", "plug it in"),
        (errno.EINVAL, "cannot do 640x480 at 30 frames/s", "--list-formats-ext"),
        (errno.ETIMEDOUT, "sends no picture", "plug it in again"),
        (errno.EIO, "cannot be opened: Input/output error", "hgr devices"),
    ],
)
def test_each_fault_has_its_cure(
    code: int, message: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    error = camera_error(OSError(code, "Input/output error"), "/dev/video0", "640x480 at 30")
    assert message in str(error)
    assert cure in error.cure
    monkeypatch.setattr(sys, "platform", "darwin")
    if code == errno.EACCES:
        told = camera_error(OSError(code, ""), "0", "")
        assert "Privacy" in told.cure


def test_addresses_of_each_system() -> None:
    assert camera_address(2, "v4l2") == "/dev/video2"
    assert camera_address("/dev/v4l/by-id/x", "v4l2") == "/dev/v4l/by-id/x"
    assert camera_address("1", "avfoundation") == "1:none"
    assert camera_address("Logi Cam", "dshow") == "video=Logi Cam"
    assert camera_address("rtsp://host/a", "url") == "rtsp://host/a"


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    assert "no such file" in str(fails(file=str(tmp_path / "absent.mp4")))
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    error = fails(file=str(text))
    assert error.fatal
    assert f"{text}: no video that can be read" in str(error)
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(b"\0" * 1600)
    assert "holds no video" in str(fails(file=str(sound)))
    for path in (text, sound, tmp_path / "absent.mp4"):
        with pytest.raises(DatasetError, match=str(path)):
            load_video(path)


def test_a_damaged_picture_costs_only_itself(waving: Path, tmp_path: Path) -> None:
    data = bytearray(waving.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    pictures = open_file(str(broken))
    count = 0
    while pictures.next() is not None:
        count += 1
    pictures.close()
    assert 50 <= count <= 58
    assert count + pictures.bad >= 55


def test_missing_library_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    error = fails(file="x.mp4")
    assert error.fatal
    assert error.cure == 'pip install "hgr-stream[camera]"'


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's sysfs")
def test_find_lists_what_gives_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, name, index in (
        ("video0", "Integrated Camera: Integrated C", "0"),
        ("video1", "Integrated Camera: Integrated C", "1"),
        ("video10", "HD Pro Webcam C920", "0"),
        ("video2", "Depth Camera", "0"),
        ("vbi0", "TV", "0"),
    ):
        (tmp_path / node).mkdir()
        (tmp_path / node / "name").write_text(name + "\n")
        (tmp_path / node / "index").write_text(index + "\n")
    (tmp_path / "video7").mkdir()
    monkeypatch.setattr(camera, "cameras", lambda: video.cameras(tmp_path))
    found = CameraDriver.find()
    assert [f.options["device"] for f in found] == ["/dev/video0", "/dev/video2", "/dev/video10"]
    assert found[0].description == "Integrated Camera: Integrated C"
    assert video.cameras(tmp_path / "absent") == []


def test_config_file_shows_the_defaults() -> None:
    text = (ROOT / "configs" / "camera.toml").read_text()
    head = text.partition("# A second camera")[0]
    table = config.parse(re.sub(r"^# (?=\w+ = )", "", head, flags=re.MULTILINE)).devices["camera"]
    assert table.pop("driver") == CameraDriver.name
    assert msgspec.convert(table, CameraOptions) == CameraOptions()
    assert set(table) == set(CameraOptions.__struct_fields__)
    for bad in ({"fov_deg": 200}, {"complexity": 2}, {"devce": 0}, {"max_hands": 0}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, CameraOptions)


# --- as a user has it


def test_video_through_the_daemon(waving: Path, tmp_path: Path) -> None:
    model = save_palm_model(tmp_path / "palm.pt")
    daemon = Daemon(
        tmp_path,
        f'[devices.cam]\ndriver = "camera"\nfile = "{waving}"\nloop = true\ncomplexity = 0\n'
        f'[devices.absent]\ndriver = "camera"\ndevice = 63\n[model]\nuse = "{model}"\n',
    )
    try:
        frames: list[Frame] = []
        with Stream(["frame/cam"], daemon.endpoint) as stream:
            end_s = time.monotonic() + 30
            while sum(bool(f.hands) for f in frames) < 20:
                assert time.monotonic() < end_s, daemon.text()
                received = next(stream)
                message = received.message() if received else None
                if isinstance(message, Frame):
                    frames.append(message)
            assert stream.lost == 0
        assert {h.lacks[0] for f in frames for h in f.hands} == {"distance"}
        times = [f.time_ns for f in frames]
        assert times == sorted(times)
        wait_until(lambda: "no camera at /dev/video63" in daemon.text(), 10, "word of the absent")
        assert daemon.status()["driver.absent"].state == "degraded"
        assert daemon.count("driver.cam", "clock_jumps") == 0
    finally:
        daemon.stop()


def test_drivers_load_none_of_their_libraries() -> None:
    """The daemon and ``hgr devices`` import every driver, also where nothing is installed."""
    code = (
        "import sys, hgr_drivers.camera, hgr_drivers.kinect.v1, hgr_drivers.kinect.azure, "
        "hgr_drivers.orbbec\n"
        "print({'av', 'cv2', 'mediapipe', 'pyorbbecsdk', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
