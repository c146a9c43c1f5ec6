"""Pose files of other programs: the real samples, and every way in which one can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgr_stream.datasets.alphapose import load_alphapose
from hgr_stream.datasets.base import DatasetError, HandFrames
from hgr_stream.datasets.bvh import load_bvh
from hgr_stream.datasets.convert import (
    FORMATS,
    SOURCES,
    Format,
    Report,
    guess_format,
    import_file,
    open_recording,
    open_recordings,
)
from hgr_stream.datasets.finger_names import finger_of
from hgr_stream.datasets.mediapipe import load_mediapipe
from hgr_stream.datasets.openpose import load_openpose
from hgr_stream.datasets.openxr import joint_index, load_openxr
from hgr_stream.recording import Reader, RecordingError
from hgr_stream.skeleton import (
    JOINTS,
    MIDDLE_BASE,
    WRIST,
    Float32,
    Side,
    bone_lengths,
    chirality,
)
from tests.foreign_files import (
    alphapose,
    bvh,
    flat_hand,
    mediapipe,
    mmpose,
    openpose,
    openpose_name,
    openpose_person,
    openxr_csv,
    openxr_json,
)
from tests.hands import hand_joints


def joints_of(recording: HandFrames, side: Side) -> Float32:
    return np.array([h.joints for f in recording.frames for h in f.hands if h.side == side])


def plausible(joints: Float32, *, least_mm: float = 8, most_mm: float = 130) -> None:
    """Every bone's median is a hand's, and the palm is 0.10 m long within a fifth."""
    bones_mm = np.median(bone_lengths(joints), axis=0) * 1e3
    assert bones_mm.min() > least_mm
    assert bones_mm.max() < most_mm
    palm = np.linalg.norm(joints[:, MIDDLE_BASE] - joints[:, WRIST], axis=-1)
    assert 0.075 < np.median(palm) < 0.125


# ---- the real samples ---------------------------------------------------------------------------


def test_the_openpose_folder(shared_data: Path) -> None:
    [recording] = load_openpose(shared_data / "devices/openpose")
    assert recording.name == "video"
    assert [f.index for f in recording.frames] == list(range(9))
    assert [f.time_ns for f in recording.frames[:3]] == [0, 33_333_333, 66_666_667]
    assert {f.stream for f in recording.frames} == {"person0"}
    assert recording.notes == []
    for side in ("left", "right"):
        joints = joints_of(recording, side)
        assert len(joints) == 9
        plausible(joints)
        assert not joints[..., 2].any()
        assert not chirality(joints).any()  # flat: the side is the detector's word
    hands = [h for f in recording.frames for h in f.hands]
    assert {h.lacks for h in hands} == {("depth",), ("depth", "tips")}
    assert 0.2 < min(h.confidence for h in hands) < max(h.confidence for h in hands) < 0.8


def test_the_whole_bodies_of_mmpose(shared_data: Path) -> None:
    [recording] = load_alphapose(shared_data / "devices/mmpose133/SOUP.json", 25)
    assert (recording.name, len(recording.frames), recording.notes) == ("SOUP", 41, [])
    assert recording.frames[-1].time_ns == 1_600_000_000
    for side in ("left", "right"):
        joints = joints_of(recording, side)
        assert len(joints) == 41
        plausible(joints)
        assert not chirality(joints).any()
    assert {h.lacks for f in recording.frames for h in f.hands} == {("depth",)}


def test_the_motion_capture(shared_data: Path) -> None:
    [file] = (shared_data / "devices/bvh").glob("*.bvh")
    [recording] = load_bvh(file)
    assert (len(recording.frames), recording.notes) == (190, [])
    assert recording.frames[1].time_ns == 21_272_260  # Frame Time: 0.02127226
    for side in ("left", "right"):
        joints = joints_of(recording, side)
        plausible(joints)
        assert np.median(np.linalg.norm(joints[:, MIDDLE_BASE] - joints[:, WRIST], axis=1)) == (
            pytest.approx(0.10, abs=1e-4)
        )
        # Bones are as stiff as the skeleton has them.
        assert bone_lengths(joints).std(axis=0).max() < 1e-5
    right, left = joints_of(recording, "right"), joints_of(recording, "left")
    assert np.all(chirality(right) > 0)
    assert not np.any(chirality(left) > 1e-9)  # it stays in its rest pose, flat
    assert np.all(right[:, WRIST, 0] > left[:, WRIST, 0])  # x is the user's right


def test_each_real_sample_is_known_by_itself(shared_data: Path, tmp_path: Path) -> None:
    devices = shared_data / "devices"
    for name, format_, frames in (
        ("openpose", "openpose", 9),
        ("mmpose133", "alphapose", 41),
        ("bvh", "bvh", 190),
        ("mmpose133/SOUP.json", "alphapose", 41),
        ("openpose/video_000000000003_keypoints.json", "openpose", 1),
    ):
        assert guess_format(devices / name) == format_
        out = tmp_path / f"{name.replace('/', '_')}.mcap"
        report = import_file(None, devices / name, out)
        assert (report.format, [w.frames for w in report.written]) == (format_, [frames])
        read = list(open_recording(out).frames)
        assert read == list(open_recording(devices / name).frames)
        assert [f.seq for f in read] == list(range(frames))


def test_mediapipe_on_real_photos(shared_data: Path, tmp_path: Path) -> None:
    """MediaPipe's own result on real hands, right ones all: its labels say left."""
    solutions = pytest.importorskip("mediapipe").solutions
    cv2 = pytest.importorskip("cv2")
    from google.protobuf.json_format import MessageToDict

    frames = []
    with solutions.hands.Hands(static_image_mode=True, min_detection_confidence=0.3) as hands:
        for i, path in enumerate(sorted((shared_data / "devices/hands/freihand").glob("*.jpg"))):
            image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            result = hands.process(image)
            frame: dict[str, Any] = {"frame": i, "width": image.shape[1], "height": image.shape[0]}
            for name in ("multi_hand_landmarks", "multi_hand_world_landmarks", "multi_handedness"):
                frame[name] = [MessageToDict(hand) for hand in getattr(result, name) or []]
            frames.append(frame)
    (tmp_path / "photos.json").write_text(json.dumps(frames))
    [recording] = load_mediapipe(tmp_path / "photos.json")
    joints = joints_of(recording, "right")
    assert len(joints) >= 5
    assert not len(joints_of(recording, "left"))
    assert np.all(chirality(joints) > 0)
    plausible(joints)
    assert any("chirality" in note for note in recording.notes)


def test_openxr_joints_of_a_real_headset(shared_data: Path, tmp_path: Path) -> None:
    """SHREC'22's HoloLens sequence through each of the forms gives the same hand."""
    import tarfile

    with tarfile.open(shared_data / "shrec22_online_train.tar.xz") as tar:
        member = next(m for m in tar if m.name.endswith("/17.txt"))
        file = tar.extractfile(member)
        assert file is not None
        (tmp_path / "17.txt").write_bytes(file.read())
    [native] = load_openxr(tmp_path / "17.txt")
    joints = np.asarray(native.joints)  # type: ignore[union-attr]
    raw = np.loadtxt(tmp_path / "17.txt", delimiter=";", usecols=range(80))
    points = raw[:, 2:].reshape(-1, 26, 3)[:, [1, 0, *range(2, 26)]]  # palm first, as OpenXR has it
    frames = [
        {"time": t, "hands": [{"handedness": "right", "joints": p}]}
        for t, p in zip(raw[:, 1].tolist(), points.tolist(), strict=True)
    ]
    (tmp_path / "a.json").write_text(json.dumps(frames))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, frames)))
    for name in ("a.json", "a.jsonl"):
        [recording] = load_openxr(tmp_path / name)
        assert isinstance(recording, HandFrames)
        assert recording.notes == ["hands of left-handed axes (as Unity's): z turned"]
        np.testing.assert_allclose(joints_of(recording, "right"), joints, atol=1e-6)
    plausible(joints, least_mm=5)
    assert np.median(chirality(joints)) > 0


# ---- OpenPose -----------------------------------------------------------------------------------


def folder_of(tmp_path: Path, *frames: str, start: int = 0, video: str = "video") -> Path:
    for i, text in enumerate(frames, start):
        (tmp_path / openpose_name(i, video)).write_text(text)
    return tmp_path


def test_an_openpose_hand_moves_and_has_its_size(tmp_path: Path) -> None:
    frames = [openpose(openpose_person(flat_hand(0.02 * i))) for i in range(10)]
    [recording] = load_openpose(folder_of(tmp_path, *frames), 50)
    joints = joints_of(recording, "right")
    palm = np.linalg.norm(joints[:, MIDDLE_BASE] - joints[:, WRIST], axis=1)
    np.testing.assert_allclose(palm, 0.10, atol=2e-4)
    # The image's left is the user's right: 0.18 m of way, in the hand's own measure (101 mm).
    assert joints[-1, WRIST, 0] - joints[0, WRIST, 0] == pytest.approx(0.18 / 1.01, abs=1e-3)
    assert recording.frames[9].time_ns == 180_000_000


def test_nobody_in_sight_is_a_frame_without_hands(tmp_path: Path) -> None:
    [recording] = load_openpose(folder_of(tmp_path, openpose(), openpose()))
    assert [(f.stream, f.hands) for f in recording.frames] == [("person0", [])] * 2


def test_openpose_without_hand_says_so(tmp_path: Path) -> None:
    [recording] = load_openpose(folder_of(tmp_path, openpose(openpose_person())))
    assert recording.notes == ["1 people without hands (OpenPose needs --hand)"]


def test_missing_numbers_are_gaps_in_time(tmp_path: Path) -> None:
    folder_of(tmp_path, openpose(openpose_person(flat_hand())))
    folder_of(tmp_path, openpose(openpose_person(flat_hand())), start=30)
    [recording] = load_openpose(tmp_path)
    assert [(f.index, f.time_ns) for f in recording.frames] == [(0, 0), (30, 1_000_000_000)]


def test_two_videos_in_a_folder_are_two_recordings(tmp_path: Path) -> None:
    text = openpose(openpose_person(flat_hand()))
    folder_of(tmp_path, text, text, video="a")
    folder_of(tmp_path, text, video="b_2")
    report = import_file("openpose", tmp_path, tmp_path / "out")
    assert [(w.path.name, w.frames) for w in report.written] == [("a.mcap", 2), ("b_2.mcap", 1)]


def written(report: Report) -> dict[str, int]:
    return {one.path.name: one.frames for one in report.written}


def test_recordings_called_alike_in_several_folders_are_named_by_them(tmp_path: Path) -> None:
    for folder, n in (("anna", 3), ("ben/left", 4), ("ben/right", 5)):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "take.json").write_text(json.dumps(openxr_json(n)))
    for _ in range(2):
        report = import_file("openxr", tmp_path / "in", tmp_path / "out", force=True)
        assert written(report) == {
            "anna_take.mcap": 3,
            "ben_left_take.mcap": 4,
            "ben_right_take.mcap": 5,
        }
        frames = {p.name: len(list(Reader(p))) for p in (tmp_path / "out").iterdir()}
        assert frames == written(report)
    assert [one.name for one in report.written] == ["anna/take", "ben/left/take", "ben/right/take"]


def test_videos_called_alike_in_several_openpose_folders_too(tmp_path: Path) -> None:
    text = openpose(openpose_person(flat_hand()))
    for n, folder in enumerate(("anna", "ben", "take"), 1):
        (tmp_path / folder).mkdir()
        folder_of(tmp_path / folder, *[text] * n, video="take")
    report = import_file("openpose", tmp_path, tmp_path / "out")
    assert written(report) == {"anna_take.mcap": 1, "ben_take.mcap": 2, "take.mcap": 3}


def test_nothing_is_written_over_what_the_same_import_wrote(tmp_path: Path) -> None:
    (tmp_path / "take.csv").write_text(openxr_csv(3))
    (tmp_path / "Take.json").write_text(json.dumps(openxr_json(4)))
    with pytest.raises(RecordingError, match=r"take\.csv: would become .*Take\.json now"):
        import_file("openxr", tmp_path, tmp_path / "out", force=True)
    [kept] = (tmp_path / "out").iterdir()
    assert len(list(Reader(kept))) == 4


def missing(*points: int, hand: Any = None) -> Any:
    hand = flat_hand() if hand is None else hand.copy()
    hand[list(points)] = 0
    return hand


@pytest.mark.parametrize(
    ("points", "lacks", "joint"),
    [
        ((8,), ("depth", "tips"), "index_tip"),
        ((4, 20), ("depth", "tips"), "pinky_tip"),
        ((1,), ("depth", "thumb_base"), "thumb_base"),
        ((6,), ("depth",), "index_first"),
        ((11,), ("depth",), "middle_second"),
    ],
)
def test_a_single_missing_point_is_filled_in(
    tmp_path: Path, points: tuple[int, ...], lacks: tuple[str, ...], joint: str
) -> None:
    whole = openpose(openpose_person(flat_hand()))
    [recording] = load_openpose(
        folder_of(tmp_path, whole, openpose(openpose_person(missing(*points))))
    )
    [true], [filled] = (f.hands for f in recording.frames)
    assert (true.lacks, filled.lacks) == (("depth",), lacks)
    off = np.linalg.norm(true.joints - filled.joints, axis=1)
    assert off.max() < 0.02
    assert np.argmax(off) == JOINTS.index(joint) or off[JOINTS.index(joint)] > 0


@pytest.mark.parametrize("points", [(0,), (9,), (5,), (7, 8), (6, 7), (1, 2)])
def test_a_hand_that_misses_too_much_is_refused_and_counted(
    tmp_path: Path, points: tuple[int, ...]
) -> None:
    people = openpose_person(missing(*points), flat_hand(side="left"))
    [recording] = load_openpose(folder_of(tmp_path, openpose(people)))
    assert [[h.side for h in f.hands] for f in recording.frames] == [["left"]]
    assert recording.notes[0].startswith("1 hands refused: the wrist, a finger base or two")


def test_a_hand_hardly_seen_is_refused_and_one_out_of_sight_is_not_counted(tmp_path: Path) -> None:
    faint = flat_hand()
    faint[:, 2] = 0.1
    gone = np.zeros((21, 3))
    [recording] = load_openpose(folder_of(tmp_path, openpose(openpose_person(faint, gone))))
    assert recording.frames[0].hands == []
    assert recording.notes == ["1 hands refused: hardly seen (mean confidence under 0.2)"]


def test_three_dimensional_hands_have_depth(tmp_path: Path) -> None:
    from tests.foreign_files import points21

    person = openpose_person()
    deep = np.column_stack([points21(hand_joints()) * 1000, np.full(21, 0.9)])
    person["hand_right_keypoints_3d"] = deep.ravel().tolist()
    [recording] = load_openpose(folder_of(tmp_path, openpose(person)))
    joints = joints_of(recording, "right")
    assert recording.frames[0].hands[0].lacks == ()
    assert chirality(joints)[0] > 0
    np.testing.assert_allclose(
        bone_lengths(joints)[0], bone_lengths(hand_joints()) / 1.01, atol=2e-4
    )


def test_people_change_their_order_and_keep_their_streams(tmp_path: Path) -> None:
    frames = []
    for i in range(6):
        a = openpose_person(flat_hand(0.001 * i, at=(300, 300)))
        b = openpose_person(
            flat_hand(0.001 * i, at=(900, 300)), flat_hand(side="left", at=(1100, 300))
        )
        frames.append(openpose(*((a, b) if i % 2 else (b, a))))
    report = import_file("openpose", folder_of(tmp_path, *frames), tmp_path / "out.mcap")
    assert [w.frames for w in report.written] == [12]
    read = list(open_recording(tmp_path / "out.mcap").frames)
    for device, sides in (("openpose.person0", ["left", "right"]), ("openpose.person1", ["right"])):
        own = [f for f in read if f.device == device]
        assert [f.seq for f in own] == list(range(6))
        assert all([h.side for h in f.hands] == sides for f in own)
        assert [f.index for f in own] == list(range(6))


def test_the_detectors_own_numbers_win(tmp_path: Path) -> None:
    here, there = flat_hand(at=(300, 300)), flat_hand(at=(900, 300))
    frames = [
        openpose(openpose_person(here, person_id=7), openpose_person(there, person_id=(9,))),
        openpose(openpose_person(here, person_id=(9,)), openpose_person(there, person_id=7)),
    ]
    [recording] = load_openpose(folder_of(tmp_path, *frames))
    x = {(f.index, f.stream): f.hands[0].joints[WRIST, 0] for f in recording.frames}
    assert x[0, "person0"] == pytest.approx(x[1, "person1"])
    assert x[0, "person0"] != pytest.approx(x[1, "person0"])


def test_who_has_left_is_told_as_absent_for_a_second(tmp_path: Path) -> None:
    both = openpose(
        openpose_person(flat_hand(at=(300, 300))), openpose_person(flat_hand(at=(900, 300)))
    )
    one = openpose(openpose_person(flat_hand(at=(300, 300))))
    [recording] = load_openpose(folder_of(tmp_path, both, *[one] * 60))
    second = [f for f in recording.frames if f.stream == "person1"]
    assert [len(f.hands) for f in second] == [1, *[0] * 30]


def test_the_next_person_of_a_stream_has_their_own_size(tmp_path: Path) -> None:
    near, far = flat_hand() * [2, 2, 1], flat_hand() * [0.5, 0.5, 1]
    frames = [near] * 10 + [None] * 40 + [far] * 10
    texts = [openpose(*([] if hand is None else [openpose_person(hand)])) for hand in frames]
    [recording] = load_openpose(folder_of(tmp_path, *texts))
    assert {f.stream for f in recording.frames} == {"person0"}
    palms = [np.linalg.norm(j[MIDDLE_BASE] - j[WRIST]) for j in joints_of(recording, "right")]
    np.testing.assert_allclose(palms, 0.1, rtol=1e-3)


def test_unreadable_files_cost_only_themselves(tmp_path: Path) -> None:
    good = openpose(openpose_person(flat_hand()))
    folder_of(tmp_path, good, good[:-200], "", good, '{"people": 5}')
    [recording] = load_openpose(tmp_path)
    assert [f.index for f in recording.frames] == [0, 3]
    assert recording.notes == [
        "3 of 5 files unreadable; first: video_000000000001_keypoints.json: "
        "Input data was truncated"
    ]
    with pytest.raises(DatasetError, match=r"000001_keypoints\.json: no OpenPose frame"):
        load_openpose(tmp_path / openpose_name(1))


def test_a_bad_person_costs_neither_the_other_nor_the_frame(tmp_path: Path) -> None:
    bad = openpose_person(flat_hand())
    bad["hand_right_keypoints_2d"] = ["x"]
    short = openpose_person(flat_hand()[:20])
    nan = openpose_person(flat_hand() * np.nan)
    good = openpose_person(flat_hand())
    [recording] = load_openpose(folder_of(tmp_path, openpose(bad, short, nan, good)))
    assert sum(len(f.hands) for f in recording.frames) == 1
    assert sorted(recording.notes) == [
        "1 hands refused: not 21 finite points",
        "2 people refused: not as OpenPose writes them",
    ]


# ---- AlphaPose and MMPose -----------------------------------------------------------------------


@pytest.mark.parametrize("points", [133, 136])
def test_alphapose_of_both_models(tmp_path: Path, points: int) -> None:
    path = tmp_path / "results.json"
    people = alphapose(12, points=points)
    path.write_text(json.dumps(people[::-1]))  # the order is the number's, not the file's
    [recording] = load_alphapose(path)
    assert [f.index for f in recording.frames] == list(range(12))
    assert [[h.side for h in f.hands] for f in recording.frames] == [["left", "right"]] * 12
    plausible(joints_of(recording, "right"))
    x = joints_of(recording, "right")[:, WRIST, 0]
    assert np.all(np.diff(x) > 0.005)


def test_people_of_one_image_are_people_of_one_frame(tmp_path: Path) -> None:
    people = alphapose(3)
    other = alphapose(3)
    for person in other:
        person["idx"] = 5
    (tmp_path / "r.json").write_text(json.dumps(people + other))
    read = list(open_recording(tmp_path / "r.json").frames)
    assert [f.device for f in read] == ["alphapose.person0", "alphapose.person1"] * 3


def test_models_without_hands_and_other_formats_are_named(tmp_path: Path) -> None:
    body = {"image_id": "0.jpg", "keypoints": [1.0] * 51, "score": 1.0}
    (tmp_path / "r.json").write_text(json.dumps([body]))
    [recording] = load_alphapose(tmp_path / "r.json")
    assert recording.notes == ["1 people without hands: 17 points (with hands: 133, 136, 21)"]
    (tmp_path / "r.json").write_text(json.dumps({"version": 0.1, "bodies": []}))
    with pytest.raises(DatasetError, match=r"r\.json: .*cmu and open have no hands"):
        load_alphapose(tmp_path / "r.json")


def test_mmpose_alone_and_as_an_object(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(mmpose()))
    (tmp_path / "object.json").write_text(
        json.dumps({"meta_info": {"dataset_name": "x"}, "instance_info": mmpose()})
    )
    [a] = load_alphapose(tmp_path / "list.json")
    [b] = load_alphapose(tmp_path / "object.json")
    assert len(a.frames) == len(b.frames) == 5
    np.testing.assert_array_equal(joints_of(a, "left"), joints_of(b, "left"))


# ---- MediaPipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["tasks", "js", "legacy", "legacy-js"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("label", ["Left", "Right"])
def test_every_api_gives_the_hand_as_it_is(
    tmp_path: Path, api: str, side: Side, label: str
) -> None:
    (tmp_path / "m.json").write_text(json.dumps(mediapipe(api=api, side=side, label=label)))
    [recording] = load_mediapipe(tmp_path / "m.json")
    joints = joints_of(recording, side)
    assert len(joints) == 5
    assert np.all(np.sign(chirality(joints)) == (1 if side == "right" else -1))
    np.testing.assert_allclose(
        bone_lengths(joints)[0], bone_lengths(hand_joints(side=side)), atol=1e-4
    )
    # It moves by 0.04 m across the picture.
    assert joints[-1, WRIST, 0] - joints[0, WRIST, 0] == pytest.approx(0.04, abs=1e-3)
    assert [f.time_ns for f in recording.frames] == [40_000_000 * i for i in range(5)]
    assert recording.frames[0].hands[0].lacks == ()
    assert recording.frames[0].hands[0].confidence == pytest.approx(0.9)


def test_without_world_landmarks_a_hand_is_flat(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(mediapipe(world=False, api="legacy")))
    [recording] = load_mediapipe(tmp_path / "m.json")
    assert {h.lacks for f in recording.frames for h in f.hands} == {("depth",)}
    assert not joints_of(recording, "left")[..., 2].any()  # legacy: "Right" is a left hand
    palm = joints_of(recording, "left")
    assert np.linalg.norm(palm[0, MIDDLE_BASE] - palm[0, WRIST]) == pytest.approx(0.10, abs=0.01)


def test_lines_lists_and_objects_are_one(tmp_path: Path) -> None:
    frames = mediapipe()
    (tmp_path / "a.json").write_text(json.dumps(frames))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, frames)))
    (tmp_path / "b.json").write_text(json.dumps({"fps": 25, "frames": frames}))
    (tmp_path / "c.json").write_text(
        json.dumps([{"timestamp_ms": f.pop("timestamp_ms"), "result": f} for f in mediapipe()])
    )
    (tmp_path / "d.json.gz").write_bytes(gzip.compress(json.dumps(frames).encode()))
    first = load_mediapipe(tmp_path / "a.json")[0]
    for name in ("a.jsonl", "b.json", "c.json", "d.json.gz"):
        [other] = load_mediapipe(tmp_path / name)
        assert [f.time_ns for f in other.frames] == [f.time_ns for f in first.frames]
        np.testing.assert_array_equal(joints_of(other, "right"), joints_of(first, "right"))
    assert guess_format(tmp_path / "a.jsonl") == "mediapipe"


def test_frames_without_time_have_the_given_rate(tmp_path: Path) -> None:
    frames = mediapipe()
    (tmp_path / "m.json").write_text(json.dumps(frames))
    of = [[f.time_ns for f in load_mediapipe(tmp_path / "m.json", n)[0].frames] for n in (None, 10)]
    assert of[0] == of[1], "what has times keeps them"
    for frame in frames:
        del frame["timestamp_ms"]
    (tmp_path / "m.json").write_text(json.dumps(frames))
    assert load_mediapipe(tmp_path / "m.json")[0].frames[3].time_ns == 100_000_000
    assert load_mediapipe(tmp_path / "m.json", 10)[0].frames[3].time_ns == 300_000_000


# ---- BVH ----------------------------------------------------------------------------------------


def test_both_hands_of_a_skeleton(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(bvh())
    [recording] = load_bvh(tmp_path / "a.bvh")
    assert [f.time_ns for f in recording.frames] == [0, 10_000_000, 20_000_000, 30_000_000]
    for side, sign in (("left", -1), ("right", 1)):
        joints = joints_of(recording, side)
        plausible(joints)
        assert np.all(np.sign(chirality(joints)) == sign)
        assert np.all(np.sign(joints[:, WRIST, 0]) == sign)
    # The root rises by 1 cm a frame; a palm of 9 units is 0.10 m.
    y = joints_of(recording, "right")[:, WRIST, 1]
    np.testing.assert_allclose(np.diff(y), 0.10 / 9, atol=1e-5)


def test_six_channels_are_places_and_not_moves(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(bvh())
    (tmp_path / "b.bvh").write_text(bvh(six=True))
    [a], [b] = load_bvh(tmp_path / "a.bvh"), load_bvh(tmp_path / "b.bvh")
    np.testing.assert_allclose(joints_of(a, "left"), joints_of(b, "left"), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("LeftHandIndex1", ("left", "index")),
        ("mixamorig:RightHandPinky3", ("right", "pinky")),
        ("LeftIndexProximal", ("left", "index")),
        ("RightLittleDistal", ("right", "pinky")),
        ("lThumb1", ("left", "thumb")),
        ("RRing2", ("right", "ring")),
        ("f_middle.02.L", ("left", "middle")),
        ("J_Bip_R_Index1", ("right", "index")),
        ("Bip01 L Finger0", ("left", "thumb")),
        ("Bip01 R Finger41", ("right", "pinky")),
        ("thumb_03_l", ("left", "thumb")),
        ("LeftToeMiddle", None),
        ("LeftForeArm", None),
        ("Spine", None),
    ],
)
def test_fingers_are_known_by_their_names(name: str, found: tuple[str, str] | None) -> None:
    assert finger_of(name) == found


@pytest.mark.parametrize(
    "name",
    [
        "mixamorig:{side}Hand{finger}{number}",
        "{finger}_0{number}_{side}",
        "{side} {finger} {number}",
    ],
)
def test_other_names_give_the_same_hands(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.bvh").write_text(bvh())
    (tmp_path / "b.bvh").write_text(bvh(name=name))
    [a], [b] = load_bvh(tmp_path / "a.bvh"), load_bvh(tmp_path / "b.bvh")
    np.testing.assert_array_equal(joints_of(a, "right"), joints_of(b, "right"))


def test_a_cut_last_line_and_missing_frames_are_told(tmp_path: Path) -> None:
    text = bvh(4).replace("Frames: 4", "Frames: 9")
    (tmp_path / "a.bvh").write_text(text[:-40])
    [recording] = load_bvh(tmp_path / "a.bvh")
    assert len(recording.frames) == 3
    assert recording.notes == [
        "a.bvh: its last line is cut short, dropped",
        "a.bvh: 3 frames where the header says 9",
    ]


def test_bvh_lines_that_cannot_be_read_keep_their_time(tmp_path: Path) -> None:
    lines = bvh(6).splitlines()
    for row in (-6, -4, -3):
        lines[row] = "1.#QNAN " * len(lines[row].split())
    (tmp_path / "a.bvh").write_text("\n".join(lines))
    [recording] = load_bvh(tmp_path / "a.bvh")
    assert [(f.time_ns, f.index) for f in recording.frames] == [
        (10_000_000, 2),
        (40_000_000, 5),
        (50_000_000, 6),
    ]
    [note] = recording.notes
    assert "3 frames unreadable, left out" in note


def test_tips_of_no_length_are_extrapolated(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(bvh().replace("OFFSET 2.5 0 0\n}", "OFFSET 0 0 0\n}"))
    [recording] = load_bvh(tmp_path / "a.bvh")
    lacks = {h.side: h.lacks for h in recording.frames[0].hands}
    assert lacks == {"left": ("tips",), "right": ()}
    left = joints_of(recording, "left")
    assert np.linalg.norm(left[0, 9] - left[0, 8]) > 0.015


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hello", "in the hierarchy"),
        ("HIERARCHY\nMOTION\n", "no joints"),
        (bvh().partition("MOTION")[0], "no MOTION part"),
        (bvh().partition("Frame Time")[0], "holds no frames"),
        (bvh().replace("Index", "Toe"), "no index finger"),
        (bvh().replace("OFFSET 0 0 0", "OFFSET 0 zero 0", 1), "line 4: an offset"),
        (bvh().replace("Xposition", "Wposition", 1), "line 5: unknown channel 'Wposition'"),
        (bvh().replace("CHANNELS 3", "CHANNELS 4", 1), "line 9: .* not as many"),
        (bvh().replace("CHANNELS 3", "CHANNELS 1 Xrotation\nCHANNELS 3", 1), "line 10: .* second"),
    ],
)
def test_skeletons_that_do_not_fit_are_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.bvh").write_text(text)
    with pytest.raises(DatasetError, match=rf"a\.bvh.*{fault}"):
        load_bvh(tmp_path / "a.bvh")


# ---- OpenXR -------------------------------------------------------------------------------------


def xr(frames: list[dict[str, Any]]) -> str:
    return json.dumps({"frames": frames})


def by_name(frames: list[dict[str, Any]]) -> str:
    from hgr_stream.datasets.openxr import NAMES

    for frame in frames:
        [hand] = frame["hands"]
        hand["joints"] = {
            f"XR_HAND_JOINT_{name.upper()}_EXT": {"position": {"x": p[0], "y": p[1], "z": p[2]}}
            for name, p in zip(NAMES, hand["joints"], strict=True)
        }
    return json.dumps(frames)


def webxr(frames: list[dict[str, Any]]) -> str:
    for frame in frames:
        [hand] = frame["hands"]
        hand["joints"] = hand["joints"][1:]
    return json.dumps(frames)


@pytest.mark.parametrize("form", [xr, by_name, webxr])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_form_of_openxr_gives_the_hand(
    tmp_path: Path, side: Side, form: Callable[[list[dict[str, Any]]], str]
) -> None:
    (tmp_path / "x.json").write_text(form(openxr_json(side=side)))
    (tmp_path / "x.csv").write_text(openxr_csv(side=side))
    assert guess_format(tmp_path / "x.json") == guess_format(tmp_path / "x.csv") == "openxr"
    for name in ("x.json", "x.csv"):
        [recording] = load_openxr(tmp_path / name)
        assert isinstance(recording, HandFrames)
        assert (recording.notes, len(recording.frames)) == ([], 5)
        np.testing.assert_allclose(joints_of(recording, side)[0], hand_joints(side=side), atol=1e-5)
        assert recording.frames[2].time_ns == 40_000_000


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("XR_HAND_JOINT_PALM_EXT", 0),
        ("wrist", 1),
        ("thumb-phalanx-distal", 4),
        ("index-finger-phalanx-intermediate", 8),
        ("INDEX_TIP", 10),
        ("pinky-finger-tip", 25),
        ("LittleTip", None),
        ("elbow", None),
    ],
)
def test_joints_are_known_by_their_names(name: str, index: int | None) -> None:
    assert joint_index(name) == index


def test_joints_that_are_not_valid_refuse_the_hand(tmp_path: Path) -> None:
    frames = openxr_json(3)
    frames[1]["hands"][0]["joints"][10] = None
    frames[2]["hands"][0]["joints"][0] = None  # the palm, which is computed anyway
    (tmp_path / "x.json").write_text(json.dumps(frames))
    [recording] = load_openxr(tmp_path / "x.json")
    assert isinstance(recording, HandFrames)
    assert [len(f.hands) for f in recording.frames] == [1, 0, 1]
    assert recording.notes == ["1 hands refused: joints missing, not valid, or not finite"]


def test_two_hands_of_one_time_are_one_frame(tmp_path: Path) -> None:
    left = openxr_csv(side="left").splitlines()[1:]
    (tmp_path / "x.csv").write_text(openxr_csv() + "\n".join(left) + "\n0.1,right,0.1")
    [recording] = load_openxr(tmp_path / "x.csv")
    assert isinstance(recording, HandFrames)
    assert [[h.side for h in f.hands] for f in recording.frames] == [["right", "left"]] * 5
    assert recording.notes == [
        "1 cut line at the end, dropped; first: line 12: 3 columns instead of 80"
    ]


# ---- what all have in common --------------------------------------------------------------------

JSON_FILES: dict[Format, tuple[str, Callable[[Path], list[HandFrames]]]] = {
    "alphapose": (json.dumps(alphapose(20)), load_alphapose),
    "mediapipe": (json.dumps(mediapipe(20)), load_mediapipe),
    "openxr": (json.dumps(openxr_json(20)), load_openxr),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("format_", JSON_FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_in_the_middle_gives_what_it_holds(
    tmp_path: Path, format_: Format, packed: bool
) -> None:
    text, load = JSON_FILES[format_]
    cut = text[: len(text) // 2].encode()
    path = tmp_path / ("a.json.gz" if packed else "a.json")
    path.write_bytes(gzip.compress(text.encode())[:-100] if packed else cut)
    [recording] = load(path)
    n = len(recording.frames)
    assert 9 <= n < 20
    assert f"{path.name}: breaks off or is damaged after {n} whole frames; the rest is lost" in (
        recording.notes
    )
    whole = tmp_path / "whole.json"
    whole.write_text(text)
    first = load(whole)[0].frames[0].hands[0]
    assert recording.frames[0].hands[0].side == first.side
    assert guess_format(path) == format_


def test_a_leap_recording_that_is_cut_gives_what_it_holds(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "leap_recordings/leapjs_playback"
    for name in ("pinch.json.gz", "pinch-57fps.json.gz"):
        data = gzip.decompress((source / name).read_bytes())
        whole = len(list(open_recording(source / name).frames))
        (tmp_path / "cut.json").write_bytes(data[: len(data) // 2])
        [recording] = open_recordings([tmp_path / "cut.json"])
        n = len(list(recording.frames))
        assert 0.3 * whole < n < 0.7 * whole
        assert f"cut.json: breaks off or is damaged after {n} whole frames; the rest is lost" in (
            recording.notes
        )


def test_the_table_of_formats_is_whole() -> None:
    assert {*SOURCES, "mcap"} == set(FORMATS)


def test_devices_of_a_recording_with_several_people_are_recognised_apart(tmp_path: Path) -> None:
    from hgr_stream.segmentation import Segmenter, WindowSpec

    frames = [
        openpose(
            openpose_person(flat_hand(0.001 * i, at=(300, 300))),
            openpose_person(flat_hand(0.001 * i, at=(900, 300))),
        )
        for i in range(40)
    ]
    segmenter = Segmenter(WindowSpec(30, 10, 10))
    recording = open_recording(folder_of(tmp_path, *frames))
    windows = [w for f in recording.frames for w in segmenter.push(f)]
    assert {(w.device, w.hand) for w in windows} == {
        ("openpose.person0", "right"),
        ("openpose.person1", "right"),
    }
    assert {tuple(w.lacks) for w in windows} == {("depth",)}
    assert not {k for k, n in segmenter.counts.items() if n} - {
        "frames",
        "tracks",
        "windows",
        "ticks",
    }


# ---- the command line ---------------------------------------------------------------------------


def hgr(*arguments: object) -> Any:
    from click.testing import CliRunner

    from hgr_stream.cli import cli

    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_import_tells_what_is_lacking_and_what_was_lost(tmp_path: Path) -> None:
    folder = tmp_path / "json"
    folder.mkdir()
    good = openpose(openpose_person(flat_hand(), missing(8)))
    folder_of(folder, good, good[:-20], good)
    done = hgr("import", "openpose", folder, "-o", tmp_path / "o.mcap", "--fps", 10)
    assert done.exit_code == 0, done.output
    assert "note: video: 1 of 3 files unreadable; first: video_000000000001" in done.output
    assert "note: 4 of 4 hands lack depth: they are flat, their z is 0" in done.output
    assert "note: 2 of 4 hands lack tips" in done.output
    assert "1 recording, 2 frames" in done.output
    assert [f.time_ns for f in open_recording(tmp_path / "o.mcap").frames] == [0, 200_000_000]


def test_info_reads_what_import_reads(tmp_path: Path) -> None:
    (tmp_path / "a.bvh").write_text(bvh(20))
    told = hgr("info", tmp_path / "a.bvh")
    assert told.exit_code == 0, told.output
    assert "device bvh: 20 frames in 0.19 s, 100.0 Hz" in told.output
    assert "chirality of a left hand in 100.0%" in told.output
    assert "middle_base 100 (0%)" in told.output
    read = json.loads(hgr("info", "--json", tmp_path / "a.bvh").output)
    assert read["file"] == str(tmp_path / "a.bvh")
    assert read["metadata"] == {"format": "bvh"}
    assert [h["right_handed"] for h in read["devices"][0]["hands"]] == [0.0, 1.0]
    folder_of(tmp_path, openpose(openpose_person(flat_hand())), video="x")
    folder_of(tmp_path, openpose(openpose_person(flat_hand())), video="y")
    (tmp_path / "a.bvh").unlink()
    lines = [json.loads(line) for line in hgr("info", "--json", tmp_path).output.splitlines()]
    assert [line["file"] for line in lines] == [f"{tmp_path}#x", f"{tmp_path}#y"]
    assert lines[0]["devices"][0]["hands"][0]["lacks"] == {"depth": 1}
    assert lines[0]["devices"][0]["hands"][0]["right_handed"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_foreign_files_name_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.bvh")
    path.write_text(bvh(20))
    import_file("bvh", path, tmp_path / "a.mcap")
    assert {f.boot_id for f in open_recording(tmp_path / "a.mcap").frames} == {"import:a?"}


def test_a_rate_is_refused_where_the_file_has_its_own_time(tmp_path: Path) -> None:
    done = hgr("import", "leapjs", tmp_path, "-o", tmp_path / "o", "--fps", 10)
    assert done.exit_code == 2
    assert "leapjs recordings have their own time" in done.output


def test_every_format_is_told_of_in_the_help() -> None:
    text = hgr("import", "--help").output
    assert all(f"  {name:11}{source.about}" in text for name, source in SOURCES.items())
