"""Files as other programs write them, made from plain hands: for the tests of the importers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hgr_stream.datasets.openxr import NAMES
from hgr_stream.skeleton import MEDIAPIPE_21, OPENXR_26, Float32, Side
from tests.hands import hand_joints

#: The canonical joint of each of the source's points.
_OF_21 = {point: joint for joint, point in enumerate(MEDIAPIPE_21) if point >= 0}
_OF_26 = {point: joint for joint, point in enumerate(OPENXR_26) if point >= 0}


def points21(joints: Float32) -> Float32:
    """Canonical joints in a camera's axes, (21, 3) metres."""
    points = np.array([joints[_OF_21[i]] for i in range(21)])
    return points * np.array([-1, -1, 1], dtype=np.float32)


def pixels(joints: Float32, *, scale: float = 900.0, at: tuple[float, float] = (640, 360)) -> Any:
    """As a camera sees it from the front: (21, 2); a raised hand, not one that points at it."""
    points = np.array([joints[_OF_21[i]] for i in range(21)])
    flat = np.stack([-points[:, 0], points[:, 2]], axis=1)
    return flat * scale + np.array(at)


def flat_hand(x: float = 0.0, side: Side = "right", *, at: tuple[float, float] = (640, 360)) -> Any:
    """(21, 3): x, y, confidence."""
    points = pixels(hand_joints(x, side=side), at=at)
    return np.column_stack([points, np.full(21, 0.8)])


def openpose_person(
    right: Any = None, left: Any = None, *, person_id: Any = (-1,), body: Any = ()
) -> dict[str, Any]:
    def flat(hand: Any) -> list[float]:
        return [] if hand is None else np.round(hand, 3).ravel().tolist()

    return {
        "person_id": list(person_id) if isinstance(person_id, tuple) else person_id,
        "pose_keypoints_2d": list(body),
        "face_keypoints_2d": [],
        "hand_left_keypoints_2d": flat(left),
        "hand_right_keypoints_2d": flat(right),
        "pose_keypoints_3d": [],
        "hand_left_keypoints_3d": [],
        "hand_right_keypoints_3d": [],
    }


def openpose(*people: dict[str, Any]) -> str:
    return json.dumps({"version": 1.3, "people": list(people)})


def openpose_name(number: int, video: str = "video") -> str:
    return f"{video}_{number:012d}_keypoints.json"


def alphapose(n: int = 5, *, points: int = 136) -> list[dict[str, Any]]:
    start = {133: (91, 112), 136: (94, 115)}[points]
    people = []
    for i in range(n):
        values = np.zeros((points, 3))
        values[:17] = (640, 100, 0.9)
        values[start[0] : start[0] + 21] = flat_hand(0.01 * i, "left", at=(500, 360))
        values[start[1] : start[1] + 21] = flat_hand(0.01 * i)
        people.append(
            {
                "image_id": f"{i}.jpg",
                "category_id": 1,
                "keypoints": np.round(values, 3).ravel().tolist(),
                "score": 2.9,
                "box": [1, 2, 3, 4],
                "idx": [0.0],
            }
        )
    return people


def mmpose(n: int = 5) -> list[dict[str, Any]]:
    frames = []
    for i, person in enumerate(alphapose(n, points=133)):
        values = np.array(person["keypoints"]).reshape(-1, 3)
        instance = {
            "keypoints": values[:, :2].tolist(),
            "keypoint_scores": values[:, 2].tolist(),
            "bbox": [[0, 0, 1, 1]],
            "bbox_score": 0.9,
        }
        frames.append({"frame_id": i, "instances": [instance]})
    return frames


def mediapipe(
    n: int = 5,
    *,
    side: Side = "right",
    label: str = "Right",
    world: bool = True,
    api: str = "tasks",
) -> list[dict[str, Any]]:
    """Frames as one of the APIs has them: "tasks", "js", "legacy" or "legacy-js"."""
    image_key, world_key, label_key = {
        "tasks": ("hand_landmarks", "hand_world_landmarks", "handedness"),
        "js": ("landmarks", "worldLandmarks", "handednesses"),
        "legacy": ("multi_hand_landmarks", "multi_hand_world_landmarks", "multi_handedness"),
        "legacy-js": ("multiHandLandmarks", "multiHandWorldLandmarks", "multiHandedness"),
    }[api]
    frames = []
    for i in range(n):
        joints = hand_joints(0.01 * i, side=side)[:, [0, 2, 1]] * (1, -1, 1)  # raised
        metres = points21(joints)
        metres = metres - metres.mean(axis=0)
        flat = points21(joints)[:, :2] * (1.0, 4 / 3) + 0.5
        image = [{"x": float(x), "y": float(y), "z": 0.0} for x, y in flat]
        points = [{"x": float(x), "y": float(y), "z": float(z)} for x, y, z in metres]
        told: Any = [{"category_name": label, "score": 0.9, "index": 0}]
        if api == "js":
            told = [{"categoryName": label, "score": 0.9}]
        elif api == "legacy":
            told = {"classification": [{"label": label, "score": 0.9, "index": 0}]}
            image, points = {"landmark": image}, {"landmark": points}  # type: ignore[assignment]
        elif api == "legacy-js":
            told = {"label": label, "score": 0.9}
        frame: dict[str, Any] = {"timestamp_ms": 40 * i, "width": 640, "height": 480}
        frame |= {image_key: [image], label_key: [told]}
        if world:
            frame[world_key] = [points]
        frames.append(frame)
    return frames


def points26(joints: Float32) -> Float32:
    """Canonical joints as OpenXR's 26; those that we have not are near their neighbours."""
    return np.array(
        [joints[_OF_26[i]] if i in _OF_26 else joints[_OF_26[i + 1 if i else 1]] for i in range(26)]
    )


def openxr_json(n: int = 5, side: Side = "right") -> list[dict[str, Any]]:
    return [
        {
            "time": 0.02 * i,
            "hands": [
                {"side": side, "joints": points26(hand_joints(0.01 * i, side=side)).tolist()}
            ],
        }
        for i in range(n)
    ]


def openxr_csv(n: int = 5, side: Side = "right") -> str:
    names = [f"{name}_{axis}" for name in NAMES for axis in "xyz"]
    lines = [",".join(["time", "side", *names])]
    for i in range(n):
        values = points26(hand_joints(0.01 * i, side=side)).ravel()
        lines.append(",".join([f"{0.02 * i:.3f}", side, *(f"{v:.5f}" for v in values)]))
    return "\n".join(lines) + "\n"


def bvh(n: int = 4, *, name: str = "{side}Hand{finger}{number}", six: bool = False) -> str:
    """A skeleton that faces +z in centimetres, its palms down and fingers bent about the side."""
    lines = ["HIERARCHY", "ROOT Hips", "{", "OFFSET 0 0 0"]
    lines.append("CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation")
    columns = ["root"]
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        lines += [f"JOINT {side}Hand", "{", f"OFFSET {sign * 60} 50 0"]
        lines.append("CHANNELS 3 Zrotation Xrotation Yrotation")
        columns.append("wrist")
        for finger, z in (("Thumb", 3), ("Index", 2), ("Middle", 0), ("Ring", -2), ("Pinky", -4)):
            x = 2.5 if finger == "Thumb" else 9.0
            for number, length in ((1, x), (2, 4.0), (3, 3.0)):
                at = (sign * length, 0, z if number == 1 else 0)
                joint = name.format(side=side, finger=finger, number=number)
                lines += [f"JOINT {joint}", "{", f"OFFSET {at[0]} {at[1]} {at[2]}"]
                if six:
                    lines.append(
                        "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation"
                    )
                    columns.append(f"six {at[0]} {at[1]} {at[2]} {-20 * sign}")
                else:
                    lines.append("CHANNELS 3 Zrotation Xrotation Yrotation")
                    columns.append(f"bend {-20 * sign}")
            lines += ["End Site", "{", f"OFFSET {sign * 2.5} 0 0", "}", *["}"] * 3]
        lines.append("}")
    lines += ["}", "MOTION", f"Frames: {n}", "Frame Time: 0.01"]
    for t in range(n):
        row: list[str] = []
        for column in columns:
            kind, *rest = column.split()
            if kind == "root":
                row += ["0", f"{100 + t}", "0", "0", "0", "0"]
            elif kind == "wrist":
                row += ["0", "0", "0"]
            elif kind == "bend":
                row += [rest[0], "0", "0"]
            else:
                row += [*rest, "0", "0"]
        lines.append(" ".join(row))
    return "\n".join(lines) + "\n"
