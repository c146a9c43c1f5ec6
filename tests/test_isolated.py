"""Training on isolated gestures: data in, distortions, the loop, resuming, and the model file."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hgr_stream.cli import cli
from hgr_stream.cli.train_isolated import load_others, train_isolated_command
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.gestures import (
    Gestures,
    divide,
    first_of,
    fold_subjects,
    load_continuous,
    load_recordings,
    load_shrec17,
    read_split,
)
from hgr_stream.datasets.shrec17 import load_shrec17_sequences
from hgr_stream.messages import Frame, Hand, encode, joint_bytes
from hgr_stream.pipeline import Pipeline, run_recording
from hgr_stream.recognition.bundle import read_metadata, resolve, shipped
from hgr_stream.recognition.options import mirror_pairs
from hgr_stream.recording import Reader, Writer
from hgr_stream.skeleton import (
    PARENTS,
    Float32,
    Lack,
    Side,
    bone_lengths,
    lacked,
    mirrored,
    with_palm,
)
from hgr_stream.training.batches import Batches, predict
from hgr_stream.training.beside import moved_to
from hgr_stream.training.distort import Distortion, Packed, another_hand, draw, resampled
from hgr_stream.training.evaluate import Model
from hgr_stream.training.isolated import Outcome, _Loop, train_isolated
from hgr_stream.training.isolated_folds import spread, train_folds
from hgr_stream.training.isolated_outputs import calibrated
from hgr_stream.training.isolated_recipe import (
    MODERN,
    ORIGINAL,
    Recipe,
    TrainingError,
    log_scores,
    scaled,
)
from hgr_stream.training.runs import RUN, export_run, load_run, read_run, runs_in, teachers_for
from hgr_stream.training.truth import read_truths

CLASSES = ("push", "swipe", "wave")
QUICK = Recipe(
    epochs=25, batch=12, width=16, branches=2, dilations=(1, 2), rate=8e-3, keep=0.8, dropout=0.05
)


def a_hand() -> Float32:
    """(22, 3): an open hand, palm down, pointing away from the user."""
    joints = np.zeros((22, 3))
    for finger in range(5):
        for k in range(4):
            x, z = 0.02 * (finger - 2) * (1 + 0.1 * k), -0.06 - 0.03 * k
            joints[2 + 4 * finger + k] = x, 0.01 * k, z
    return with_palm(joints.astype(np.float32))


def performed(kind: str, rng: np.random.Generator) -> Float32:
    """(T, 22, 3): one take of a gesture."""
    t = np.linspace(0, 1, int(rng.integers(20, 50)))[:, None]
    way = {
        "push": np.hstack([0 * t, 0 * t, -0.25 * t]),
        "swipe": np.hstack([0.3 * t, 0 * t, 0 * t]),
        "wave": np.hstack([0.08 * np.sin(16 * t), 0 * t, 0 * t]),
    }[kind]
    path = way * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, 3) + [0, 0.05, 0.45]
    hand = a_hand() * rng.uniform(0.85, 1.15) + rng.normal(0, 0.001, (len(t), 22, 3))
    return with_palm((hand + path[:, None]).astype(np.float32))


def takes(repeats: int = 6, subjects: int = 4) -> Gestures:
    rng = np.random.default_rng(0)
    rows = [(k, str(s)) for s in range(subjects) for k in CLASSES for _ in range(repeats)]
    sequences = [performed(kind, rng) for kind, _ in rows]
    return Gestures(
        "made-up",
        [s.reshape(len(s), -1) for s in sequences],
        np.array([CLASSES.index(kind) for kind, _ in rows], dtype=np.int64),
        list(CLASSES),
        [s for _, s in rows],
        [f"take{i}" for i in range(len(rows))],
        30.0,
        coarse_of=(0, 1, 1),
        coarse_classes=["away", "aside"],
    )


@pytest.fixture(scope="module")
def gestures() -> Gestures:
    return takes()


@pytest.fixture(scope="module")
def run(gestures: Gestures, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "one"
    return train_isolated(gestures, QUICK, folder, held_out=["3"], device="cpu")


# ---- data ---------------------------------------------------------------------------------------


def write_takes(folder: Path, gestures: Gestures, kind: str) -> None:
    lines = ["file,label,subject"]
    for i, sequence in enumerate(gestures.sequences):
        name = f"take{i}.{kind}"
        if kind == "npy":
            np.save(folder / name, sequence)
        elif kind == "npz":
            np.savez(folder / name, joints=sequence.reshape(-1, 22, 3))
        elif kind == "csv":
            np.savetxt(folder / name, sequence, delimiter=",", fmt="%.6f")
        lines.append(f"{name},{CLASSES[gestures.labels[i]]},{gestures.subjects[i]}")
    (folder / "labels.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_own_recordings(gestures: Gestures, tmp_path: Path, kind: str) -> None:
    few = gestures.take([0, 6, 12, 18, 24, 30])
    write_takes(tmp_path, few, kind)
    loaded = load_recordings(tmp_path)
    assert loaded.classes == sorted(CLASSES)
    assert loaded.canonical
    assert loaded.subjects == ["0", "0", "0", "1", "1", "1"]
    assert [loaded.classes[k] for k in loaded.labels] == [CLASSES[k] for k in few.labels]
    for mine, theirs in zip(loaded.sequences, few.sequences, strict=True):
        assert np.abs(mine - theirs).max() < 2e-6


@pytest.mark.parametrize("names", ["words", "numbers", "rows numbered, too"])
def test_a_csv_may_name_its_columns(tmp_path: Path, names: str) -> None:
    """Numbered columns are no frame, numbered rows no joint."""
    joints = np.arange(34.0) + np.arange(5)[:, None] * 0.01
    head = [f"x{i}" if names == "words" else str(i) for i in range(34)]
    written = joints
    if names == "rows numbered, too":  # as pandas does, unless it is told index=False
        head, written = ["", *head], np.c_[np.arange(5), joints]
    np.savetxt(tmp_path / "a.csv", written, delimiter=",", header=",".join(head), comments="")
    (tmp_path / "labels.csv").write_text("a.csv,push\n")
    assert load_recordings(tmp_path).sequences[0] == pytest.approx(joints)


def write_mcap(
    path: Path, joints: Float32, rate_hz: float, side: Side = "right", lacks: Sequence[Lack] = ()
) -> None:
    """Frames (T, 22, 3) of one hand of the stream."""
    hands = mirrored(joints) if side == "left" else joints
    with Writer(path) as writer:
        for k, frame in enumerate(hands):
            now_ns = round(k * 1e9 / rate_hz)
            stamps = (now_ns,) * 5
            hand = Hand(1, side, joint_bytes(frame), lacks=[*lacks])
            message = Frame("test", "b", k, *stamps, index=k, hands=[hand])
            writer.write("frame/test", encode(message), now_ns, now_ns)


def test_own_mcap_recordings(gestures: Gestures, tmp_path: Path) -> None:
    """The hand that is seen most is taken, and a left one is mirrored."""
    joints = gestures.joints(0)
    with Writer(tmp_path / "one.mcap") as writer:
        for k, frame in enumerate(joints):
            hands = [Hand(1, "left", joint_bytes(mirrored(frame)))]
            if k < 5:
                hands.append(Hand(2, "right", joint_bytes(frame + 1)))
            now_ns = k * 40_000_000
            stamps = (now_ns,) * 5
            message = Frame("test", "b", k, *stamps, index=k, hands=hands)
            writer.write("frame/test", encode(message), now_ns, now_ns)
    (tmp_path / "labels.csv").write_text("one.mcap,push\n")
    loaded = load_recordings(tmp_path, rate_hz=25.0)
    assert np.array_equal(loaded.joints(0), joints)


@pytest.mark.parametrize("recorded_hz", [30.0, 60.0, 120.0])
def test_mcap_recordings_are_brought_to_the_rate(tmp_path: Path, recorded_hz: float) -> None:
    """A second of a hand moving evenly is the same 31 frames, however often it was looked at."""
    t = np.arange(round(recorded_hz) + 1)[:, None, None] / recorded_hz
    write_mcap(tmp_path / "a.mcap", (a_hand() + t * [0.3, 0, 0]).astype(np.float32), recorded_hz)
    (tmp_path / "labels.csv").write_text("a.mcap,push\n")
    loaded = load_recordings(tmp_path)
    assert loaded.lengths.tolist() == [31]
    assert loaded.joints(0)[:, 0, 0] == pytest.approx(0.01 * np.arange(31), abs=1e-6)
    assert load_recordings(tmp_path, rate_hz=60.0).lengths.tolist() == [61]


def test_of_a_lost_hand_the_longest_stretch_is_taken(tmp_path: Path) -> None:
    """No line is drawn over a gap at which the stream loses it, nor over a clock set anew."""
    with Writer(tmp_path / "a.mcap") as writer:
        for k in range(60):
            now_ns = k * 50_000_000 + (k >= 20) * 10**18
            hand = Hand(1, "right", joint_bytes(a_hand() + np.float32(0.001 * k)))
            message = Frame("test", "b", k, *(now_ns,) * 5, index=k, hands=[hand, hand])
            writer.write("frame/test", encode(message), now_ns, now_ns)
    (tmp_path / "labels.csv").write_text("a.mcap,push\n")
    loaded = load_recordings(tmp_path, rate_hz=20.0)
    assert loaded.lengths.tolist() == [40]
    assert loaded.joints(0)[0] == pytest.approx(a_hand() + 0.02, abs=1e-6)
    told = "of a.mcap the longest stretch is taken, 40 of 60 frames"
    assert loaded.notes == [f"in 1 recordings the hand was lost: {told}"]


def test_a_left_hands_directions_are_exchanged(tmp_path: Path) -> None:
    """Mirrored, a left hand that swipes to the left is a right hand that swipes to the right."""
    labels = ["SWIPE_LEFT", "SWIPE_RIGHT", "TURN_CW", "TURN_CCW", "TAP"]
    lines = []
    for side in ("left", "right"):
        for label in labels:
            write_mcap(tmp_path / f"{side}-{label}.mcap", np.tile(a_hand(), (9, 1, 1)), 30.0, side)
            lines.append(f"{side}-{label}.mcap,{label}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    loaded = load_recordings(tmp_path)
    given = [loaded.classes[k] for k in loaded.labels]
    assert given[:5] == ["SWIPE_RIGHT", "SWIPE_LEFT", "TURN_CCW", "TURN_CW", "TAP"]
    assert given[5:] == labels


def test_recordings_that_the_labels_do_not_name_are_told(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(tmp_path / name, np.tile(a_hand(), (9, 1, 1)))
    (tmp_path / "notes.csv").write_text("mine\n")
    (tmp_path / "labels.csv").write_text("a.npy,push\n")
    [note] = load_recordings(tmp_path).notes
    assert note == f"2 other recordings in {tmp_path} are not in labels.csv: left out"


def test_recordings_are_known_by_any_path_that_the_labels_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(tmp_path / name, np.tile(a_hand(), (9, 1, 1)))
    monkeypatch.chdir(tmp_path.parent)
    here = tmp_path.name
    lines = [f"{tmp_path / 'a.npy'},push", f"../{here}/b.npy,push", "c.npy,pull"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert load_recordings(here).notes == []
    (tmp_path / "c.npy").unlink()
    (tmp_path / "c.npy").mkdir()
    with pytest.raises(DatasetError, match=r"c\.npy: a folder, no file"):
        load_recordings(here)


def test_likely_slips_in_recordings_are_told(tmp_path: Path) -> None:
    hand = np.tile(a_hand(), (9, 1, 1))
    lines = []
    for name, label, subject in (("a", "Push", "Anna"), ("b", "push", "anna"), ("c", "tap", "")):
        joints = hand * np.float32(name == "a") + hand * (np.arange(9) < 7)[:, None, None]
        np.save(tmp_path / f"{name}.npy", joints)
        lines.append(f"{name}.npy,{label},{subject}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert load_recordings(tmp_path).notes == [
        "label 'Push' and 'push' count as two: meant as one?",
        "subject 'Anna' and 'anna' count as two: meant as one?",
        "4 frames of 2 recordings are all zeros, the first in b.npy: was the hand lost?",
    ]


def test_a_column_of_times_is_told(tmp_path: Path) -> None:
    """With the frames' numbers beside 17 joints 30 % were right, without them 80."""
    rng = np.random.default_rng(0)
    for name, frames in (("a", 9), ("b", 12)):
        joints = rng.normal(0, 0.1, (frames, 66))
        np.savetxt(tmp_path / f"{name}.csv", np.c_[np.arange(frames), joints], delimiter=",")
    (tmp_path / "labels.csv").write_text("a.csv,push\nb.csv,tap\n")
    told = load_recordings(tmp_path).notes
    assert told[0].startswith("column 1 rises with every frame of all recordings: if it is a time")
    assert told[1].startswith("67 channels are no hand")


def test_other_joints_are_mapped_or_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hands = {(20, 3), (21, 3), (22, 3), (26, 3), (60,), (63,), (66,), (78,)}
    others = {(17, 3), (21, 2), (17, 2), (7, 3), (30, 2), (33, 2), (39, 2), (42,)}
    for shape in hands | others:
        np.save(tmp_path / "a.npy", rng.normal(0, 0.1, (9, *shape)))
        (tmp_path / "labels.csv").write_text("a.npy,push\n")
        loaded = load_recordings(tmp_path)
        assert loaded.canonical is (shape in hands)
        assert loaded.channels == (66 if shape in hands else np.prod(shape))
        assert any("not exported" in note for note in loaded.notes) is (shape in others)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.npy", np.full((9, 66), np.nan, np.float32), "a.npy: NaN or infinity in frame 0"),
        ("a.npy", np.zeros((1, 66), np.float32), "a.npy: 1 frames, wants 2"),
        ("a.npy", np.zeros((0, 66), np.float32), r"a.npy: shape \(0, 66\) is not"),
        ("a.npy", np.zeros((0, 22, 3), np.float32), r"a.npy: shape \(0, 22, 3\) is not"),
        ("a.npy", np.full((9, 66), 1e30, np.float32), r"a.npy: 1e\+30 in frame 0 is beyond any"),
        ("a.npy", np.full((9, 66), 2000.0), "a.npy: 2e.03 in frame 0 is beyond any hand; are its"),
        ("a.npy", np.full((9, 42), 1e30), "a.npy: 1e.30 in frame 0 is beyond any hand$"),
        ("a.npy", np.full((9, 66), 1e300), "a.npy: NaN or infinity in frame 0"),
        ("a.npy", np.zeros(66, np.float32), r"a.npy: shape \(66,\) is not"),
        ("a.npy", np.array(["x"]), "a.npy: holds <U1, not numbers"),
        ("a.npy", b"no array", "a.npy: not a NumPy file"),
        ("a.csv", b"1,2,3\n4,five,6\n7,8,9\n", "a.csv line 2: not a number"),
        ("a.csv", b"1,2,3\n4,nan,6\n7,8,9\n", "a.csv: NaN or infinity in line 2$"),
        ("a.csv", b"1,2,3\n4,5,6\n7,8", "a.csv line 3: cut short$"),
        ("a.csv", b"x,y,z\nx,y,z\n7,8,9\n", "a.csv line 2: not a number"),
        ("a.csv", b"x,y,z\n", "a.csv: holds no frames"),
        ("a.txt", b"", "a.txt: not one of .mcap, .npy, .npz, .csv"),
        ("a.mcap", b"no recording", "a.mcap: not an MCAP recording"),
    ],
)
def test_bad_recordings_are_named(tmp_path: Path, name: str, content: object, fault: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, np.asarray(content))
    (tmp_path / "labels.csv").write_text(f"{name},push\n")
    with pytest.raises(DatasetError, match=fault):
        load_recordings(tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "names no recordings"),
        ("file,label\na.npy\n", "line 2: not 'file,label'"),
        ("a.npy,push\na.npy,wave\n", "names a.npy twice"),
        ("b.npy,push\n", "b.npy: no such file"),
        (None, "no such labels file"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, text: str | None, fault: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 66), np.float32))
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=fault):
        load_recordings(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_whatever_ends_the_lines_of_labels_splits_and_truths(tmp_path: Path, end: str) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, np.zeros((9, 66), np.float32))

    def written(name: str, *lines: str) -> Path:
        (tmp_path / name).write_bytes(end.join(lines).encode("utf-8-sig"))
        return tmp_path / name

    written("labels.csv", "file,label,subject", "a.npy, push ,anna", "", "b.npy,wave,ben", "")
    loaded = load_recordings(tmp_path)
    assert (loaded.classes, loaded.subjects) == (["push", "wave"], ["anna", "ben"])
    parts = read_split(written("split.csv", "what,part", "anna,train", "b.npy,test"), loaded)
    assert [parts[part].tolist() for part in ("train", "test")] == [[0], [1]]
    truths = read_truths(written("truth.csv", "label,start_s,end_s", "# one", "push,1,2"), "")
    assert [(n, t.label) for n, t in truths] == [(3, "push")]
    written("labels.csv", "a.npy," + 200_000 * "x")
    with pytest.raises(DatasetError, match=r"labels.csv: not a CSV file: field larger than"):
        load_recordings(tmp_path)


def test_faults_in_arrays_are_named(gestures: Gestures) -> None:
    out_of_range = gestures.take(range(len(gestures)))
    out_of_range.labels = gestures.labels + 1
    with pytest.raises(DatasetError, match="label 3 is not one of the 3 classes"):
        out_of_range.check()
    with pytest.raises(DatasetError, match="class 'swipe' has no gesture"):
        gestures.take(np.flatnonzero(gestures.labels != 1)).check()
    odd = gestures.take(range(4))
    odd.sequences[2] = np.zeros((5, 60), np.float32)
    with pytest.raises(DatasetError, match=r"take2: shape \(5, 60\)"):
        odd.check()
    with pytest.raises(DatasetError, match="no gestures"):
        gestures.take([]).check()


def test_folds_keep_people_whole_and_balanced() -> None:
    people = [s for s in "abcdefg" for _ in range(10 + 5 * (s == "a"))]
    groups = fold_subjects(people, 3)
    assert sorted(s for g in groups for s in g) == list("abcdefg")
    sizes = [sum(people.count(s) for s in g) for g in groups]
    assert max(sizes) - min(sizes) <= 10
    assert fold_subjects(people, 3) == groups
    with pytest.raises(DatasetError, match="8 folds of 7 subjects"):
        fold_subjects(people, 8)
    with pytest.raises(DatasetError, match="1 folds of 1 subjects: wants two subjects or more"):
        fold_subjects(["a"], 1)
    with pytest.raises(DatasetError, match="1 gestures name no subject"):
        fold_subjects([*people, ""], 3)
    inside, outside = divide(people, ["a", "b"])
    assert {people[i] for i in outside} == {"a", "b"}
    assert len(inside) + len(outside) == len(people)
    with pytest.raises(DatasetError, match="no subject 'z'"):
        divide(people, ["z"])
    with pytest.raises(DatasetError, match="nobody is left"):
        divide(people, list("abcdefg"))


def test_a_split_file(gestures: Gestures, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("what,part\n0,train\n1,train\n3,test\ntake40,test\n")
    parts = read_split(path, gestures)
    assert {gestures.subjects[i] for i in parts["train"]} == {"0", "1"}
    assert 40 in parts["test"]
    for text, fault in (("9,test", "no gesture and no subject '9'"), ("0,both", "line 1: not"),
                        ("0,train\ntake3,test", "line 2: take3 comes twice")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DatasetError, match=fault):
            read_split(path, gestures)


def test_shrec17_as_arrays(shared_data: Path, tmp_path: Path) -> None:
    """Four real files in the official layout; the shear is taken out or left."""
    import tarfile

    with tarfile.open(shared_data / "shrec17_train.tar.xz") as archive:
        found = []
        for member in archive:
            if member.name.endswith("skeletons_world.txt"):
                archive.extract(member, tmp_path, filter="data")
                found.append(member.name)
                if len(found) == 4:
                    break
    fine = load_shrec17(tmp_path)
    assert len(fine) == 4
    assert fine.channels == 66
    assert fine.coarse_labels.tolist() == [k // 2 for k in fine.labels.tolist()]
    joints, lengths = fine.padded()
    assert joints.shape == (4, lengths.max(), 66)
    coarse = load_shrec17(tmp_path, 14, unshear=False)
    assert coarse.classes[0] == "GRAB"
    assert coarse.labels.tolist() == fine.coarse_labels.tolist()
    spread = [np.std(bone_lengths(g.joints(0)), 0).mean() for g in (fine, coarse)]
    assert spread[0] < spread[1]
    for classes in (7, "14"):
        with pytest.raises(ValueError, match="has 14 or 28 classes, not "):
            load_shrec17(tmp_path, classes)  # type: ignore[arg-type]


def shrec17_lists(root: Path) -> None:
    """Takes of subject 1, who is on the train list, and of subject 2, who is tested on."""
    rng = np.random.default_rng(0)
    for subject, part in ((1, "train"), (2, "test")):
        lines = []
        for g, f in itertools.product(range(1, 15), (1, 2)):
            take = root / f"gesture_{g}/finger_{f}/subject_{subject}/essai_1"
            take.mkdir(parents=True)
            joints = a_hand() + rng.normal(0, 0.02, (9, 1, 3))
            np.savetxt(take / "skeletons_world.txt", joints.reshape(9, 66))
            lines.append(f"{g} {f} {subject} 1 {g} {2 * g - 2 + f} 9\n")
        (root / f"{part}_gestures.txt").write_text("".join(lines))


def test_the_test_list_is_not_learnt_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the folder begins at home, which a shell leaves to us."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shrec17_lists(tmp_path / "s17")
    for root in (str(tmp_path / "s17"), "~/s17"):
        (found,) = load_others((f"shrec17={root}",), 30.0)
        assert set(found.subjects) == {"1"}


def test_a_split_file_may_name_the_test_list(tmp_path: Path) -> None:
    """A split of the user's own is over everybody, for the training as for ``hgr evaluate``."""
    shrec17_lists(tmp_path / "s17")
    split, run = tmp_path / "split.csv", tmp_path / "r"
    split.write_text("1,train\n2,test\n")
    told = ["--dataset", "shrec17", "--root", str(tmp_path / "s17"), "--out", str(run)]
    quick = ["--epochs", "1", "--width", "16", "--device", "cpu"]
    done = CliRunner().invoke(train_isolated_command, [*told, *quick, "--split", str(split)])
    assert done.exit_code == 0, done.output
    settings = read_run(run)
    assert (settings["subjects"], settings["held_out"]) == (["1"], ["2"])


def test_a_root_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dhg(tmp_path / "DHG")
    assert len(load_shrec17("~/DHG")) == 3


def dhg(root: Path, frames: int = 30) -> Path:
    """A made-up DHG-14/28: gestures 2 and 9 of two subjects; frame k's wrist is k mm away."""
    for g, subject in ((2, 1), (2, 2), (9, 1)):
        folder = root / f"gesture_{g}/finger_1/subject_{subject}/essai_1"
        folder.mkdir(parents=True)
        rows = np.arange(66)[None] * 0.001 + 0.001 * np.arange(frames)[:, None]
        np.savetxt(folder / "skeleton_world.txt", rows, fmt="%.6f")
    return root


def test_dhg_is_trimmed_to_the_gesture(tmp_path: Path) -> None:
    root = dhg(tmp_path / "dhg")
    assert load_shrec17(root).lengths.tolist() == [30, 30, 30]
    assert load_shrec17(root).data == "dhg"  # whose subject 1 is not SHREC'17's
    trims = root / "informations_troncage_sequences.txt"
    trims.write_text("2 1 1 1 5 14\n2 1 2 1 20 30\n\n")
    with pytest.raises(DatasetError, match="class 'GRAB_1' has no gesture"):
        load_shrec17(root).check()
    whole = load_shrec17_sequences(root, unshear=False)
    assert [len(s.joints) for s in whole] == [30, 30, 30]
    found = load_shrec17(root, unshear=False)
    assert found.lengths.tolist() == [10, 10, 30]
    assert found.sequences[0][:, 0] == pytest.approx(0.001 * np.arange(5, 15))
    assert found.sequences[1][-1, 0] == pytest.approx(0.029)
    assert found.names[0] == "gesture_2/finger_1/subject_1/essai_1"
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "informations_troncage_sequences.txt ends it at 30, past its last frame",
        "informations_troncage_sequences.txt does not name it: taken whole",
    ]
    assert found.labels.tolist() == [2, 2, 16]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("2 1 1 1 5", "line 1: not 'G F S E first last'"),
        ("2 1 1 1 14 5", "line 1: the gesture ends before it starts"),
        ("2 1 1 1 40 50", "subject_1/essai_1 has no frames 40 to 50"),
        ("2 1 1 1 a b", "line 1: not"),
    ],
)
def test_a_trim_list_that_does_not_fit(tmp_path: Path, line: str, fault: str) -> None:
    root = dhg(tmp_path)
    (root / "informations_troncage_sequences.txt").write_text(line)
    with pytest.raises(DatasetError, match=fault):
        load_shrec17(root)


# ---- distortions --------------------------------------------------------------------------------


def test_no_distortion_changes_nothing(gestures: Gestures) -> None:
    none = Distortion(0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    long = np.concatenate(gestures.sequences)[:700]  # a quarter of a minute and more
    data = Packed.of([*gestures.sequences, long])
    index = torch.tensor([5, 0, 30, 72])
    g = torch.Generator().manual_seed(0)
    frames, lengths = draw(data, index, none, g)
    expected, same = data.take(index)
    assert torch.equal(lengths, same)
    assert torch.allclose(frames, expected, atol=1e-5)
    joints = another_hand(frames.view(-1, 22, 3), lengths, none, g)
    assert torch.allclose(joints.flatten(1), expected, atol=1e-5)


def test_distorted_hands_are_hands(gestures: Gestures) -> None:
    data = Packed.of(gestures.sequences)
    index = torch.arange(40)
    spread = Distortion(wobble_m=0, noise_m=0, faults=0)
    frames, n = draw(data, index, spread, torch.Generator().manual_seed(1))
    joints = another_hand(frames.view(-1, 22, 3), n, spread, torch.Generator().manual_seed(1))
    again = another_hand(frames.view(-1, 22, 3), n, spread, torch.Generator().manual_seed(1))
    assert torch.equal(joints, again)
    assert len(joints) == int(n.sum())
    ratio = n / data.lengths[index]
    assert 0.4 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.7
    own = bone_lengths(joints.numpy()).reshape(len(joints), 21)
    for part in np.split(own, np.cumsum(n.numpy())[:-1]):
        finger_bones = [k for k in range(21) if PARENTS[k + 1] > 1]
        assert part[:, finger_bones].std(0).max() < 0.01  # one hand through a whole take
    assert np.allclose(joints[:, 1], 0.5 * (joints[:, 0] + joints[:, 10]), atol=1e-6)


def test_resampling_packed_gestures() -> None:
    frames = torch.cat([torch.linspace(0, 1, 7), torch.tensor([5.0]), torch.linspace(2, 3, 30)])
    out = resampled(frames[:, None], torch.tensor([7, 1, 30]), 5)[..., 0]
    expected = torch.stack([torch.linspace(0, 1, 5), torch.full((5,), 5.0),
                            torch.linspace(2, 3, 5)])  # fmt: skip
    assert torch.allclose(out, expected, atol=1e-6)


# ---- training -----------------------------------------------------------------------------------


def test_learns_people_it_has_not_seen(run: Outcome) -> None:
    assert run.figures["accuracy/validation"] >= 0.9
    assert run.figures["accuracy/validation coarse"] >= run.figures["accuracy/validation"]
    settings = read_run(run.folder)
    assert settings["subjects"] == ["0", "1", "2"]
    assert settings["held_out"] == ["3"]
    assert list(run.folder.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("coarse", [False, True])
def test_the_file_scores_as_in_training(
    run: Outcome, gestures: Gestures, tmp_path: Path, coarse: bool
) -> None:
    path = tmp_path / "mine.pt"
    metadata = export_run(run.folder, path, coarse=coarse, command="hgr export")
    assert metadata.training["subjects"] == ["0", "1", "2"]
    assert metadata.scores["accuracy/validation"] >= 0.9
    model = Model(path)
    batches = Batches(gestures, QUICK, torch.device("cpu"))
    logits = predict(run.net, batches, np.arange(len(gestures)))
    expected = log_scores(run.net, logits)[0 if coarse else 1]
    for i in (0, 20, 71):
        with torch.inference_mode():
            given = model.bundle.module.classify(torch.from_numpy(gestures.joints(i))[None])
        assert torch.allclose(given, expected[i : i + 1], atol=1e-4)


def test_a_file_of_coarse_classes_tells_their_accuracy(run: Outcome, tmp_path: Path) -> None:
    """It told that of the finer ones, which are harder."""
    folder = tmp_path / "r"
    shutil.copytree(run.folder, folder)
    told = json.loads((folder / "scores.json").read_text())
    told["best"] |= {"accuracy/validation": 0.5, "accuracy/validation coarse": 0.75}
    (folder / "scores.json").write_text(json.dumps(told))
    for coarse, wanted in ((False, 0.5), (True, 0.75)):
        metadata = export_run(folder, tmp_path / "mine.pt", coarse=coarse)
        assert metadata.scores["accuracy/validation"] == wanted
    assert metadata.scores.keys() == {"accuracy/validation"}


@pytest.mark.parametrize("kind", ["mcap", "npy"])
def test_a_model_does_without_what_its_recordings_lacked(
    gestures: Gestures, tmp_path: Path, kind: str
) -> None:
    """One trained on pictures' hands, which are flat, was said to need depth: it refused them."""
    flat = gestures.take(range(0, len(gestures), 6))
    flat.sequences = [s * np.tile(np.float32([1, 1, 0]), 22) for s in flat.sequences]
    write_takes(tmp_path, flat, kind)  # MCAP is written here
    for i in range(len(flat) if kind == "mcap" else 0):
        write_mcap(tmp_path / f"take{i}.mcap", flat.joints(i), 30.0, lacks=["depth", "tips"])
    loaded = load_recordings(tmp_path)
    assert set(loaded.lacks) == {("depth", "tips") if kind == "mcap" else ("depth",)}
    run = train_isolated(loaded, scaled(QUICK, epochs=1), tmp_path / "r", device="cpu")
    assert export_run(run.folder, tmp_path / "flat.pt").needs == ["fingers"]


def test_what_half_of_the_hands_lack_is_lacked() -> None:
    assert lacked([]) == ()
    assert lacked([("depth",), (), ("depth", "tips")]) == ("depth",)
    assert lacked([("tips",), ()]) == ("tips",)


def test_left_hands_are_told_the_direction_that_they_moved(run: Outcome, tmp_path: Path) -> None:
    """The worker mirrors them before the network, so that the file says what is exchanged."""
    folder = shutil.copytree(run.folder, tmp_path / "named")
    settings = read_run(folder) | {"classes": ["push", "swipe_left", "swipe_right"]}
    (folder / RUN).write_text(json.dumps(settings))
    metadata = export_run(folder, tmp_path / "mine.pt")
    assert metadata.mirror_left
    assert metadata.mirror_labels == {"swipe_left": "swipe_right", "swipe_right": "swipe_left"}
    told = CliRunner().invoke(cli, ["model", "show", str(tmp_path / "mine.pt")]).stdout
    assert "swipe_left is swipe_right" in told
    assert "% of those held out in training" in told


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_files_exchange_what_a_mirror_does(name: str) -> None:
    m = read_metadata(resolve(name))
    assert m.mirror_labels == mirror_pairs(m.labels) != {}


def test_none_is_what_has_only_begun(run: Outcome, gestures: Gestures, tmp_path) -> None:
    export_run(run.folder, tmp_path / "mine.pt")
    module = Model(tmp_path / "mine.pt").bundle.module
    first, last = [], []
    for i in np.flatnonzero(np.array(gestures.subjects) == "3"):
        joints = torch.from_numpy(gestures.joints(i))[None]
        with torch.inference_mode():
            logits = module(joints, module.initial_state(1))[0][0]
        first.append(int(logits[1].argmax()) == 0)
        last.append(int(logits[-1].argmax()) == 0)
    assert np.mean(first) > 0.7
    assert np.mean(last) < 0.2


def test_resumed_equals_unbroken(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=3)
    whole = train_isolated(gestures, recipe, tmp_path / "whole", device="cpu")

    def stop(epoch: int, _epochs: int, _figures: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_isolated(gestures, recipe, tmp_path / "cut", device="cpu", watch=stop)
    with pytest.raises(TrainingError, match="holds a run already"):
        train_isolated(gestures, recipe, tmp_path / "cut", device="cpu")
    resumed = train_isolated(gestures, recipe, tmp_path / "cut", device="cpu", resume=True)
    assert resumed.epochs == whole.epochs == 3
    for mine, theirs in zip(
        resumed.net.state_dict().values(), whole.net.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    with pytest.raises(TrainingError, match="other held_out"):
        train_isolated(
            gestures, recipe, tmp_path / "cut", held_out=["1"], device="cpu", resume=True
        )


def test_a_teacher_is_learnt_from(run: Outcome, gestures: Gestures, tmp_path: Path) -> None:
    taught = scaled(QUICK, epochs=12, teachers=(str(run.folder),), distil=1.0, seed=3)
    student = train_isolated(gestures, taught, tmp_path / "s", held_out=["3"], device="cpu")
    assert student.figures["accuracy/validation"] > 0.7  # no label was looked at
    with pytest.raises(TrainingError, match="this teacher was trained on the held-out '1'"):
        train_isolated(gestures, taught, tmp_path / "t", held_out=["1"], device="cpu")
    with pytest.raises(TrainingError, match="a teacher of other classes"):
        train_isolated(gestures.of_coarse(), taught, tmp_path / "u", device="cpu")


def test_the_reference_network_teaches_coarse_classes_too(
    gestures: Gestures, tmp_path: Path
) -> None:
    """Of which it has no outputs: what it says of a coarse class is the sum of its own."""
    recipe = scaled(MODERN, epochs=2, batch=24)
    teacher = train_isolated(gestures, recipe, tmp_path / "t", held_out=["3"], device="cpu")
    assert "accuracy/validation coarse" in teacher.figures
    taught = scaled(QUICK, epochs=2, teachers=(str(teacher.folder),))
    student = train_isolated(gestures, taught, tmp_path / "s", held_out=["3"], device="cpu")
    assert student.epochs == 2
    logits = torch.randn(5, 1, 3)
    coarse, fine = (one.exp() for one in log_scores(teacher.net, logits))
    assert fine == pytest.approx(logits[:, 0].softmax(1))
    assert coarse == pytest.approx(torch.stack([fine[:, 0], fine[:, 1:].sum(1)], 1))


def test_folds_and_seeds_are_taught_by_those_who_may(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=2)
    teachers = list(train_folds(gestures, recipe, tmp_path / "t", 2, device="cpu"))
    taught = scaled(recipe, teachers=(str(tmp_path / "t"),))
    runs = list(train_folds(gestures, taught, tmp_path / "s", 2, seeds=(0, 4), device="cpu"))
    assert [r.folder.relative_to(tmp_path / "s").as_posix() for r in runs] == [
        "seed-0/fold-1", "seed-0/fold-2", "seed-4/fold-1", "seed-4/fold-2",
    ]  # fmt: skip
    assert runs_in(tmp_path / "s") == [r.folder for r in runs]
    assert [r.held_out for r in runs] == 2 * [t.held_out for t in teachers]
    _, held = divide(gestures.subjects, runs[1].held_out)
    (teacher,) = teachers_for(tmp_path / "t", gestures, held)  # fold 2's; fold 1's has seen them
    for mine, theirs in zip(
        teacher.net.state_dict().values(), teachers[1].net.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    over = spread(runs)["accuracy/validation"]
    by_hand = [np.mean([r.figures["accuracy/validation"] for r in runs[i : i + 2]]) for i in (0, 2)]
    assert list(over["by seed"].values()) == pytest.approx(by_hand)
    assert over["mean"] == pytest.approx(np.mean(by_hand))
    assert over["deviation of seeds"] == pytest.approx(np.std(by_hand, ddof=1))


def test_runs_do_not_come_among_others(run: Outcome, gestures: Gestures, tmp_path: Path) -> None:
    def told(folder: Path, folds: int, resume: bool = False) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(TrainingError) as refused:
            next(train_folds(gestures, QUICK, folder, folds, device="cpu", resume=resume))
        assert sorted(tmp_path.rglob("*")) == before
        return str(refused.value)

    shutil.copytree(run.folder, tmp_path / "several" / "fold-2")
    shutil.copytree(run.folder, tmp_path / "one")
    for folds in (0, 2):
        assert "several/fold-2: holds a run already" in told(tmp_path / "several", folds)
        assert "one: holds a run already" in told(tmp_path / "one", folds)
    fold = tmp_path / "several" / "fold-2"
    assert "resume the folder that holds them all" in told(fold, 2, resume=True)


def test_other_sets_are_learnt_beside(gestures: Gestures, tmp_path: Path) -> None:
    others = takes(repeats=2).of_coarse()
    others.data = "elsewhere"
    others.sequences = [s + np.float32(2.3) for s in others.sequences]
    near = moved_to(others, gestures)
    assert all(np.abs(s).max() < 1.5 for s in near.sequences)
    assert bone_lengths(near.joints(3)) == pytest.approx(bone_lengths(others.joints(3)), abs=1e-5)
    recipe = scaled(QUICK, epochs=2, beside=6, backwards=True)
    run = train_isolated(
        gestures, recipe, tmp_path / "r", held_out=["1"], device="cpu", also=[others]
    )
    assert read_run(run.folder)["also"] == ["elsewhere"]
    state = torch.load(run.folder / "last.pt", weights_only=True)
    heads = [state["beside"][f"heads.{i}.weight"] for i in (0, 1)]
    assert [len(h) for h in heads] == [2, 3]  # their own classes, and the wanted ones backwards
    alone = train_isolated(
        gestures, scaled(QUICK, epochs=2), tmp_path / "a", held_out=["1"], device="cpu"
    )
    assert alone.net.state_dict().keys() == run.net.state_dict().keys()
    resumed = train_isolated(
        gestures, recipe, run.folder, held_out=["1"], device="cpu", resume=True, also=[others]
    )
    assert resumed.epochs == 2
    with pytest.raises(TrainingError, match="other also"):
        train_isolated(gestures, recipe, run.folder, held_out=["1"], device="cpu", resume=True)
    with pytest.raises(DatasetError, match="beside is 0"):
        train_isolated(gestures, scaled(QUICK, beside=0), tmp_path / "b", also=[others])
    others.canonical = False
    with pytest.raises(DatasetError, match="elsewhere: its channels are no hand"):
        train_isolated(gestures, recipe, tmp_path / "b", also=[others])


def test_the_reference_network_learns_beside_others(gestures: Gestures, tmp_path: Path) -> None:
    others = gestures.take(range(0, len(gestures), 2))
    others.data = "elsewhere"
    recipe = scaled(MODERN, epochs=1, batch=24, beside=4, backwards=True)
    run = train_isolated(
        gestures, recipe, tmp_path / "r", held_out=["1"], device="cpu", also=[others]
    )
    state = torch.load(run.folder / "last.pt", weights_only=True)
    assert [len(state["beside"][f"heads.{i}.weight"]) for i in (0, 1)] == [3, 3]
    assert not any("heads" in k for k in run.net.state_dict())


def test_backwards_is_of_those_trained_on(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, beside=6, backwards=True)
    inside, outside = divide(gestures.subjects, ["1"])
    loop = _Loop(gestures, recipe, tmp_path, inside, outside, torch.device("cpu"))
    (data,) = loop.beside.data
    assert len(data.lengths) == len(inside)
    expected = gestures.sequences[inside[2]][::-1].copy()
    assert torch.equal(data.take(torch.tensor([2]))[0], torch.from_numpy(expected))


def test_others_come_where_those_trained_on_perform(gestures: Gestures, tmp_path: Path) -> None:
    """Not to where somebody who is held out does."""
    far = replace(
        gestures,
        sequences=[
            s + np.float32(5 * (who == "1"))
            for s, who in zip(gestures.sequences, gestures.subjects, strict=True)
        ],
    )
    inside, outside = divide(gestures.subjects, ["1"])
    others = replace(takes(repeats=2), data="elsewhere")
    cpu = torch.device("cpu")
    loop = _Loop(far, scaled(QUICK, beside=6), tmp_path, inside, outside, cpu, [others])
    assert loop.beside.data[0].frames.abs().max() < 2


def test_gestures_cut_from_continuous_recordings(shared_data: Path) -> None:
    found = load_continuous("shrec21", shared_data / "shrec21_online_train")
    assert len(found.classes) == 17
    assert 395 < len(found) <= 408
    assert len(found.notes) < 5
    assert 20 < np.median(found.lengths) < 45  # at 30 a second
    assert min(found.lengths) >= 6
    (fast,) = load_others((f"shrec21={shared_data / 'shrec21_online_train'}",), 60.0)
    assert fast.rate_hz == 60
    assert np.median(fast.lengths) == pytest.approx(2 * np.median(found.lengths), abs=3)


def test_sharpness_aware_steps_end_where_they_began(gestures: Gestures, tmp_path: Path) -> None:
    inside, outside = divide(gestures.subjects, ["1"])
    recipe = scaled(QUICK, sharpness=0.3)
    loop = _Loop(gestures, recipe, tmp_path, inside, outside, torch.device("cpu"))
    batch = loop._batch(loop.inside[: recipe.batch])
    loop.net.eval()  # nothing is dropped: the two losses differ by the weights alone
    drawn = loop.draw.get_state()
    before = {k: v.clone() for k, v in loop.net.named_parameters()}
    loss, _ = loop._loss(batch, mixed=False)
    loss.backward()
    with loop._uphill():
        way = torch.cat(
            [
                (p - before[k]).flatten()
                for k, p in loop.net.named_parameters()
                if p.grad is not None
            ]
        )
        loop.draw.set_state(drawn)
        higher, _ = loop._loss(batch, mixed=False)
    assert float(way.detach().norm()) == pytest.approx(0.3, rel=1e-3)
    assert higher > loss
    assert all(torch.equal(p, before[k]) for k, p in loop.net.named_parameters())


def test_sharpness_changes_what_is_learnt(gestures: Gestures, tmp_path: Path) -> None:
    def train(name: str, **more: float) -> dict[str, torch.Tensor]:
        recipe = scaled(QUICK, epochs=1, **more)
        return train_isolated(gestures, recipe, tmp_path / name, device="cpu").net.state_dict()

    plain, again, sharp = train("a"), train("b", sharpness=0.0), train("c", sharpness=0.3)
    assert all(torch.equal(plain[k], again[k]) for k in plain)
    assert not torch.equal(plain["branches.0.stem.weight"], sharp["branches.0.stem.weight"])


def test_an_epoch_of_mixed_gestures_tells_no_accuracy(gestures: Gestures, tmp_path: Path) -> None:
    told: list[bool] = []
    train_isolated(
        gestures, scaled(QUICK, epochs=4, batch=64), tmp_path / "r", device="cpu",
        watch=lambda _, __, figures: told.append("accuracy/train" in figures),
    )  # fmt: skip
    assert told == [False, True, False, True]


def test_stops_when_it_gets_no_better(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=30, rate=0.0, patience=2)
    run = train_isolated(gestures, recipe, tmp_path / "r", held_out=["0"], device="cpu")
    assert run.epochs < 30


def test_minutes_shorten_the_schedule(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=10_000, minutes=0.01)
    run = train_isolated(gestures, recipe, tmp_path / "r", device="cpu")
    assert 1 <= run.epochs < 100


@pytest.mark.parametrize("preset", [ORIGINAL, MODERN])
def test_reference_network(gestures: Gestures, tmp_path: Path, preset: Recipe) -> None:
    recipe = scaled(preset, epochs=3, batch=12)
    run = train_isolated(gestures, recipe, tmp_path / "r", held_out=["1"], device="cpu")
    assert run.figures["accuracy/validation"] > 0.5
    export_run(run.folder, tmp_path / "devineau.pt")
    model = Model(tmp_path / "devineau.pt")
    batches = Batches(gestures, recipe, torch.device("cpu"))
    expected = predict(run.net, batches, np.array([7]))[0].softmax(1)
    model.bundle.metadata.temperature = 1.0
    given = model.probabilities(gestures.joints(7))
    assert given == pytest.approx(expected[0].numpy(), abs=1e-4)
    metadata = export_run(run.folder, tmp_path / "coarse.pt", coarse=True)
    assert metadata.labels == gestures.coarse_classes
    summed = np.zeros(len(metadata.labels))
    np.add.at(summed, list(gestures.coarse_of), expected[0].numpy())
    model = Model(tmp_path / "coarse.pt")
    model.bundle.metadata.temperature = 1.0
    assert model.probabilities(gestures.joints(7)) == pytest.approx(summed, abs=1e-4)


@pytest.mark.parametrize("preset", [QUICK, MODERN])
def test_coarse_classes_have_a_temperature_of_their_own(
    gestures: Gestures, tmp_path: Path, preset: Recipe
) -> None:
    mixed = gestures.take(range(len(gestures)))  # so that nobody can be sure
    mixed.labels = np.where(np.arange(len(mixed)) % 8, mixed.labels, (mixed.labels + 1) % 3)
    recipe = scaled(preset, epochs=2, batch=24)
    run = train_isolated(mixed, recipe, tmp_path / "r", held_out=["1"], device="cpu")
    held = [i for i, who in enumerate(mixed.subjects) if who == "1"]
    found = []
    for own, coarse in ((mixed, False), (mixed.of_coarse(), True)):
        found.append(export_run(run.folder, tmp_path / "m.pt", coarse=coarse).temperature)
        model = Model(tmp_path / "m.pt")
        model.bundle.metadata.temperature = 1.0
        told = np.stack([model.probabilities(mixed.joints(i)) for i in held])
        best = calibrated(torch.from_numpy(told).log(), torch.from_numpy(own.labels[held]))
        assert found[-1] == pytest.approx(best, rel=0.03)
    assert found[0] != found[1]


def test_the_reference_network_hears_single_gestures(gestures: Gestures, tmp_path: Path) -> None:
    """Recordings of one gesture each, as short as they are trained on, each get an event, labelled
    as the whole gesture is."""
    recipe = scaled(MODERN, epochs=3, batch=12)
    run = train_isolated(gestures, recipe, tmp_path / "r", held_out=["1"], device="cpu")
    shortest_s = read_run(run.folder)["shortest_s"]
    assert shortest_s < np.median(gestures.lengths - 1) / 30
    metadata = export_run(run.folder, tmp_path / "m.pt")
    assert metadata.size / metadata.rate_hz == pytest.approx(shortest_s, rel=0.02)
    assert metadata.hop / metadata.rate_hz == pytest.approx(4 / 30, rel=0.05)
    model = Model(tmp_path / "m.pt")
    told = right = 0
    outside = [i for i, s in enumerate(gestures.subjects) if s == "1"]
    for i in outside:
        write_mcap(tmp_path / f"{i}.mcap", gestures.joints(i), 30.0)
        pipeline = Pipeline(model.bundle)
        frames = Reader(tmp_path / f"{i}.mcap").frames()
        events = [e for e in run_recording(pipeline, frames)[0] if e.kind == "confirmed"]
        whole = model.labels[int(model.probabilities(gestures.joints(i)).argmax())]
        told += bool(events)
        right += [e.label for e in events] == [whole]
    assert told >= 0.9 * len(outside)
    assert right >= 0.8 * len(outside)


def test_a_run_that_does_not_tell_its_durations_keeps_its_rate(
    gestures: Gestures, tmp_path: Path
) -> None:
    run = train_isolated(gestures, scaled(MODERN, epochs=1), tmp_path / "r", device="cpu")
    settings = read_run(run.folder)
    del settings["shortest_s"]
    (run.folder / "run.json").write_text(json.dumps(settings))
    metadata = export_run(run.folder, tmp_path / "m.pt")
    assert (metadata.rate_hz, metadata.size, metadata.hop) == (30.0, 100, 4)


def test_any_channels_for_the_reference_network(gestures: Gestures, tmp_path: Path) -> None:
    flat = gestures.take(range(len(gestures)))
    flat.sequences = [s[:, [0, 1, 3, 4, 30, 31]] for s in gestures.sequences]
    flat.canonical = False
    recipe = scaled(MODERN, epochs=1, batch=24)
    run = train_isolated(flat, recipe, tmp_path / "r", device="cpu")
    assert run.epochs == 1
    with pytest.raises(DatasetError, match="use the model devineau"):
        train_isolated(flat, QUICK, tmp_path / "f", device="cpu")


@pytest.mark.parametrize("preset", [ORIGINAL, MODERN])
def test_channels_are_learnt_alike_in_any_unit(
    gestures: Gestures, tmp_path: Path, preset: Recipe
) -> None:
    """Of numbers about 1,000 nothing was learnt."""
    flat = gestures.take(range(len(gestures)))
    flat.sequences = [s[:, [0, 1, 3, 4, 30, 31]] for s in gestures.sequences]
    flat.canonical = False
    pixels = replace(flat, sequences=[640 * s + np.float32(300) for s in flat.sequences])
    recipe = scaled(preset, epochs=2, batch=24)
    recipe = replace(recipe, distortion=None)
    losses = []
    for name, given in (("metres", flat), ("pixels", pixels)):
        run = train_isolated(given, recipe, tmp_path / name, held_out=["1"], device="cpu")
        losses.append(run.figures["loss/validation"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    mean, scale = read_run(tmp_path / "pixels")["units"]
    inside = np.concatenate(
        [s for s, who in zip(pixels.sequences, pixels.subjects, strict=True) if who != "1"]
    )
    assert mean == pytest.approx(inside.mean(0), rel=1e-4)  # of those trained on alone
    assert scale == pytest.approx((inside - inside.mean(0)).std(), rel=1e-4)


def test_channels_are_distorted_alike_in_any_unit(gestures: Gestures) -> None:
    """Sizes counted from the origin, which far from it moved gestures by more than they move."""
    flat = gestures.take(range(len(gestures)))
    flat.sequences = [s[:, [0, 1, 3, 4, 30, 31]] for s in gestures.sequences]
    flat.canonical = False
    pixels = replace(flat, sequences=[640 * s + np.float32(2000) for s in flat.sequences])
    index = torch.arange(len(flat))

    def distorted(given: Gestures) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(0)
        return Batches(given, MODERN, torch.device("cpu")).distorted(index, drawn)[0]

    found, moved = distorted(flat), distorted(pixels)
    assert (640 * found + 2000 - moved).abs().max() < 0.1


def test_refuses_what_cannot_be_learnt(gestures: Gestures, tmp_path: Path) -> None:
    one = gestures.take(
        np.flatnonzero((gestures.labels != 2) | (np.array(gestures.subjects) == "0"))
    )
    with pytest.raises(DatasetError, match="'wave' has no gesture of the subjects trained on"):
        train_isolated(one, QUICK, tmp_path / "r", held_out=["0"], device="cpu")
    alone = replace(gestures, labels=0 * gestures.labels, classes=["wave"], coarse_of=())
    with pytest.raises(DatasetError, match="all gestures are 'wave'; two labels"):
        train_isolated(alone, QUICK, tmp_path / "r", device="cpu")
    idle = replace(gestures, classes=["None", "swipe", "wave"])
    with pytest.raises(DatasetError, match="'None' is what a model tells of no gesture"):
        train_isolated(idle, QUICK, tmp_path / "r", device="cpu")
    waves = (gestures.labels == 2) == (np.array(gestures.subjects) == "3")
    late = gestures.take(np.flatnonzero(waves | (gestures.labels == 1)))
    with pytest.raises(DatasetError, match=r"'wave' .* trained on when 1, 3 are held out"):
        next(train_folds(late, QUICK, tmp_path / "r", 2, device="cpu"))  # the second fold
    assert not (tmp_path / "r").exists()
    with pytest.raises(TrainingError, match="device 'cuda:77'"):
        train_isolated(gestures, QUICK, tmp_path / "r", device="cuda:77")
    with pytest.raises(TrainingError, match="not the folder of a training"):
        load_run(tmp_path)
    (tmp_path / "r" / "last.pt").write_bytes(b"junk")
    with pytest.raises(TrainingError, match=r"last.pt: "):
        train_isolated(gestures, QUICK, tmp_path / "r", device="cpu", resume=True)


# ---- the command --------------------------------------------------------------------------------


def test_command(gestures: Gestures, tmp_path: Path) -> None:
    write_takes(tmp_path, gestures, "npy")
    out = tmp_path / "run"
    base = ["--dataset", "recordings", "--root", str(tmp_path), "--device", "cpu"]
    done = CliRunner().invoke(
        train_isolated_command,
        [*base, "--out", str(out), "--epochs", "2", "--held-out-subjects", "2", "--json"],
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["epochs"] == 2
    assert told["held_out"] == ["2"]
    again = CliRunner().invoke(
        train_isolated_command, [*base, "--resume", str(out), "--held-out-subjects", "2"]
    )
    assert again.exit_code == 0, again.output


def test_command_tells_how_many_more_notes_there_are() -> None:
    assert first_of(["a"] * 5) == ["a"] * 5
    assert first_of([*"abcdefg"]) == [*"abcde", "and 2 more"]


def test_command_with_seeds_and_folds(gestures: Gestures, tmp_path: Path) -> None:
    write_takes(tmp_path, gestures, "npy")
    base = ["--dataset", "recordings", "--root", str(tmp_path), "--device", "cpu"]
    told = [*base, "--out", str(tmp_path / "r"), "--epochs", "1", "--seeds", "2", "--folds", "2"]
    done = CliRunner().invoke(train_isolated_command, told)
    assert done.exit_code == 0, done.output
    assert "over 2 seeds" in done.output
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [r["seed"] for r in report["runs"]] == [0, 0, 1, 1]
    assert set(report["spread"]["accuracy/validation"]["by seed"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("options", "code", "fault"),
    [
        ([], 2, "--out"),
        (["--out", "r", "--recipe", "original"], 2, "add --model devineau"),
        (["--out", "r", "--folds", "2", "--held-out-subjects", "1"], 2, "holds out every subject"),
        (["--out", "r", "--also", "shrec99=x"], 2, "--also shrec99=x: wants shrec17"),
        (["--out", "r", "--also", "shrec22=nowhere"], 1, "nowhere: no such file or folder"),
        (["--out", "r", "--seed", "2", "--seeds", "2"], 2, "name one of them"),
        (["--out", "r", "--patience", "2"], 2, "--patience needs"),
        (["--out", "r", "--model", "devineau", "--width", "64"], 2, "--width is of the flagship"),
        (
            ["--out", "r", "--model", "devineau", "--recipe", "original", "--augment", "0.5"],
            2,
            "original distorts nothing",
        ),
        (["--out", "r", "--classes", "14"], 2, "--classes is of shrec17"),
        (["--out", "r", "--held-out-subjects", "nobody"], 1, "no subject 'nobody'"),
        (["--out", "r", "--device", "tpu9"], 1, "device 'tpu9'"),
        (["--out", "labels.csv/r"], 1, "Error: labels.csv"),  # not "[Errno 20] Not a directory"
    ],
)
def test_command_errors(
    gestures: Gestures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: list[str], code: int, fault: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_takes(tmp_path, gestures, "npy")
    done = CliRunner().invoke(
        train_isolated_command, ["--dataset", "recordings", "--root", str(tmp_path), *options]
    )
    assert done.exit_code == code, done.output
    assert fault in done.output
