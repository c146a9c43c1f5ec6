"""Real photos of hands as a camera's images, and where their hands could be: for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hgr_drivers.vision.landmarks import HandLandmarker
from hgr_drivers.vision.lifter import Intrinsics, lift
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def open_hand(shared_data: Path, height: int = 400) -> Image:
    """A right hand that makes a ring, palm to the camera, in an image of 480 x 640 (RGB)."""
    return framed(photo(shared_data / "devices/hands/onehand10k/1402.jpg", height))


def open_hand_points(shared_data: Path, height: int = 400) -> NDArray[np.float64]:
    """(21, 2) where people saw that hand's points, in pixels of the image."""
    folder = shared_data / "devices/hands/onehand10k"
    known = json.loads((folder / "test_onehand10k.json").read_text())
    [image] = [i for i in known["images"] if i["file_name"] == "1402.jpg"]
    [hand] = [a for a in known["annotations"] if a["image_id"] == image["id"]]
    points = np.array(hand["keypoints"], dtype=float).reshape(21, 3)[:, :2]
    scale = height / image["height"]
    left = (640 - round(image["width"] * scale)) // 2
    return (points + 0.5) * scale - 0.5 + [left, (480 - height) // 2]


def photo(path: Path, height: int) -> Image:
    import cv2

    image = cv2.imread(str(path))
    assert image is not None, path
    wide = round(image.shape[1] * height / image.shape[0])
    out: Image = cv2.resize(image, (wide, height))[:, :, ::-1]
    return out


def framed(image: Image, left: int | None = None) -> Image:
    """An image in the middle (or from column ``left`` on) of a white one of 480 x 640."""
    out = np.full((480, 640, 3), 255, dtype=np.uint8)
    top = (480 - image.shape[0]) // 2
    left = (640 - image.shape[1]) // 2 if left is None else left
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


def two_hands(shared_data: Path, height: int = 300) -> Image:
    """The same hand to the right, and its mirror image, a left hand, to the left."""
    one = photo(shared_data / "devices/hands/onehand10k/1402.jpg", height)
    out = framed(one, left=360)
    return np.where(out == 255, framed(one[:, ::-1], left=80), out)


def true_points(
    image: Image, seen_at: NDArray[np.floating] | None, camera: Intrinsics, larger: float = 1.05
) -> list[NDArray[np.float64]]:
    """The hands of a photo as if they had been before the camera: (21, 3) in its axes, each.

    Their shape is what MediaPipe's exact model makes of the photo, which the fast one that drivers
    use does not see; their size ``larger`` than average; their place in the image ``seen_at``, the
    points as people saw them, or for several hands MediaPipe's."""
    landmarker = HandLandmarker(complexity=1)
    try:
        for i in range(6):
            hands = landmarker.process(image, i)
    finally:
        landmarker.close()
    out = []
    for hand in sorted(hands, key=lambda hand: hand.side):
        joints = lift(hand, None, camera, size=larger).joints[[0, *range(2, 22)], 2:]
        pixels = hand.image_points if seen_at is None else seen_at
        z = joints.astype(np.float64)
        out.append(np.hstack([camera.rays(pixels) * z, z]))
    return out
