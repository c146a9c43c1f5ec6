"""The Azure Kinect's calibration: against the real one, OpenCV's lenses, and nonsense."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.datasets.azure_calibration import (
    COLOR_MODES,
    DEPTH_MODES,
    MAX_CALIBRATION_BYTES,
    Calibration,
    Camera,
    parse_calibration,
)
from hgr_stream.datasets.azure_mkv import AzureRecording
from hgr_stream.datasets.base import DatasetError
from tests.azure_calibration import device_json, made_calibration
from tests.kinect_files import write_azure


def test_real_calibration(shared_data: Path) -> None:
    data = (shared_data / "devices/kinect/azure_calibration.json").read_bytes()
    calibration = parse_calibration(data + b"\0")
    depth = calibration.depth_camera("NFOV_UNBINNED")
    # raw * binned size - crop - half a pixel, worked out by hand.
    assert depth.cx == pytest.approx(0.5129697919 * 1024 - 192 - 0.5)
    assert depth.cy == pytest.approx(0.5169235468 * 1024 - 180 - 0.5)
    assert depth.fx == pytest.approx(0.4927808940 * 1024)
    color = calibration.color_camera("1080P")
    assert color.cy == pytest.approx(0.5066176057 * 1440 - 180 - 0.5)
    assert color.fy == pytest.approx(0.6374239326 * 1440)
    assert abs(color.fx / color.fy - 1) < 0.001  # square pixels
    assert np.linalg.norm(calibration.translation) == pytest.approx(0.0324, abs=1e-4)
    assert np.degrees(np.arccos((np.trace(calibration.rotation) - 1) / 2)) < 6


def test_modes_of_one_sensor_see_the_same_directions() -> None:
    calibration = parse_calibration(device_json())
    point = np.array([0.11, -0.07, 0.9])
    whole = calibration.color_camera("3072P").project(point)
    for name, mode in COLOR_MODES.items():
        camera = calibration.color_camera(name)
        assert (camera.width, camera.height) == mode.size
        scale = mode.binned[0] / 4096
        np.testing.assert_allclose(
            camera.project(point) + 0.5 + mode.crop, (whole + 0.5) * scale, atol=1e-6
        )
        small = camera.scaled(640)
        np.testing.assert_allclose(
            small.project(point) + 0.5, (camera.project(point) + 0.5) * 640 / camera.width
        )
    for name, mode in DEPTH_MODES.items():
        assert calibration.depth_camera(name).width == mode.size[0]


@pytest.mark.parametrize("mode", ["NFOV_UNBINNED", "720P"])
def test_lenses_are_those_of_opencv(mode: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV to compare with")
    calibration = parse_calibration(device_json())
    camera = calibration.color_camera(mode) if mode == "720P" else calibration.depth_camera(mode)
    random = np.random.default_rng(5)
    points = random.uniform((-0.5, -0.4, 0.9), (0.5, 0.4, 1.5), (200, 3))
    k1, k2, k3, k4, k5, k6 = camera.radial
    matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
    lens = np.array([k1, k2, *camera.tangential, k3, k4, k5, k6])
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, lens)[0][:, 0]
    np.testing.assert_allclose(camera.project(points), expected, atol=1e-6)


def test_rays_lead_back_to_their_pixels() -> None:
    calibration = parse_calibration(device_json())
    for camera in (
        calibration.depth_camera("WFOV_UNBINNED"),
        calibration.depth_camera("NFOV_2X2BINNED"),
        calibration.color_camera("720P"),
    ):
        rays = camera.rays(every=4)
        v, u = np.mgrid[0 : camera.height : 4, 0 : camera.width : 4]
        back = camera.project(np.concatenate((rays, np.ones((*rays.shape[:2], 1))), axis=-1))
        known = np.isfinite(rays).all(axis=-1)
        height, width = known.shape
        assert known[height // 4 : -height // 4, width // 4 : -width // 4].all()
        assert known.mean() > 0.6  # the wide mode's corners lie beyond its lens
        np.testing.assert_allclose(back[known], np.stack((u, v), -1)[known], atol=0.01)


def test_behind_and_beyond_the_lens_there_is_no_pixel() -> None:
    camera = parse_calibration(device_json()).depth_camera("WFOV_UNBINNED")
    points = np.array([[0, 0, -1.0], [0, 0, 0], [5, 0, 1], [np.nan, 0, 1], [0.1, 0, 1]])
    assert np.isnan(camera.project(points)).any(axis=1).tolist() == [True] * 4 + [False]


def test_old_devices_gave_the_colour_sensor_as_wide() -> None:
    old = made_calibration()
    camera = old["CalibrationInformation"]["Cameras"][1]
    camera["SensorHeight"] = 2304
    model = camera["Intrinsics"]["ModelParameters"]
    model[1], model[3] = (model[1] * 3072 - 384) / 2304, model[3] * 3072 / 2304
    got = parse_calibration(json.dumps(old).encode()).color_camera("720P")
    expected = parse_calibration(device_json()).color_camera("720P")
    assert (got.cy, got.fy) == pytest.approx((expected.cy, expected.fy))


def _cameras(calibration: Any) -> Any:
    return calibration["CalibrationInformation"]["Cameras"]


def _parameters(calibration: Any, camera: int) -> Any:
    return _cameras(calibration)[camera]["Intrinsics"]["ModelParameters"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: _cameras(c).pop(), "of 0 colour cameras instead of one"),
        (lambda c: _cameras(c).append(_cameras(c)[0]), "of 2 depth cameras instead of one"),
        (lambda c: _cameras(c)[0].update(SensorWidth=640), "of a 640x1024 depth sensor"),
        (lambda c: _cameras(c)[1].update(SensorWidth=99), "of a 99x3072 colour sensor"),
        (lambda c: _parameters(c, 0).pop(), "needs 14 finite lens parameters"),
        (lambda c: _parameters(c, 1).__setitem__(4, 1e300), "needs 14 finite lens parameters"),
        (lambda c: _parameters(c, 1).__setitem__(2, 0), "impossible centre or focal length"),
        (lambda c: _parameters(c, 1).__setitem__(10, 0.1), "a centre of distortion"),
        (lambda c: _cameras(c)[0]["Rt"].update(Rotation=[1] * 9), "its rotation is none"),
        (
            lambda c: _cameras(c)[1]["Rt"].update(Rotation=[1, 0, 0, 0, 1, 0, 0, 0, -1]),
            "its rotation is none",
        ),
        (lambda c: _cameras(c)[1]["Rt"].update(Rotation=[1]), "9 numbers of rotation"),
        (lambda c: _cameras(c)[1]["Rt"].update(Translation=[9, 0, 0]), "its translation"),
        (
            lambda c: _cameras(c)[0]["Intrinsics"].update(ModelType="Theta"),
            "unknown lens model 'Theta'",
        ),
        (lambda c: _cameras(c)[0].update(SensorWidth="wide"), "Expected `int`, got `str`"),
    ],
)
def test_what_cannot_be_a_calibration_is_named(
    spoil: Callable[[Any], object], message: str
) -> None:
    calibration = made_calibration()
    spoil(calibration)
    with pytest.raises(DatasetError, match=message) as caught:
        parse_calibration(json.dumps(calibration).encode())
    assert "\n" not in str(caught.value)


def test_size_and_modes_are_limited() -> None:
    with pytest.raises(DatasetError, match="of 1048577 bytes"):
        parse_calibration(b" " * (MAX_CALIBRATION_BYTES + 1))
    calibration = parse_calibration(device_json())
    with pytest.raises(DatasetError, match="depth mode 'PASSIVE_IR'; known: NFOV_2X2BINNED"):
        calibration.depth_camera("PASSIVE_IR")
    with pytest.raises(DatasetError, match="colour mode '4K'; known: 720P"):
        calibration.color_camera("4K")


# --- fuzz


def holds_or_is_refused(data: bytes) -> None:
    try:
        calibration = parse_calibration(data)
    except DatasetError as error:
        if "\n" in str(error):
            raise AssertionError(repr(str(error))) from error
        return
    assert isinstance(calibration, Calibration)
    assert np.isfinite(calibration.rotation).all()
    assert np.isfinite(calibration.translation).all()
    for camera in (calibration.depth_camera("NFOV_2X2BINNED"), calibration.color_camera("720P")):
        assert isinstance(camera, Camera)
        assert math.isfinite(camera.fx + camera.fy + camera.cx + camera.cy)
        pixels = camera.project(np.array([[0.01, 0.02, 1.0], [3.0, 0, 1.0]]))
        assert not np.isinf(pixels).any()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    holds_or_is_refused(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_valid_calibrations_with_changes(data: st.DataObject) -> None:
    text = bytearray(device_json())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        change = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"9", b"-", b"e9", b'"', b"null"]))
        )
        text[at : at + data.draw(st.integers(0, 4))] = change
        if not text:
            break
    holds_or_is_refused(bytes(text))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 1),
    st.lists(
        st.tuples(st.integers(0, 13), st.floats(allow_nan=False, allow_infinity=False, width=32)),
        max_size=5,
    ),
    st.floats(-1e9, 1e9),
)
def test_any_numbers_in_a_lens(
    camera: int, changes: list[tuple[int, float]], radius: float
) -> None:
    calibration = made_calibration()
    for at, value in changes:
        _parameters(calibration, camera)[at] = value
    _cameras(calibration)[camera]["MetricRadius"] = radius
    holds_or_is_refused(json.dumps(calibration).encode())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av", reason="needs PyAV")
    color = np.full((720, 1280, 3), 90, dtype=np.uint8)
    depth = np.full((288, 320), 700, dtype=np.uint16)
    path = tmp_path_factory.mktemp("mkv") / "small.mkv"
    mode, size = "NFOV_2X2BINNED", (320, 288)
    return write_azure(path, device_json(), [(color, depth)], depth_mode=mode, depth_size=size)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_recordings_with_changes(small: Path, data: st.DataObject) -> None:
    """Tracks, attachment and tags are in the first bytes; the images' are few and large."""
    changed = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, 4000))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = small.with_name("changed.mkv")
    path.write_bytes(changed[: data.draw(st.integers(0, len(changed)))])
    try:
        with AzureRecording(path) as recording:
            for frame in recording.frames():
                assert frame.depth_mm.shape == (288, 320)
                assert frame.color.shape == (720, 1280, 3)
    except DatasetError as error:
        if "\n" in str(error):
            raise AssertionError(repr(str(error))) from error
