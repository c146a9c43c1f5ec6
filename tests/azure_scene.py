"""A hand at a known distance before an Azure Kinect: a photo on a board."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.base import Sample
from hgr_drivers.kinect.azure import AzureDriver

from hgr_stream import skeleton
from hgr_stream.datasets.azure_calibration import parse_calibration
from tests.azure_calibration import device_json
from tests.kinect_files import keypoints, photo

PHOTO = "1402.jpg"


@pytest.fixture(scope="module")
def hand_photo(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = shared_data / "devices/hands/onehand10k"
    truth = keypoints(folder / "test_onehand10k.json")[PHOTO]
    return photo(folder / PHOTO), truth[:, :2]


def scene(
    hand_photo: tuple[np.ndarray, np.ndarray], plane_m: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo of a hand on a board that stands ``plane_m`` before the colour camera, and a wall
    behind it: colour (720, 1280, 3), depth mm (576, 640), the hand's 21 points in the image."""
    image, points = hand_photo
    calibration = parse_calibration(device_json())
    color = calibration.color_camera("720P")
    scale, left, top = 1.2, 500, 150  # as large as an average hand is at half a metre
    height, width = (round(n * scale) for n in image.shape[:2])
    rows = (np.arange(height) / scale).astype(int)
    columns = (np.arange(width) / scale).astype(int)
    frame = np.full((720, 1280, 3), 96, dtype=np.uint8)
    frame[top : top + height, left : left + width] = image[rows[:, None], columns]

    depth = calibration.depth_camera("NFOV_UNBINNED")
    rays = np.concatenate((depth.rays(), np.ones((depth.height, depth.width, 1))), axis=-1)
    turned = rays @ calibration.rotation.T
    z = (1.4 - calibration.translation[2]) / turned[..., 2]
    board = (plane_m - calibration.translation[2]) / turned[..., 2]
    pixel = color.project(turned * board[..., None] + calibration.translation)
    on_board = ((pixel > (left, top)) & (pixel < (left + width, top + height))).all(axis=-1)
    millimetres = np.where(on_board, board, z) * 1000
    return frame, np.round(millimetres).astype(np.uint16), points * scale + (left, top)


def check_hand(sample_joints: np.ndarray, plane_m: float) -> None:
    palm = sample_joints[skeleton.PALM]
    # The joints lie some way under the skin, which is where the board is.
    assert plane_m * 0.98 < palm[2] < plane_m + 0.03
    assert skeleton.chirality(sample_joints) > 0
    bones = skeleton.bone_lengths(sample_joints)
    assert (bones > 0.005).all()
    assert (bones < 0.13).all()


def samples(driver: AzureDriver, count: int) -> list[Sample]:
    out: list[Sample] = []
    for _ in range(2000):
        if (sample := driver.read(0.05)) is not None:
            out.append(sample)
        if len(out) == count:
            return out
    raise AssertionError(f"{len(out)} of {count} samples came")
