"""Azure Kinect recordings: the real one, and some in its layout with a hand's photo at a known
distance."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hgr_drivers.base import DeviceError, EndOfStream
from hgr_drivers.kinect.alignment import Alignment, intrinsics
from hgr_drivers.kinect.azure import AzureDriver, AzureOptions, load_azure

from hgr_stream import config
from hgr_stream.datasets.azure_calibration import COLOR_MODES, DEPTH_MODES, parse_calibration
from hgr_stream.datasets.azure_mkv import AzureRecording
from hgr_stream.datasets.base import DatasetError
from tests.azure_calibration import device_json
from tests.azure_scene import check_hand, hand_photo, samples, scene
from tests.kinect_files import write_azure

__all__ = ["hand_photo"]  # a fixture

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    return shared_data / "devices/kinect/azure_recording.mkv"


def alignment_of(recording: AzureRecording) -> Alignment:
    calibration = recording.calibration
    return Alignment(
        recording.depth_camera,
        recording.color_camera,
        calibration.rotation,
        calibration.translation,
    )


# --- the real recording


def test_real_recording_is_read(real: Path) -> None:
    with AzureRecording(real) as recording:
        assert recording.serial == "001514394512"
        assert (recording.color_mode, recording.depth_mode) == ("720P", "NFOV_UNBINNED")
        [frame] = recording.frames()
        assert not recording.notes
    assert frame.time_ns == 336_277_000 + 463_945_000
    assert (frame.color.shape, frame.depth_mm.shape) == ((720, 1280, 3), (576, 640))
    seen = frame.depth_mm[frame.depth_mm > 0]
    assert 0.7 < seen.size / frame.depth_mm.size < 0.85  # the field of view has six corners
    assert 150 < np.percentile(seen, 1) < np.percentile(seen, 99) < 3900


def test_real_depth_lies_upon_the_real_colours(real: Path) -> None:
    """Where a mug ends before the wall, depth jumps and colour changes: at the same pixels."""
    with AzureRecording(real) as recording:
        [frame] = recording.frames()
        depth = alignment_of(recording).depth(frame.depth_mm)
    grey = frame.color.astype(np.float64).mean(axis=-1)
    # Right edges of what stands nearer than 0.6 m, with the wall soon beside it.
    near, far = (depth > 0) & (depth < 0.6), depth > 1.0
    rows, columns = np.nonzero(near[:, :-14] & ~near[:, 1:-13] & far[:, 14:])
    assert len(rows) > 40
    change = np.abs(grey[:, 4:] - grey[:, :-4])

    def contrast(shift: int) -> float:
        return float(change[rows, (columns - 1 + shift).clip(0, change.shape[1] - 1)].mean())

    shifts = np.arange(-24, 25)
    best = shifts[np.argmax([contrast(int(s)) for s in shifts])]
    # Where cells are shared the nearer surface wins: it looks larger by about one of them.
    assert -8 <= best <= 2, f"colour lies {best} pixels beside depth"


def test_no_hand_is_invented(real: Path) -> None:
    [found] = load_azure(real)
    assert (found.name, len(found.frames)) == ("azure_recording", 1)
    assert found.frames[0].hands == []


# --- alignment


def test_a_plane_stays_a_plane() -> None:
    calibration = parse_calibration(device_json())
    for depth_mode, color_mode in (("NFOV_UNBINNED", "720P"), ("WFOV_2X2BINNED", "1536P")):
        depth = calibration.depth_camera(depth_mode)
        color = calibration.color_camera(color_mode).scaled(1280)
        alignment = Alignment(depth, color, calibration.rotation, calibration.translation)
        rays = np.concatenate((depth.rays(), np.ones((depth.height, depth.width, 1))), axis=-1)
        # A wall that is turned: 0.8 m ahead in the colour camera's middle, 0.3 m nearer a metre
        # to the right.
        normal = np.array([0.3, 0.0, 1.0])
        z = (0.8 - normal @ calibration.translation) / (rays @ calibration.rotation.T @ normal)
        millimetres = np.where(np.isfinite(z) & (z > 0), z * 1000, 0).round().astype(np.uint16)
        got = alignment.depth(millimetres)
        expected = 0.8 / (np.concatenate((color.rays(), np.ones((*got.shape, 1))), -1) @ normal)
        middle = (slice(got.shape[0] // 4, -got.shape[0] // 4), slice(400, 900))
        assert (got[middle] > 0).all()  # no gaps
        np.testing.assert_allclose(got[middle], expected[middle], rtol=0.006)


def test_the_nearer_of_two_surfaces_is_seen_and_boxes_give_the_same() -> None:
    calibration = parse_calibration(device_json())
    depth, color = calibration.depth_camera("NFOV_UNBINNED"), calibration.color_camera("720P")
    alignment = Alignment(depth, color, calibration.rotation, calibration.translation)
    millimetres = np.full((576, 640), 1500, dtype=np.uint16)
    millimetres[200:400, 250:420] = 500
    millimetres[::7, ::5] = 0
    whole = alignment.depth(millimetres)
    levels = np.unique(whole[(whole > 0)].round(1))
    assert {0.5, 1.5} <= set(levels.tolist())
    for box in ((500.0, 200.0, 800.0, 500.0), (-50.0, -50.0, 60.0, 60.0), (1200, 600, 1500, 900)):
        part = alignment.depth(millimetres, [box])
        left, top, right, bottom = (round(v) for v in box)
        inside = slice(max(top, 0), bottom), slice(max(left, 0), right)
        np.testing.assert_array_equal(part[inside], whole[inside])
    assert not alignment.depth(millimetres, [(5000.0, 0.0, 5100.0, 10.0)]).any()
    with pytest.raises(ValueError, match=r"depth image of \(10, 5\), not \(640, 576\)"):
        alignment.depth(np.zeros((5, 10), dtype=np.uint16))


def test_the_lifter_sees_the_same_camera() -> None:
    color = parse_calibration(device_json()).color_camera("720P")
    pixels = np.random.default_rng(3).uniform((0, 0), (1279, 719), (300, 2))
    rays = intrinsics(color).rays(pixels)
    back = color.project(np.concatenate((rays, np.ones((300, 1))), axis=1))
    np.testing.assert_allclose(back, pixels, atol=0.01)


# --- hands


def test_hands_of_a_recording(tmp_path: Path, hand_photo: tuple[np.ndarray, np.ndarray]) -> None:
    planes = [0.45, 0.5, 0.55]
    pairs = [scene(hand_photo, plane)[:2] for plane in planes for _ in range(2)]
    path = write_azure(tmp_path / "hand.mkv", device_json(), pairs, start_offset_ns=5_000_000_000)
    [found] = load_azure(path)
    assert not found.notes
    assert [f.index for f in found.frames] == list(range(6))
    assert found.frames[0].time_ns == 5_000_000_000
    assert found.frames[3].time_ns == 5_100_000_000
    for frame, plane in zip(found.frames, np.repeat(planes, 2), strict=True):
        [hand] = frame.hands
        assert (hand.id, hand.side, hand.lacks) == (1, "right", ())
        check_hand(hand.joints, plane)
    # From side to side the hand is where its photo is.
    points = scene(hand_photo)[2]
    color = parse_calibration(device_json()).color_camera("720P")
    joints = found.frames[2].hands[0].joints * [-1, -1, 1]  # camera axes
    got = color.project(joints[[0, *range(2, 22)]].astype(np.float64))
    size = np.linalg.norm(points[0] - points[9])
    assert np.linalg.norm(got - points, axis=1).mean() < 0.1 * size


def test_a_camera_that_looks_away_from_the_user(
    tmp_path: Path, hand_photo: tuple[np.ndarray, np.ndarray]
) -> None:
    path = write_azure(tmp_path / "a.mkv", device_json(), [scene(hand_photo)[:2]] * 2)
    user, away = (
        load_azure(path, AzureOptions(facing=facing))[0].frames[1].hands[0].joints
        for facing in ("user", "away")
    )
    np.testing.assert_array_equal(away, user * np.float32([-1, 1, -1]))


def test_recording_as_a_driver(tmp_path: Path, hand_photo: tuple[np.ndarray, np.ndarray]) -> None:
    pairs = [scene(hand_photo)[:2]] * 3
    path = write_azure(tmp_path / "hand.mkv", device_json(), pairs, fps=5)
    with closing(AzureDriver(AzureOptions(file=str(path)))) as driver:
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)
        driver.open()
        got = samples(driver, 3)
        assert [s.device_ns for s in got] == [0, 200_000_000, 400_000_000]
        assert [h.id for s in got for h in s.hands] == [1, 1, 1]
        with pytest.raises(EndOfStream):
            samples(driver, 1)
        assert driver.counts() == {}
        driver.open()
        assert samples(driver, 1)[0].index == 0
    with closing(AzureDriver(AzureOptions(file=str(path), loop=True))) as driver:
        driver.open()
        assert [s.device_ns for s in samples(driver, 5)] == [i * 200_000_000 for i in range(5)]


# --- recordings that are not what they should be


def blank(count: int) -> list[tuple[np.ndarray | bytes | None, np.ndarray | None]]:
    return [
        (np.full((720, 1280, 3), 80 + i, np.uint8), np.full((576, 640), 700, np.uint16))
        for i in range(count)
    ]


def test_images_without_their_partner_are_counted(tmp_path: Path) -> None:
    pairs = blank(6)
    pairs[1] = (pairs[1][0], None)
    pairs[3] = (None, pairs[3][1])
    pairs[4] = (b"\xff\xd8 no JPEG", pairs[4][1])
    with AzureRecording(write_azure(tmp_path / "a.mkv", device_json(), pairs)) as recording:
        frames = list(recording.frames())
    assert [round(f.time_ns / 1e6) for f in frames] == [0, 67, 167]
    assert [f.index for f in frames] == [0, 1, 2]
    assert recording.unpaired == 3
    assert recording.notes == [
        "1 images that cannot be decoded",
        "3 images without their partner",
    ]


def test_a_recording_that_was_cut_gives_what_it_holds(tmp_path: Path) -> None:
    path = write_azure(tmp_path / "a.mkv", device_json(), blank(4))
    path.write_bytes(path.read_bytes()[:-400_000])
    with AzureRecording(path) as recording:
        assert len(list(recording.frames())) == 3
    assert recording.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracks": ["COLOR"]}, "no DEPTH track"),
        ({"tracks": ["DEPTH"]}, "no COLOR track"),
        ({"depth_mode": "PASSIVE_IR"}, "of mode 'PASSIVE_IR'; known: NFOV_2X2BINNED"),
        ({"color_mode": "MJPG_1080P"}, "1280x720 images, but mode 1080P has 1920x1080"),
        ({"calibration": b""}, "holds no calibration; record it again"),
        ({"calibration": b"{}"}, "no Azure Kinect calibration: Object missing required field"),
    ],
)
def test_recordings_that_cannot_be_used(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.mkv"
    calibration = change.pop("calibration", device_json())
    write_azure(path, calibration, blank(1), **change)
    with pytest.raises(DatasetError) as caught:
        AzureRecording(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError) as told:
        AzureDriver(AzureOptions(file=str(path))).open()
    assert told.value.fatal
    with pytest.raises(DatasetError):
        load_azure(path)


def test_files_that_are_no_recordings(tmp_path: Path) -> None:
    for name, content, message in (
        ("absent.mkv", None, "No such file"),
        ("text.mkv", b"hello" * 100, "no Matroska file"),
        ("empty.mkv", b"", "no Matroska file"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            AzureRecording(path)


def test_damaged_tags_are_noted(tmp_path: Path) -> None:
    path = write_azure(tmp_path / "a.mkv", device_json(), blank(1), start_offset_ns=10**19)
    with AzureRecording(path) as recording:
        [frame] = recording.frames()
    assert frame.time_ns == 0
    assert recording.notes == ["tag K4A_START_OFFSET_NS is '10000000000000000000', taken as 0"]


def test_every_mode_is_read(tmp_path: Path) -> None:
    for depth_mode, color_mode in (("NFOV_2X2BINNED", "1080P"), ("WFOV_UNBINNED", "1536P")):
        depth_size, color_size = DEPTH_MODES[depth_mode].size, COLOR_MODES[color_mode].size
        path = write_azure(
            tmp_path / f"{color_mode}.mkv",
            device_json(),
            [
                (
                    np.full((*color_size[::-1], 3), 90, np.uint8),
                    np.full(depth_size[::-1], 700, np.uint16),
                )
            ],
            color_mode=f"MJPG_{color_mode}",
            depth_mode=depth_mode,
            color_size=color_size,
            depth_size=depth_size,
        )
        with AzureRecording(path) as recording:
            [frame] = recording.frames()
            assert frame.color.shape[1] == recording.color_camera.width == 1280
            assert frame.color.shape[0] == recording.color_camera.height
            assert alignment_of(recording).depth(frame.depth_mm).any()


def test_config_file_shows_the_defaults() -> None:
    text = (ROOT / "configs" / "azure.toml").read_text()
    head = text.partition("# A second")[0]
    table = config.parse(re.sub(r"^# (?=\w+ = )", "", head, flags=re.MULTILINE)).devices["azure"]
    assert table.pop("driver") == AzureDriver.name
    assert msgspec.convert(table, AzureOptions) == AzureOptions()
    assert set(table) == set(AzureOptions.__struct_fields__)
