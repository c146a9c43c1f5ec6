"""Orbbec's cameras without one: the SDK itself, its words and its arithmetic."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hgr_drivers import orbbec
from hgr_drivers.base import DeviceError
from hgr_drivers.orbbec import OrbbecDriver, OrbbecOptions, alignment, device_error, to_rgb

from hgr_stream import config
from tests.kinect_files import jpeg

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sdk() -> Any:
    pytest.importorskip("pyorbbecsdk", reason="needs pyorbbecsdk2")
    return orbbec._sdk()


def fails(**options: Any) -> DeviceError:
    with closing(OrbbecDriver(msgspec.convert(options, OrbbecOptions))) as driver:
        with pytest.raises(DeviceError) as caught:
            driver.open()
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)
    assert "\n" not in str(caught.value)
    return caught.value


# --- the SDK, without a device


def test_absent_camera(sdk: Any) -> None:
    assert OrbbecDriver.find() == []
    error = fails(serial="CL8E000")
    assert str(error) == "no Orbbec camera is plugged in"
    assert "99-obsensor-libusb.rules" in error.cure
    assert not error.fatal
    with pytest.raises(RuntimeError, match="No device found") as caught:
        sdk.Pipeline()
    assert str(device_error(str(caught.value))) == "no Orbbec camera is plugged in"


def test_files_that_are_no_recordings(sdk: Any, tmp_path: Path) -> None:
    assert "no such file" in str(fails(file=str(tmp_path / "absent.bag")))
    text = tmp_path / "text.bag"
    text.write_text("hello\n")
    error = fails(file=str(text))
    assert "no Orbbec recording" in str(error)
    assert error.fatal


def test_the_sdk_neither_talks_nor_writes(sdk: Any, tmp_path: Path) -> None:
    """It greets on standard output and leaves a folder of logs, if it is let."""
    code = "from hgr_drivers.orbbec import OrbbecDriver; print(OrbbecDriver.find())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    orbbec._sdk.cache_clear()
    monkeypatch.setitem(sys.modules, "pyorbbecsdk", None)
    error = fails()
    assert error.fatal
    assert error.cure == 'pip install "hgr-stream[orbbec]"'
    with pytest.raises(DeviceError, match="pyorbbecsdk2"):
        OrbbecDriver.find()
    orbbec._sdk.cache_clear()


@pytest.mark.parametrize(
    ("said", "message", "cure"),
    [
        ("uvc_open failed: LIBUSB_ERROR_ACCESS", "no permission", "99-obsensor"),
        ("usb device is busy!", "used by another program", "OrbbecViewer"),
        ("Device is deactivated/disconnected!", "lost the Orbbec camera", "plug it in"),
        ("something new", "the Orbbec camera fails: something new", "OrbbecViewer"),
    ],
)
def test_what_the_sdk_says_becomes_a_cure(said: str, message: str, cure: str) -> None:
    error = device_error(said)
    assert message in str(error)
    assert cure in error.cure
    assert not error.fatal


# --- its calibration and its images


def profile(sdk: Any, size: tuple[int, int], focal: float, lens: list[float]) -> Any:
    """What the driver asks of a ``VideoStreamProfile``, with the SDK's own structs."""
    pinhole, distortion = sdk.OBCameraIntrinsic(), sdk.OBCameraDistortion()
    pinhole.width, pinhole.height = size
    pinhole.fx, pinhole.fy = focal, focal * 1.001
    pinhole.cx, pinhole.cy = size[0] / 2 + 3, size[1] / 2 - 2
    for name, value in zip(("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"), lens, strict=True):
        setattr(distortion, name, value)
    return SimpleNamespace(get_intrinsic=lambda: pinhole, get_distortion=lambda: distortion)


def test_alignment_is_the_sdks_own(sdk: Any) -> None:
    """A point of the depth camera lands where the SDK's ``transformation3dto2d`` puts it. (It takes
    a lens into account only by its model, which Python cannot set: here there are none.)"""
    depth = profile(sdk, (640, 576), 504.0, [0.0] * 8)
    color = profile(sdk, (1280, 720), 748.0, [0.0] * 8)
    extrinsic = sdk.OBExtrinsic()
    angle = np.radians(5.8)
    extrinsic.rot = np.array(
        [[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]],
        dtype=np.float32,
    )
    extrinsic.transform = np.array([-32.6, -1.5, 2.1], dtype=np.float32)
    depth.get_extrinsic_to = lambda _: extrinsic
    aligned = alignment(depth, color)
    for x, y, z in ((0.0, 0.0, 500.0), (150.0, -90.0, 700.0), (-200.0, 60.0, 900.0)):
        expected = sdk.transformation3dto2d(
            sdk.OBPoint3f(x, y, z), color.get_intrinsic(), color.get_distortion(), extrinsic
        )
        point = aligned._rotation @ (np.array([x, y, z]) / 1000) + aligned._translation
        got = aligned.color_camera.project(point)
        assert got == pytest.approx((expected.x, expected.y), abs=0.02)
    # And as an image: a small board lies where its middle is projected to.
    image = np.zeros((576, 640), dtype=np.uint16)
    image[270:300, 330:360] = 600
    rows, columns = np.nonzero(aligned.depth(image))
    u, v = (345 - 323) / 504 * 600, (285 - 286) / 504.5 * 600
    expected = sdk.transformation3dto2d(
        sdk.OBPoint3f(u, v, 600.0), color.get_intrinsic(), color.get_distortion(), extrinsic
    )
    assert (columns.mean(), rows.mean()) == pytest.approx((expected.x, expected.y), abs=2.5)


def test_lens_is_opencvs(sdk: Any) -> None:
    given = profile(sdk, (1280, 720), 700.0, [1, 2, 3, 4, 5, 6, 7, 8])
    camera = orbbec.camera(given.get_intrinsic(), given.get_distortion())
    assert (camera.radial, camera.tangential) == ((1, 2, 3, 4, 5, 6), (7, 8))
    assert (camera.width, camera.height, camera.cx, camera.cy) == (1280, 720, 643, 358)


def test_camera_without_calibration_is_refused(sdk: Any) -> None:
    empty = profile(sdk, (640, 480), 0.0, [0.0] * 8)
    with pytest.raises(DeviceError, match="no calibration"):
        orbbec.camera(empty.get_intrinsic(), empty.get_distortion())


def test_images_of_each_format() -> None:
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[:, :32] = (200, 40, 60)
    image[:, 32:] = (20, 180, 90)
    alpha = np.full((48, 64, 1), 255, np.uint8)
    size = (64, 48)
    for format, data in (
        ("RGB", image),
        ("BGR", image[:, :, ::-1]),
        ("RGBA", np.concatenate((image, alpha), axis=2)),
        ("BGRA", np.concatenate((image[:, :, ::-1], alpha), axis=2)),
    ):
        np.testing.assert_array_equal(to_rgb(format, data.tobytes(), *size), image)
    decoded = to_rgb("MJPG", jpeg(image), *size)
    assert decoded is not None
    assert np.abs(decoded[:, 4:28].astype(int) - image[:, 4:28]).max() < 16
    grey = np.full((48, 64, 2), 128, np.uint8)
    for format in ("YUYV", "UYVY"):
        converted = to_rgb(format, grey.tobytes(), *size)
        assert converted is not None
        assert np.ptp(converted) < 4
    for format, data in (
        ("RGB", b"short"),
        ("MJPG", b"\xff\xd8 no JPEG"),
        ("MJPG", b""),
        ("MJPG", jpeg(image[:24])),
        ("H264", b"\0" * 100),
        ("UNKNOWN_FORMAT", b""),
    ):
        assert to_rgb(format, data, *size) is None


def test_config_file_shows_the_defaults() -> None:
    text = (ROOT / "configs" / "orbbec.toml").read_text()
    head = text.partition("# A second")[0]
    table = config.parse(re.sub(r"^# (?=\w+ = )", "", head, flags=re.MULTILINE)).devices["orbbec"]
    assert table.pop("driver") == OrbbecDriver.name
    assert msgspec.convert(table, OrbbecOptions) == OrbbecOptions()
    assert set(table) == set(OrbbecOptions.__struct_fields__)
