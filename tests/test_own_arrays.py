"""One's own hands as plain numbers: in the stream what they are in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import guess_format, import_file, open_recording, open_recordings
from hgr_stream.datasets.gestures import load_recordings
from hgr_stream.recognition.bundle import load
from hgr_stream.recording import Reader
from hgr_stream.skeleton import Float32
from hgr_stream.training.online_evaluate import evaluate
from hgr_stream.training.truth import complete, own_recordings
from tests.hands import swipe_frames
from tests.models import save_palm_model

RATE_HZ = 100.0


@pytest.fixture(scope="module")
def swipes() -> Float32:
    """(T, 22, 3): a hand that swipes right twice."""
    return np.stack([f.hands[0].array() for f in swipe_frames(2, rate_hz=RATE_HZ)])


def written(path: Path, hand: np.ndarray) -> Path:
    """The hand in the way that the file's name asks for."""
    flat = hand.reshape(len(hand), -1)
    match path.name:
        case "flat.npy":
            np.save(path, flat)
        case "a.npy":
            np.save(path, hand)
        case "a.npz":
            np.savez(path, hand)
        case "names.csv":
            names = ",".join(f"{joint}_{axis}" for joint in range(22) for axis in "xyz")
            np.savetxt(path, flat, delimiter=",", header=names, comments="")
        case "german.csv":
            np.savetxt(path, flat, delimiter=";")
        case "pandas.csv":
            rows = [f"{i},{','.join(map(str, row))}" for i, row in enumerate(flat.tolist())]
            path.write_text("\n".join(["," + ",".join(map(str, range(66))), *rows]))
    return path


@pytest.mark.parametrize(
    "name", ["a.npy", "flat.npy", "a.npz", "names.csv", "german.csv", "pandas.csv"]
)
def test_a_take_is_in_the_stream_what_it_is_in_training(
    swipes: Float32, tmp_path: Path, name: str
) -> None:
    file = written(tmp_path / name, swipes)
    (tmp_path / "labels.csv").write_text(f"file,label\n{name},RIGHT\n")
    learnt = load_recordings(tmp_path, rate_hz=RATE_HZ)
    assert guess_format(file) == guess_format(tmp_path) == "arrays"
    frames = list(open_recordings([tmp_path], fps=RATE_HZ).__next__().frames)
    streamed = np.stack([f.hands[0].array() for f in frames])
    np.testing.assert_array_equal(streamed, learnt.joints(0))
    assert [f.time_ns for f in frames] == [i * 10_000_000 for i in range(len(swipes))]
    assert [f.index for f in frames] == list(range(len(swipes)))
    assert {(f.hands[0].side, tuple(f.hands[0].lacks)) for f in frames} == {("unknown", ())}


def test_a_session_is_judged_with_the_truth_beside_it(swipes: Float32, tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    for name, truth in (("a.npy", "a.csv"), ("names.csv", "names.truth.csv")):
        written(sessions / name, swipes)
        (sessions / truth).write_text("label,start_s,end_s\nRIGHT,1.0,1.4\nRIGHT,7.4,7.8\n")
    recordings = complete(own_recordings(sessions, RATE_HZ))
    assert [(r.name, len(r.truths)) for r in recordings] == [("a", 2), ("names", 2)]
    _, reports = evaluate(bundle, recordings, "any")
    assert reports["confirmed"].benchmark.f1 == 1.0


def test_an_import_has_each_array_of_an_archive(swipes: Float32, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", one=swipes, other=swipes[:50, :, :])
    report = import_file(None, tmp_path / "two.npz", tmp_path / "out", fps=RATE_HZ)
    assert {r.path.name: r.frames for r in report.written} == {
        "one.mcap": len(swipes), "other.mcap": 50,
    }  # fmt: skip
    got = np.stack([f.hands[0].array() for f in Reader(tmp_path / "out/one.mcap") if f.hands])
    np.testing.assert_array_equal(got, swipes)


def test_flat_hands_lack_depth_and_frames_of_no_numbers_are_left_out(
    swipes: Float32, tmp_path: Path
) -> None:
    hand = swipes[:20].copy()
    hand[..., 2] = 0
    hand[3] = np.nan
    hand[7, 4, 1] = np.inf
    recording = open_recording(written(tmp_path / "a.npy", hand))
    frames = list(recording.frames)
    assert [f.index for f in frames] == [i for i in range(20) if i not in (3, 7)]
    assert frames[3].time_ns == round(4e9 / 30), "the others keep their time"
    assert {tuple(f.hands[0].lacks) for f in frames} == {("depth",)}
    assert recording.notes == ["NaN or infinity in frame 3, 7, left out"]


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((50, 34)), r"shape \(50, 34\) is no hand's; a stream carries 20, 21, 22 or 26"),
        (np.zeros(66), "shape"),
        (np.zeros((2, 2, 22, 3)), "shape"),
        (np.array(["a", "b"]), "not numbers"),
        (np.zeros((0, 66)), "holds no frames"),
        (np.full((5, 66), np.nan), "holds no frames of numbers"),
    ],
)
def test_what_is_no_hand_is_named(tmp_path: Path, array: np.ndarray, fault: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DatasetError, match=rf"a\.npy.*{fault}"):
        open_recording(tmp_path / "a.npy")


def test_tables_of_words_are_no_hands(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.npy,RIGHT\n")
    (tmp_path / "truth.csv").write_text(json.dumps({"a": 1}).strip("{}"))
    with pytest.raises(DatasetError, match="no recordings in this folder"):
        guess_format(tmp_path)
