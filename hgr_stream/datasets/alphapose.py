"""Whole bodies as JSON: AlphaPose's results, and MMPose's, with the hands of 133 or 136 points.

Two forms, told apart by their fields:

- AlphaPose: a list of people, ``{"image_id": "12.jpg", "keypoints": [x, y, c, ...], "score",
  "box", "idx"}``; all people of an image bear its ``image_id``, whose number is the frame's.
  ``idx`` is the person's number when it ran with tracking. Its formats ``cmu`` and ``open`` leave
  the hands out.
- MMPose (``inferencer(..., pred_out_dir=...)``): a list of frames, ``{"frame_id", "instances":
  [{"keypoints": [[x, y], ...], "keypoint_scores": [c, ...], "bbox", "bbox_score"}]}``, by itself
  or as ``instance_info`` of an object. ``track_id`` or ``instance_id`` of a person is used.

The number of points names the model: 133 COCO-WholeBody (left hand 91-111, right 112-132), 136
Halpe (94-114, 115-135), 21 one hand of a side that nobody knows. Others have no hands. There is
no time in them. What is missing, who is who, scale and place: see ``people``.

Sources: AlphaPose ``docs/output.md``; MMPose ``inference`` guide; COCO-WholeBody (Jin et al.,
2020); Halpe (Fang et al., 2022).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from ..skeleton import Side
from .base import DatasetError, HandFrames
from .files import DEFAULT_FPS, MAX_FRAME, Faults, decode_item, json_items
from .people import Person, Picture, Points, read_hand, recording

#: Number of points -> where the 21 of each hand begin.
HANDS: Final[dict[int, tuple[tuple[Side, int], ...]]] = {
    133: (("left", 91), ("right", 112)),
    136: (("left", 94), ("right", 115)),
    21: (("unknown", 0),),
}
_NUMBER: Final = re.compile(r"([0-9]{1,15})[^0-9]*$")


class _Alpha(msgspec.Struct):
    image_id: str | int
    keypoints: list[float]
    idx: float | list[float] | None = None


class _Instance(msgspec.Struct):
    keypoints: list[list[float]]
    keypoint_scores: list[float] = []
    track_id: int | None = None
    instance_id: int | None = None


class _Moment(msgspec.Struct):
    instances: list[_Instance]
    frame_id: int | None = None


class _Either(msgspec.Struct):
    """To tell the forms apart."""

    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    keypoints: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    people: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    bodies: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def load_alphapose(path: Path, fps: float | None = None) -> list[HandFrames]:
    """One file, as one recording. ``fps``: frames a second, as the file does not tell it [30].

    Raises DatasetError naming file and fault; people and frames that cannot be read are left out
    and counted in the notes.
    """
    path = Path(path)
    notes: list[str] = []
    found = json_items(path, notes, ("instance_info",))
    if not found.items:
        raise DatasetError(f"{path}: holds no frames")
    faults = Faults()
    people: defaultdict[int, list[Person]] = defaultdict(list)
    for position, text in enumerate(found.items):
        try:
            _add(text, position, people, faults)
        except DatasetError as error:
            faults.add(f"of {len(found.items)} items unreadable", str(error))
    if not people:
        raise DatasetError(f"{path}: no people of AlphaPose or MMPose: {'; '.join(faults.notes())}")
    step_ns = 1e9 / (fps or DEFAULT_FPS)
    pictures = [Picture(round(n * step_ns), n, people[n]) for n in sorted(people)]
    out = recording(re.sub(r"(\.json)?(\.gz)?$", "", path.name), pictures, faults)
    out.notes[:0] = notes
    return [out]


def _add(
    text: bytes, position: int, people: defaultdict[int, list[Person]], faults: Faults
) -> None:
    form = decode_item(text, _Either)
    if form.bodies is not msgspec.UNSET or form.people is not msgspec.UNSET:
        raise DatasetError("AlphaPose's formats cmu and open have no hands; write the default one")
    if form.instances is not msgspec.UNSET:
        moment = decode_item(text, _Moment)
        number = position if moment.frame_id is None else moment.frame_id
        of = people[_frame(number)]
        for instance in moment.instances:
            if any(len(point) != 2 for point in instance.keypoints):
                faults.add("people refused: points that are not x, y")
                continue
            points = np.array(instance.keypoints, dtype=np.float64).reshape(-1, 2)
            scores = np.array(instance.keypoint_scores or [1.0] * len(points), dtype=np.float64)
            if len(scores) != len(points):
                faults.add("people refused: not a score for each point")
                continue
            id = instance.instance_id if instance.track_id is None else instance.track_id
            _keep(of, id, np.column_stack((points, scores)), faults)
        return
    person = decode_item(text, _Alpha)
    values = np.array(person.keypoints, dtype=np.float64)
    if len(values) % 3:
        raise DatasetError(f"{len(values)} numbers are no list of x, y, confidence")
    idx = person.idx
    if isinstance(idx, list):
        idx = idx[0] if idx else None
    id = int(idx) if idx is not None and 0 <= idx < 2**53 else None
    _keep(people[_image(person.image_id)], id, values.reshape(-1, 3), faults)


def _keep(of: list[Person], id: int | None, points: Points, faults: Faults) -> None:
    starts = HANDS.get(len(points))
    if starts is None:
        known = ", ".join(map(str, HANDS))
        faults.add(f"people without hands: {len(points)} points (with hands: {known})")
        return
    hands = [
        hand
        for side, start in starts
        if (hand := read_hand(points[start : start + 21], side, faults)) is not None
    ]
    with np.errstate(invalid="ignore"):
        seen = (points[:, 2] > 0) & (np.abs(points) < 1e6).all(axis=1)
    of.append(Person(id, points[seen, :2], hands))


def _image(image_id: str | int) -> int:
    """The number of an image: 12 for 12, "12.jpg" and "video_0012.png"."""
    if isinstance(image_id, int):
        return _frame(image_id)
    match = _NUMBER.search(image_id.rpartition(".")[0] or image_id)
    if match is None:
        raise DatasetError(f"image_id {image_id[:40]!r} has no number")
    return _frame(int(match[1]))


def _frame(number: int) -> int:
    if not 0 <= number <= MAX_FRAME:
        raise DatasetError(f"frame number {number} is no count")
    return number
