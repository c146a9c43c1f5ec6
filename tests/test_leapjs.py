"""Leap recordings: every real one is read, and every broken one is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leap_frames import frame, texts

from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.leapjs import frame_texts, load_leapjs
from hgr_stream.skeleton import BONES, MIDDLE_BASE, bone_lengths

WRIST_TO_MIDDLE = BONES.index((0, MIDDLE_BASE))


def write(path: Path, content: object) -> Path:
    data = json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_every_leapjs_recording_holds_plausible_hands(shared_data: Path) -> None:
    paths = sorted((shared_data / "leap_recordings/leapjs_playback").glob("*.json.gz"))
    assert len(paths) == 12
    for path in paths:
        recording = load_leapjs(path)
        assert recording.name == path.name.removesuffix(".json.gz")
        assert recording.refused == {}
        hands = [one for each in recording.frames for one in each.hands]
        assert len(hands) >= len(recording.frames) > 100
        assert {one.side for one in hands} <= {"left", "right"}
        joints = np.array([one.joints for one in hands])
        assert np.isfinite(joints).all()
        lengths_mm = 1000 * np.median(bone_lengths(joints), axis=0)
        assert 60 < lengths_mm[WRIST_TO_MIDDLE] < 130, path
        assert 10 < lengths_mm.min() < lengths_mm.max() < 130, path
        times_ns = np.array([each.device_ns for each in recording.frames])
        assert (np.diff(times_ns) > 0).all()
        assert 40 < 1e9 / np.median(np.diff(times_ns)) < 130
        # These are SDK 2 betas: none tells the wrist, and the reader says so.
        [note] = recording.notes
        assert note.startswith(f"{len(hands)} of {len(hands)} hands came without a wrist")


def test_sides_of_the_two_handed_recording(shared_data: Path) -> None:
    recording = load_leapjs(
        shared_data / "leap_recordings/leapjs_playback/confidence-74fps.json.gz"
    )
    seen = {(one.id, one.side) for each in recording.frames for one in each.hands}
    # One left hand throughout; the right one was lost and found twice.
    assert seen == {(29, "left"), (28, "right"), (30, "right"), (31, "right")}


def test_sdk_1_recordings_keep_their_frames_and_tell_why_no_hand_is_there(
    shared_data: Path,
) -> None:
    paths = sorted((shared_data / "leap_recordings/leap_play").glob("*.json.gz"))
    assert len(paths) == 24
    for path in paths:
        recording = load_leapjs(path)
        raw = json.loads(gzip.decompress(path.read_bytes()))
        assert [f.index for f in recording.frames] == [int(f["id"]) for f in raw]
        assert [f.device_ns for f in recording.frames] == [int(f["timestamp"]) * 1000 for f in raw]
        assert not any(f.hands for f in recording.frames)
        hands = sum(len(f.get("hands", [])) for f in raw)
        assert recording.refused == {"no_bones": hands}
        assert recording.notes == [
            f"{hands} of {hands} hands refused: SDK 1: palm and tips but no bones, "
            "which cannot give 22 joints"
        ]


def pack(structure: list[Any], data: Any) -> list[Any]:
    """LeapJS's packing, the other way round."""
    if isinstance(structure[0], list):
        return [pack(structure[0], item) for item in data]
    row = []
    for key in structure:
        if isinstance(key, str):
            row.append(data[key])
        else:
            [(name, inner)] = key.items()
            row.append(pack(inner, data[name]))
    return row


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_packed_plain_and_bare_lists_are_one(tmp_path: Path, name: str) -> None:
    frames = [frame((7, "right"), (8, "left"), index=i, timestamp_us=i * 9000) for i in range(1, 4)]
    structure = [
        "id",
        "timestamp",
        {"hands": [sorted(frames[0]["hands"][0])]},
        {"pointables": [sorted(frames[0]["pointables"][0])]},
    ]
    packed = [structure, *(pack(structure, each) for each in frames)]
    (tmp_path / "lists").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "plain").mkdir()
    ways = [
        write(tmp_path / "lists" / name, frames),
        write(tmp_path / "plain" / name, {"metadata": {"formatVersion": 0.1}, "frames": frames}),
        write(tmp_path / "packed" / name, {"metadata": {"formatVersion": 2}, "frames": packed}),
    ]
    recordings = [load_leapjs(way) for way in ways]
    for recording in recordings:
        assert (recording.name, recording.notes) == ("a", [])
        for got, first in zip(recording.frames, recordings[0].frames, strict=True):
            assert (got.index, got.device_ns) == (first.index, first.device_ns)
            for a, b in zip(got.hands, first.hands, strict=True):
                assert (a.id, a.side, a.confidence) == (b.id, b.side, b.confidence)
                np.testing.assert_array_equal(a.joints, b.joints)
    assert [len(f.hands) for f in recordings[0].frames] == [2, 2, 2]


def test_frames_come_as_the_file_has_them(tmp_path: Path) -> None:
    frames = texts(2, (7, "right"))
    (tmp_path / "a.json").write_text(f'{{"frames": [{frames[0]}, {frames[1]}], "metadata": {{}}}}')
    assert [text.decode() for text in frame_texts(tmp_path / "a.json")] == frames


def test_faults_inside_are_noted_and_the_rest_is_kept(tmp_path: Path) -> None:
    frames: list[Any] = [frame((7, "right"), index=i, timestamp_us=i * 9000) for i in range(6)]
    frames[1]["pointables"][0]["mcpPosition"][0] = float("nan")  # only Python's reader takes it
    frames[2] = {"id": 2}
    frames[4]["timestamp"] = frames[3]["timestamp"]
    del frames[5]["pointables"][0]
    recording = load_leapjs(write(tmp_path / "a.json", {"frames": frames}))
    assert [len(f.hands) for f in recording.frames] == [1, 0, 1, 1, 0]
    assert recording.refused == {"not_finite": 1, "incomplete": 1}
    assert recording.notes == [
        "1 of 5 hands refused: NaN, infinite or absurd joints",
        "1 of 5 hands refused: a finger or a joint is missing",
        "1 of 6 frames unreadable; first: frame 2: neither a frame (no timestamp) nor a version "
        "nor an event",
        "1 frames whose time does not advance",
    ]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.json", b"", "not readable as JSON"),
        ("a.json", b"hello", "not readable as JSON"),
        ("a.json", b'{"frames": [', "not readable as JSON"),
        ("a.json", b"5", "no list of frames"),
        ("a.json", b'{"frames": 5}', "no list of frames"),
        ("a.json", b'{"metadata": {}}', "no list of frames"),
        ("a.json", b"[]", "no frames"),
        ("a.json", b'{"frames": []}', "no frames"),
        ("a.json", b'[{"version": 6}, 5]', "no frame is readable; frame 0: not a frame"),
        ("a.json", b'{"metadata": {"formatVersion": 2}, "frames": []}', "no frames"),
        ("a.json", b'{"metadata": {"formatVersion": 2}, "frames": [["id"]]}', "no frames"),
        ("a.json", b'{"metadata": {"formatVersion": 2}, "frames": [["id"], 5]}', "packed data"),
        ("a.json", b'{"metadata": {"formatVersion": 2}, "frames": [[5], [5]]}', "packed struct"),
        ("a.json", b"\xff\xfe[", "not readable as JSON"),
        ("a.json", b"[" * 100_000, "not readable as JSON"),
        ("a.json.gz", gzip.compress(json.dumps(texts(9, (7, "left"))).encode())[:-40], "ended"),
        ("a.json.lz", b"N4Ig", "LZ-string"),
    ],
)
def test_broken_files_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        load_leapjs(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(DatasetError, match=str(path)):
            load_leapjs(path)
