"""Foreign recordings: the real benchmarks in full, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hgr_stream.datasets.base import DatasetError, Segment
from hgr_stream.datasets.convert import (
    FORMATS,
    Format,
    guess_format,
    import_file,
    open_recording,
    open_recordings,
)
from hgr_stream.datasets.shrec17 import LABELS_28, load_shrec17_sequences
from hgr_stream.datasets.shrec21 import load_shrec21
from hgr_stream.datasets.shrec22 import load_shrec22
from hgr_stream.messages import Frame, encode
from hgr_stream.recording import Reader, RecordingError, Writer
from hgr_stream.skeleton import MIDDLE_BASE, WRIST, bone_lengths, chirality

MS = 1_000_000


def unpacked(archive: Path, to: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(to, filter="data")
    return to


@pytest.fixture(scope="session")
def shrec17(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(shared_data / "shrec17_train.tar.xz", tmp_path_factory.mktemp("s17"))


@pytest.fixture(scope="session")
def shrec22(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(shared_data / "shrec22_online_train.tar.xz", tmp_path_factory.mktemp("s22"))


@pytest.fixture(scope="session")
def shrec21_text(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = shared_data / "shrec21_online_train/raw_sequences_1-8.tar.xz"
    return unpacked(archive, tmp_path_factory.mktemp("s21"))


# ---- the real data ------------------------------------------------------------------------------


def test_shrec21_in_full(shared_data: Path) -> None:
    sequences = load_shrec21(shared_data / "shrec21_online_train")
    assert [s.name for s in sequences] == [str(n) for n in range(1, 109)]
    # 408 are annotated; one of sequence 64 ends before it starts.
    assert sum(len(s.segments) for s in sequences) == 407
    assert {s.name: s.notes for s in sequences if s.notes} == {
        "64": ["annotation TAP 1135-162: ends before it starts, dropped"]
    }
    assert len({g.label for s in sequences for g in s.segments}) == 17
    first = sequences[0]
    assert first.index[0] == 1
    assert np.all(np.diff(first.time_ns) == 20 * MS)
    # Line 1 of the annotations: DENY from row 670 to row 751, counted from 1.
    assert first.segments[0] == Segment("DENY", 669, 750)
    assert first.index[first.segments[0].start] == 670


def test_shrec21_text_and_archive_are_the_same(shared_data: Path, shrec21_text: Path) -> None:
    archive = {s.name: s for s in load_shrec21(shared_data / "shrec21_online_train")}
    texts = load_shrec21(shrec21_text)
    assert [s.name for s in texts] == [str(n) for n in range(1, 9)]
    for text in texts:
        np.testing.assert_allclose(text.joints, archive[text.name].joints, atol=1e-6)
        assert np.array_equal(text.index, archive[text.name].index)


def test_shrec22_in_full(shrec22: Path) -> None:
    sequences = load_shrec22(shrec22)
    assert [s.name for s in sequences] == [str(n) for n in range(1, 145)]
    labels = [g.label for s in sequences for g in s.segments]
    assert len(labels) == 576
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(labels, 36)
    assert not any(s.notes for s in sequences)
    steps_ms = np.concatenate([np.diff(s.time_ns) for s in sequences]) / 1e6
    assert 45 < np.median(steps_ms) < 55
    assert steps_ms.min() > 15
    assert 330 < steps_ms.max() < 335
    first = sequences[0]
    assert first.index[0] == 0
    assert first.time_ns[0] == 15_398_026  # 0.0153980255 s
    assert first.segments[0] == Segment("CROSS", 212, 253)


def test_shrec17_in_full(shrec17: Path) -> None:
    sequences = load_shrec17_sequences(shrec17)
    assert len(sequences) == 1960
    assert len({s.subject for s in sequences}) == 20
    assert {s.label14 for s in sequences} == set(range(1, 15))
    assert {s.label28 for s in sequences} == set(range(1, 29))
    assert {s.split for s in sequences} == {"train"}
    lengths = [len(s.joints) for s in sequences]
    assert (min(lengths), np.median(lengths), max(lengths)) == (11, 57, 171)
    assert not any(s.notes for s in sequences)
    for s in sequences:
        assert s.label28 == 2 * (s.gesture - 1) + s.finger
        assert LABELS_28[s.label28 - 1] == f"{s.segments[0].label}_{s.finger}"
        assert s.segments == [Segment(s.segments[0].label, 0, len(s.joints) - 1)]
    # Bones do not change their length: taking out the shear steadies them (0.280 to 0.201).
    bones = np.concatenate([bone_lengths(s.joints) for s in sequences])
    sheared = load_shrec17_sequences(shrec17, unshear=False)
    raw = np.concatenate([bone_lengths(s.joints) for s in sheared])
    assert np.mean(bones.std(0) / bones.mean(0)) < 0.75 * np.mean(raw.std(0) / raw.mean(0))
    with pytest.raises(DatasetError, match=r"no test_gestures\.txt"):
        load_shrec17_sequences(shrec17, split="test")


def test_all_three_give_right_hands_in_canonical_axes(
    shared_data: Path, shrec17: Path, shrec22: Path
) -> None:
    for sequences in (
        load_shrec17_sequences(shrec17),
        load_shrec21(shared_data / "shrec21_online_train"),
        load_shrec22(shrec22),
    ):
        right = [np.median(chirality(s.joints)) > 0 for s in sequences]
        assert np.mean(right) > 0.9
        reach = np.concatenate([s.joints[:, MIDDLE_BASE] - s.joints[:, WRIST] for s in sequences])
        # Fingers point up and to the sensor, away from the user; a palm's length is 0.1 m.
        assert np.median(reach[:, 1]) > 0
        assert np.median(reach[:, 2]) < 0
        assert 0.07 < np.median(np.linalg.norm(reach, axis=1)) < 0.12


def test_numbering_and_truth_survive_the_import(shrec22: Path, tmp_path: Path) -> None:
    [source] = load_shrec22(next(shrec22.rglob("17.txt")))
    report = import_file("shrec22", next(shrec22.rglob("17.txt")), tmp_path / "17.mcap")
    assert [(w.frames, w.hands, w.truths) for w in report.written] == [(632, 632, 4)]
    [recording] = open_recordings([tmp_path / "17.mcap"])
    assert recording.name == "17"
    frames = list(recording.frames)
    assert [f.index for f in frames] == source.index.tolist()
    assert [f.time_ns for f in frames] == source.time_ns.tolist()
    assert [f.seq for f in frames] == list(range(632))
    assert {(f.device, f.boot_id) for f in frames} == {("shrec22", "import:17")}
    assert np.array_equal([f.hands[0].array() for f in frames], source.joints)
    told = [(t.label, t.onset_ns, t.offset_ns, t.hand) for t in recording.truths]
    at = source.time_ns.tolist()
    assert told == [(s.label, at[s.start], at[s.end], "right") for s in source.segments]
    # The same frames, whether read from the source or from its import.
    assert list(open_recording(next(shrec22.rglob("17.txt"))).frames) == frames


def test_each_format_is_guessed_and_opened(
    shared_data: Path, shrec17: Path, shrec22: Path, shrec21_text: Path
) -> None:
    leap = shared_data / "leap_recordings/leapjs_playback"
    expected: list[tuple[Path, Format]] = [
        (shared_data / "shrec21_online_train", "shrec21"),
        (shared_data / "shrec21_online_train/positions.npz", "shrec21"),
        (shrec21_text, "shrec21"),
        (next(shrec21_text.rglob("3.txt")), "shrec21"),
        (shrec22, "shrec22"),
        (next(shrec22.rglob("3.txt")), "shrec22"),
        (shrec17, "shrec17"),
        (next(shrec17.rglob("skeletons_world.txt")), "shrec17"),
        (leap, "leapjs"),
        (leap / "pinch.json.gz", "leapjs"),
    ]
    assert [guess_format(path) for path, _ in expected] == [format for _, format in expected]


def test_leap_recordings_keep_frames_without_a_hand(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "leap_recordings/leapjs_playback"
    report = import_file("leapjs", source, tmp_path / "out")
    assert len(report.written) == len(list(source.glob("*.json.gz"))) == 12
    assert all(w.frames > 0 for w in report.written)
    frames = list(Reader(tmp_path / "out/pinch.mcap"))
    assert len(frames) == 307
    assert {f.device for f in frames} == {"leapjs"}
    index = [f.index for f in frames]
    assert index == sorted(set(index))
    assert any("SDK 2 beta" in note for note in report.notes)


# ---- what can be wrong --------------------------------------------------------------------------


def row22(i: int, time_s: float | str | None = None, columns: int = 80) -> str:
    joints = [f"{0.01 * j + 0.001 * i:.4f}" for j in range(columns - 2)]
    return ";".join([str(i), str(0.05 * i if time_s is None else time_s), *joints])


def row21(i: int) -> str:
    return ";".join(f"{0.01 * j + 0.001 * i:.4f}" for j in range(140)) + ";"


def row17(i: int) -> str:
    return " ".join(f"{0.01 * j + 0.001 * i:.4f}" for j in range(66))


ROWS = {
    "shrec21": (row21, load_shrec21, "1.txt"),
    "shrec22": (row22, load_shrec22, "1.txt"),
    "shrec17": (row17, load_shrec17_sequences, "skeletons_world.txt"),
}


@pytest.mark.parametrize("format", ROWS)
def test_a_cut_last_line_is_dropped_and_told(tmp_path: Path, format: str) -> None:
    row, load, name = ROWS[format]
    text = "\n".join(row(i) for i in range(5))
    (tmp_path / name).write_text(text[:-200])
    [sequence] = load(tmp_path / name)
    assert len(sequence.joints) == 4
    assert sequence.notes == [f"{name} line 5: cut short, dropped"]


@pytest.mark.parametrize("format", ROWS)
def test_columns_that_do_not_fit_are_named_by_line(tmp_path: Path, format: str) -> None:
    row, load, name = ROWS[format]
    lines = [row(i) for i in range(5)]
    short = lines[2].rstrip(";").replace(" ", ";").rsplit(";", 1)[0]
    lines[2] = short.replace(";", " ") if format == "shrec17" else short
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=rf"{name} line 3: \d+ columns instead of \d+"):
        load(tmp_path / name)


@pytest.mark.parametrize("format", ROWS)
def test_words_among_the_numbers_are_named_by_line(tmp_path: Path, format: str) -> None:
    row, load, name = ROWS[format]
    lines = [row(i) for i in range(5)]
    lines[1] = lines[1].replace("0.1010", "oops").replace("0.1110", "oops")
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=rf"{name} line 2: not a number"):
        load(tmp_path / name)


@pytest.mark.parametrize("format", ROWS)
def test_rows_with_nan_are_left_out_and_numbering_stays(tmp_path: Path, format: str) -> None:
    row, load, name = ROWS[format]
    lines = [row(i) for i in range(8)]
    lines[3] = lines[3].replace("0.1030", "nan").replace("0.1130", "nan")
    (tmp_path / name).write_text("\n".join(lines))
    [sequence] = load(tmp_path / name)
    assert sequence.notes == [f"{name}: NaN or infinity in line 4, left out"]
    first = 1 if format == "shrec21" else 0
    assert sequence.index.tolist() == [first + i for i in (0, 1, 2, 4, 5, 6, 7)]
    assert np.isfinite(sequence.joints).all()
    step = int(sequence.time_ns[1] - sequence.time_ns[0])
    assert sequence.time_ns[3] - sequence.time_ns[2] == pytest.approx(2 * step, abs=2)


@pytest.mark.parametrize("format", ROWS)
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe" * 50])
def test_nothing_and_no_text_are_named(tmp_path: Path, format: str, content: bytes) -> None:
    _, load, name = ROWS[format]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name}: (holds no frames|not a text file)"):
        load(tmp_path / name)


@pytest.mark.parametrize("format", ROWS)
def test_a_missing_path_and_an_empty_folder_are_named(tmp_path: Path, format: str) -> None:
    _, load, _ = ROWS[format]
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=str(tmp_path)):
        load(tmp_path)


def test_time_that_runs_back_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [row22(0), row22(1), row22(2, 0.01), row22(3), row22(4, 0.15), row22(5)]
    (tmp_path / "7.txt").write_text("\n".join(rows))
    (tmp_path / "annotations.txt").write_text("7;TAP;2;4;")
    [sequence] = load_shrec22(tmp_path)
    assert sequence.index.tolist() == [0, 1, 3, 5]
    assert np.all(np.diff(sequence.time_ns) > 0)
    assert sequence.notes == ["7.txt: time stands still or runs back in line 3, 5, left out"]
    assert sequence.segments == [Segment("TAP", 2, 2)]


def test_time_that_never_runs_forward_is_refused(tmp_path: Path) -> None:
    (tmp_path / "7.txt").write_text("\n".join(row22(i, 1.0) for i in range(6)))
    with pytest.raises(DatasetError, match=r"7\.txt line 2: time does not run forward"):
        load_shrec22(tmp_path)


@pytest.mark.parametrize(
    ("row", "fault"), [(row22(0, 1e30), "time 1e"), ("1.5" + row22(0)[1:], "index 1.5")]
)
def test_absurd_time_and_index_are_refused(tmp_path: Path, row: str, fault: str) -> None:
    (tmp_path / "7.txt").write_text(row)
    with pytest.raises(DatasetError, match=rf"7\.txt line 1: {fault}"):
        load_shrec22(tmp_path)


def test_annotations_that_do_not_fit_are_dropped_or_clipped(tmp_path: Path) -> None:
    (tmp_path / "seq_003.txt").write_text("\n".join(row21(i) for i in range(10)))
    (tmp_path / "annotations.txt").write_text(
        "3;A;2;4; \r\n\n3;B;9;7;C;8;20;D;11;12;E;0;1;;\n4;X;1;2"
    )
    [sequence] = load_shrec21(tmp_path)
    assert sequence.name == "3"
    assert sequence.segments == [Segment("A", 1, 3), Segment("C", 7, 9), Segment("E", 0, 0)]
    assert sequence.notes == [
        "annotation B 9-7: ends before it starts, dropped",
        "annotation C 8-20: reaches past the sequence, clipped",
        "annotation D 11-12: outside the sequence, dropped",
        "annotation E 0-1: reaches past the sequence, clipped",
    ]


@pytest.mark.parametrize("line", ["3;A;2", "x;A;2;3", "3;A;two;3", "3;A;2;3;B"])
def test_garbled_annotations_are_named_by_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "3.txt").write_text(row21(0))
    (tmp_path / "annotations.txt").write_text(f"1;A;1;1\n{line}\n")
    with pytest.raises(DatasetError, match=r"annotations\.txt line 2: "):
        load_shrec21(tmp_path)


def test_archives_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "positions.npz"
    good = np.zeros((30, 20, 3), np.float32) + np.arange(30, dtype=np.float32)[:, None, None]
    for arrays, fault in (
        ({"seq_001": good[:, :10]}, r"seq_001: float32 \(30, 10, 3\) instead of"),
        ({"seq_001": np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
        ({"seq_001": good * np.nan}, "seq_001: no frame without NaN"),
        ({}, "holds no sequences"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DatasetError, match=rf"positions\.npz.*{fault}"):
            load_shrec21(tmp_path)
    np.savez_compressed(path, seq_001=good, seq_002=good)
    data = path.read_bytes()
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        with pytest.raises(DatasetError, match=r"positions\.npz"):
            load_shrec21(tmp_path)
    damaged = bytearray(data)
    damaged[200:260] = b"\xff" * 60
    path.write_bytes(bytes(damaged))
    with pytest.raises(DatasetError, match=r"positions\.npz"):
        load_shrec21(tmp_path)


def test_an_archive_leaves_bad_rows_out(tmp_path: Path) -> None:
    points = np.ones((5, 20, 3), np.float32)
    points[2, 7, 1] = np.nan
    np.savez(tmp_path / "positions.npz", seq_009=points)
    [sequence] = load_shrec21(tmp_path)
    assert (sequence.name, sequence.index.tolist()) == ("9", [1, 2, 4, 5])
    assert sequence.time_ns.tolist() == [0, 20 * MS, 60 * MS, 80 * MS]
    assert sequence.notes == ["seq_009: NaN or infinity in row 3, left out"]


def dhg(root: Path, name: str) -> Path:
    folder = root / "gesture_7/finger_2/subject_3/essai_4"
    folder.mkdir(parents=True)
    (folder / name).write_text("\n".join(row17(i) for i in range(4)))
    return folder / name


@pytest.mark.parametrize("name", ["skeletons_world.txt", "skeleton_world.txt"])
def test_dhg_and_parts_of_shrec17_need_no_list(tmp_path: Path, name: str) -> None:
    file = dhg(tmp_path, name)
    for root in (tmp_path, file, file.parent):
        [sequence] = load_shrec17_sequences(root)
        assert sequence.name == "gesture_7/finger_2/subject_3/essai_4"
        assert (sequence.subject, sequence.label14, sequence.label28) == ("3", 7, 14)
        assert sequence.segments == [Segment("SWIPE_RIGHT", 0, 3)]
        assert sequence.time_ns.tolist() == [0, 33_333_333, 66_666_666, 100_000_000]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("7 2 3 4 7 14", "not 'G F S E"),
        ("7 2 3 4 15 30 4", "labels 15 and 30"),
        ("7 2 3 5 7 14 4", "is missing"),
        ("7 2 3 4 3 28 4", "labels 3 and 28 are not of gesture 7 with finger 2"),
        ("7 2 3 4 7 14 4", "lists the sequence of line 1 again"),
    ],
)
def test_a_shrec17_list_that_does_not_fit(tmp_path: Path, line: str, fault: str) -> None:
    dhg(tmp_path, "skeletons_world.txt")
    (tmp_path / "train_gestures.txt").write_text(f"7 2 3 4 7 14 4\n{line}\n")
    with pytest.raises(DatasetError, match=rf"train_gestures\.txt line 2: .*{fault}"):
        load_shrec17_sequences(tmp_path)


def test_a_shrec17_list_tells_of_lost_frames(tmp_path: Path) -> None:
    dhg(tmp_path, "skeletons_world.txt")
    (tmp_path / "train_gestures.txt").write_text("7 2 3 4 7 14 9\n")
    [sequence] = load_shrec17_sequences(tmp_path, split="train")
    assert sequence.notes == ["4 frames where the list says 9"]


# ---- in and out ---------------------------------------------------------------------------------


def test_one_bad_file_does_not_cost_the_others(tmp_path: Path) -> None:
    for n in (1, 2, 10):
        (tmp_path / f"{n}.txt").write_text("\n".join(row22(i) for i in range(3)))
    (tmp_path / "2.txt").write_text(row22(0) + "\n1;2;3\n" + row22(2))
    errors: list[DatasetError] = []
    names = [r.name for r in open_recordings([tmp_path], None, errors.append)]
    assert names == ["1", "10"]
    assert [str(e).split("/")[-1] for e in errors] == ["2.txt line 2: 3 columns instead of 80"]
    with pytest.raises(DatasetError, match=r"2\.txt line 2"):
        list(open_recordings([tmp_path]))


def test_several_recordings_need_a_folder(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"{n}.txt").write_text("\n".join(row22(i) for i in range(3)))
    with pytest.raises(DatasetError, match="holds several recordings; give a folder"):
        import_file("shrec22", tmp_path, tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()
    with pytest.raises(DatasetError, match="holds several recordings; name one"):
        open_recording(tmp_path)
    report = import_file(None, tmp_path, tmp_path / "out")
    assert report.format == "shrec22"
    assert [w.path.name for w in report.written] == ["1.mcap", "2.mcap"]
    with pytest.raises(RecordingError, match="exists"):
        import_file("shrec22", tmp_path, tmp_path / "out")


def test_a_failed_import_leaves_no_file_behind(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("garbage")
    with pytest.raises(DatasetError, match=r"1\.txt line 1"):
        import_file("shrec21", tmp_path / "1.txt", tmp_path / "out.mcap")
    assert not (tmp_path / "out.mcap").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_there_is_named_in_every_format(tmp_path: Path, format: Format) -> None:
    with pytest.raises(DatasetError, match="none: no such file or folder"):
        list(open_recordings([tmp_path / "none"], format))
    with pytest.raises(DatasetError, match="in this folder"):
        list(open_recordings([tmp_path], format if format != "shrec17" else None))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "1 2 3"), ("b.bin", "\x00\x01"), ("c.txt", ""), ("d.csv", "a,b,c")],
)
def test_an_unknown_format_is_told(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=rf"{name}: of no format that is known"):
        guess_format(tmp_path / name)


def test_what_is_wrong_with_a_recording_shows_in_its_notes(tmp_path: Path) -> None:
    frames = [Frame("d", "b", i, i * MS, 0, 0, 0, 0) for i in range(9)]
    with Writer(tmp_path / "a.mcap") as writer:
        for frame in frames:
            writer.write("frame/d", encode(frame), frame.time_ns, 0)
            writer.flush()
    data = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "a.mcap").write_bytes(data[: len(data) // 2])
    [recording] = open_recordings([tmp_path / "a.mcap"])
    got = list(recording.frames)
    assert got == frames[: len(got)]
    assert recording.notes == ["not closed: cut short, or still being written"]
    assert list(recording.frames) == got


def test_json_that_is_no_leap_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(DatasetError, match=r"x\.json"):
        list(open_recordings([tmp_path / "x.json"]))
