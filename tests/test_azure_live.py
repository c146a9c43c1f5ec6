"""The Azure Kinect live, without one: its SDK's interface in a library that is built here."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.kinect import k4a
from hgr_drivers.kinect.azure import AzureDriver, AzureOptions

from tests.azure_calibration import device_json
from tests.azure_scene import check_hand, hand_photo, samples, scene

__all__ = ["hand_photo"]  # a fixture


def test_without_the_sdk_the_cure_is_told() -> None:
    with pytest.raises(DeviceError) as caught:
        AzureDriver(AzureOptions(library="/nowhere/libk4a.so")).open()
    assert caught.value.fatal
    assert "Sensor SDK 1.4" in caught.value.cure
    assert "recordings (file = ...) need none" in caught.value.cure
    with pytest.raises(DeviceError, match="cannot load"):
        k4a.installed("/nowhere/libk4a.so")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the SDK's functions, which shows images from files."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler for the stand-in of libk4a")
    folder = tmp_path_factory.mktemp("k4a")
    source, library = folder / "k4a.c", folder / "libk4a.so"
    source.write_text((Path(__file__).parent / "k4a_double.c").read_text())
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True
    )
    return library


@pytest.fixture
def plugged(
    sdk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hand_photo: tuple[np.ndarray, np.ndarray],
) -> Path:
    frame, millimetres, _ = scene(hand_photo)
    bgra = np.concatenate((frame[:, :, ::-1], np.full((720, 1280, 1), 255, np.uint8)), axis=2)
    (tmp_path / "color").write_bytes(bgra.tobytes())
    (tmp_path / "depth").write_bytes(millimetres.tobytes())
    (tmp_path / "calibration").write_bytes(device_json() + b"\0")
    monkeypatch.setenv("K4A_DOUBLE", str(tmp_path))
    monkeypatch.setenv("K4A_DOUBLE_COUNT", "2")
    monkeypatch.setenv("K4A_DOUBLE_CAPTURES", "30")
    return sdk


def test_live_through_the_sdk(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = AzureOptions(library=str(plugged), serial="000001")
    with closing(AzureDriver(options)) as driver:
        driver.open()
        got = samples(driver, 3)
        times = [s.device_ns for s in got]
        assert times == sorted(set(times))
        assert all(t % 33_333_000 == 0 for t in times if t is not None)
        for sample in got:
            [hand] = sample.hands
            assert (hand.id, hand.lacks) == (1, ())
            check_hand(hand.joints, 0.5)
        with pytest.raises(DeviceError, match="lost the Azure Kinect 000001"):
            samples(driver, 100)
        assert driver.counts()["pictures_incomplete"] >= 1
        driver.open()  # plugged in again
        assert samples(driver, 1)
    with pytest.raises(DeviceError, match="000009 is not plugged in; there is 000000, 000001"):
        AzureDriver(AzureOptions(library=str(plugged), serial="000009")).open()
    assert k4a.installed(str(plugged)) == 2
    monkeypatch.setenv("K4A_DOUBLE_COUNT", "0")
    with pytest.raises(DeviceError, match="no Azure Kinect is plugged in") as caught:
        AzureDriver(options).open()
    assert "99-k4a.rules" in caught.value.cure
    monkeypatch.setenv("K4A_DOUBLE_COUNT", "-1")
    with pytest.raises(DeviceError, match="1 Azure Kinect plugged in, but none can be opened"):
        AzureDriver(options).open()
    monkeypatch.setenv("K4A_DOUBLE_COUNT", "2")
    with pytest.raises(DeviceError, match=r"does not start \(3072P, NFOV_UNBINNED, 30") as caught:
        AzureDriver(AzureOptions(library=str(plugged), color="3072P")).open()
    assert "OpenGL 4.4" in caught.value.cure
