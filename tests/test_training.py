"""Scoring rules, training material, and the recipe from a data set to a model file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hgr_stream.cli.train_online import train
from hgr_stream.datasets.base import HandSequence, Segment
from hgr_stream.datasets.convert import open_recordings
from hgr_stream.recognition import bundle
from hgr_stream.recognition.engine import Engine
from hgr_stream.recognition.options import DecoderOptions
from hgr_stream.skeleton import bone_lengths, mirrored, with_palm
from hgr_stream.training import augment
from hgr_stream.training.draw import IGNORE, ChunkRule, Pool, annotate, draw_chunk
from hgr_stream.training.learnt import unlearnt
from hgr_stream.training.metrics import Span, matches, pair, score
from hgr_stream.training.online import Schedule
from hgr_stream.training.recipe import Recipe, train_online
from hgr_stream.training.streams import (
    Mark,
    Stream,
    distorted,
    labels_of,
    on_grid,
    resample,
    split,
    to_streams,
)

RATE = 25.0


def sequence(name: str, seed: int, seconds: float = 24.0) -> HandSequence:
    """A hand that now and then sweeps (LEFT), opens (OPEN), and else drifts; 50 frames a second."""
    rng = np.random.default_rng(seed)
    n = int(seconds * 50)
    shape = np.random.default_rng(0).uniform(-0.05, 0.05, (22, 3))
    path = np.cumsum(rng.normal(0, 0.001, (n, 1, 3)), 0)
    spread = np.ones((n, 1, 1))
    segments = []
    for at in range(100, n - 100, 200):
        if len(segments) % 2:
            path[at : at + 40, 0, 0] -= 0.25 * np.sin(np.linspace(0, np.pi, 40))
            segments.append(Segment("LEFT", at, at + 39))
        else:
            spread[at : at + 50] += np.sin(np.linspace(0, np.pi, 50))[:, None, None]
            segments.append(Segment("OPEN", at, at + 49))
    joints = with_palm((shape * spread + path + [0, 0.2, 0]).astype(np.float32))
    steps = np.arange(n)
    return HandSequence(name, joints, steps * 20_000_000, steps + 1, segments=segments)


# --- scoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "shrec21", "shrec22", "any_overlap"),
    [
        (Span("A", 10, 20), True, True, True),
        (Span("A", 15, 20), False, True, True),  # half: at least half, but not more than half
        (Span("A", 14, 20), True, True, True),
        (Span("A", 10, 30), True, True, True),
        (Span("A", 10, 31), True, False, True),  # more than twice as long
        (Span("A", 19, 25), False, False, True),
        (Span("A", 20, 25), False, False, False),
        (Span("B", 10, 20), False, False, False),
    ],
)
def test_the_rules_of_the_benchmarks(found, shrec21, shrec22, any_overlap):
    truth = Span("A", 10, 20)
    assert matches(truth, found, "shrec21") is shrec21
    assert matches(truth, found, "shrec22") is shrec22
    assert matches(truth, found, "any") is any_overlap


def test_scores_of_a_worked_example():
    truths = [[Span("A", 0, 10), Span("B", 20, 30)], [Span("A", 0, 10)]]
    found = [
        [Span("A", 1, 11, 12), Span("A", 40, 50, 50), Span("B", 24, 30, 31)],
        [Span("B", 0, 10, 12)],
    ]
    r = score(truths, found, "shrec21", seconds=[100, 100])
    assert r.detection_rate == pytest.approx((1 / 2 + 1) / 2)
    assert r.false_positives == pytest.approx((1 / 2 + 1) / 2)
    assert r.jaccard == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert r.overlap == pytest.approx((9 / 31 + 6 / 20) / 2)
    assert r.delay == pytest.approx((12 + 11) / 2)
    assert (r.precision, r.recall) == pytest.approx((2 / 4, 2 / 3))
    assert r.false_per_hour == pytest.approx(1 / 170 * 3600)
    assert r.time_to_detect == pytest.approx((12 / 10 + 11 / 10) / 2)


def test_fragments_count_once():
    truth = [Span("A", 0, 10)]
    assert len(pair(truth, [Span("A", 0, 6), Span("A", 6, 10)], "any")) == 1
    r = score([truth], [[Span("A", 0, 6), Span("A", 6.5, 10)]], "shrec21")
    assert (r.detection_rate, r.false_positives, r.jaccard) == (1.0, 1.0, 0.5)


def test_nothing_found_and_nothing_there():
    r = score([[Span("A", 0, 10)]], [[]], "shrec22")
    assert (r.detection_rate, r.jaccard, r.f1) == (0.0, 0.0, 0.0)
    assert score([[]], [[]], "shrec21").false_per_hour == 0.0


# --- material -----------------------------------------------------------------------------------


def test_a_left_hand_that_is_mirrored_moves_the_other_way():
    """The engine calls a left hand's LEFT, which it sees mirrored, LEFT again."""
    labels = ["LEFT", "OPEN", "RIGHT"]
    right, left = sequence("1", 1), sequence("2", 2)
    left.side = "left"
    named = [
        [labels[m.label - 1] for m in stream.marks] for stream in to_streams([right, left], labels)
    ]
    assert named[0] == [s.label for s in right.segments]
    assert {"LEFT", "OPEN"} <= set(named[0])
    other = {"LEFT": "RIGHT", "OPEN": "OPEN"}
    assert named[1] == [other[s.label] for s in left.segments]


def test_streams_leave_out_what_cannot_be_trusted():
    good, doubtful, left = sequence("1", 1), sequence("2", 2), sequence("3", 3)
    doubtful.notes.append("annotation TAP 1135-162: ends before it starts, dropped")
    left.side = "left"
    streams = to_streams([good, doubtful, left], ["LEFT", "OPEN"])
    assert [s.name for s in streams] == ["1", "3"]
    assert np.array_equal(streams[1].joints, mirrored(left.joints))
    first = good.segments[0]
    assert streams[0].marks[0].label == 2
    assert streams[0].marks[0].start_s == pytest.approx(first.start / 50)
    assert streams[0].marks[0].end_s == pytest.approx(first.end / 50)


def test_the_split_is_of_whole_sequences_and_keeps_the_classes():
    streams = to_streams([sequence(str(i), i) for i in range(20)], ["LEFT", "OPEN"])
    inside, outside = split(streams, 0.2, 0)
    assert len(outside) == 4
    assert {s.name for s in inside} | {s.name for s in outside} == {str(i) for i in range(20)}
    assert {m.label for s in outside for m in s.marks} == {1, 2}
    again = split(streams, 0.2, 0)[1]
    assert [s.name for s in outside] == [s.name for s in again]


def test_who_alone_performs_a_gesture_is_not_held_out():
    def stream(name, *labels):
        marks = tuple(Mark(label, 3.0 * i, 3.0 * i + 1) for i, label in enumerate(labels))
        return Stream(name, np.zeros((2, 22, 3), np.float32), np.array([0.0, 60.0]), marks, name)

    alone = [stream(str(k), k, k, k) for k in range(1, 6)]  # a recording for each gesture
    for seed in range(4):
        assert split(alone, 0.2, seed) == (alone, [])
        inside, outside = split([*alone[1:], stream("a", 1), stream("b", 1, 1)], 0.2, seed)
        assert {m.label for s in inside for m in s.marks} == {1, 2, 3, 4, 5}
        assert [s.name for s in outside] in (["a"], ["b"])


def test_resampling_is_the_line_between_frames():
    q = sequence("1", 1)
    time_s = q.time_ns / 1e9
    got = resample(q.joints, time_s, np.array([0.03, 1.0, 99.0]))
    assert np.allclose(got[0], 0.5 * (q.joints[1] + q.joints[2]), atol=1e-6)
    assert np.allclose(got[1], q.joints[50], atol=1e-6)
    assert np.array_equal(got[2], q.joints[-1])


def test_boundaries_are_asked_for_late_and_labels_held():
    (stream,) = to_streams([sequence("1", 1)], ["LEFT", "OPEN"])
    rule = ChunkRule(RATE, 200, delay_s=0.24, release_s=0.2)
    ticks = np.arange(200) / RATE
    label, boundary = annotate(stream.marks, ticks, rule)
    first = stream.marks[0]
    assert (
        abs(int(boundary[:, 0].argmax()) - (first.start_s + 0.24) * RATE) <= 1
        or (boundary[:, 0] > 0.5).sum() > 3
    )
    inside = (ticks >= first.start_s) & (ticks <= first.end_s + 0.2)
    assert (label[inside] == first.label).all()
    assert label[ticks < first.start_s].max() == 0
    cut = first.start_s + 0.6 * (first.end_s - first.start_s)
    label, _ = annotate(stream.marks, ticks + cut, rule)
    assert label[0] == IGNORE, "a gesture that lost its beginning is not asked for"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 1.2))
def test_distortions_give_hands(seed, strength):
    rng = np.random.default_rng(seed)
    joints = sequence("1", 1).joints[:200]
    out = augment.hand(joints.copy(), 50.0, rng, strength)
    assert out.shape == joints.shape
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.allclose(out, with_palm(out.copy()), atol=1e-6)
    ratio = np.median(bone_lengths(out)[:, 1:], 0) / np.median(bone_lengths(joints)[:, 1:], 0)
    assert (ratio > 0.3).all()
    assert (ratio < 2.5).all()


@pytest.mark.parametrize("frames", [2, 8, 12])
def test_distorted_copies_of_short_streams_can_be_put_on_a_grid(frames):
    short = Stream("s", sequence("1", 1).joints[:frames], np.arange(frames) / 200, ())
    for seed in range(30):
        copy = distorted(short, np.random.default_rng(seed), wide=seed % 2)
        assert len(copy.joints) == len(copy.time_s) >= 2
        assert np.isfinite(on_grid(copy, RATE)).all()


def test_no_strength_no_change():
    joints = sequence("1", 1).joints[:100]
    rng = np.random.default_rng(0)
    assert np.array_equal(augment.hand(joints, 50.0, rng, 0.0), joints)
    assert np.allclose(augment.speeds(50, RATE, rng, 0.0), 1.0)


def test_chunks_hold_what_the_recording_holds():
    streams = to_streams([sequence("1", 1), sequence("2", 2)], ["LEFT", "OPEN"])
    rule = ChunkRule(RATE, 128, 0.24)
    rng = np.random.default_rng(3)
    pool = Pool.of(streams, 2)
    chunks = [draw_chunk(pool, rule, rng) for _ in range(40)]
    assert all(c.joints.shape == (128, 22, 3) and np.isfinite(c.joints).all() for c in chunks)
    share = np.mean([(c.label > 0).mean() for c in chunks])
    assert 0.1 < share < 0.7
    assert {int(v) for c in chunks for v in c.label} >= {0, 1, 2}
    still = draw_chunk(pool, rule, np.random.default_rng(0), 0.0).joints
    recorded = np.concatenate([s.joints for s in streams])
    nearest = [np.abs(recorded - frame).max((1, 2)).min() for frame in still]
    assert max(nearest) < 0.01, "without distortion a chunk is a piece of a recording"


def test_the_proxy_moves_the_marks_with_the_hand():
    (stream,) = to_streams([sequence("1", 1)], ["LEFT", "OPEN"])
    copy = distorted(stream, np.random.default_rng(5))
    assert 0.6 * len(stream.marks) <= len(copy.marks) <= len(stream.marks)
    for m in (m for m in copy.marks if m.label == 1):
        inside = (copy.time_s >= m.start_s) & (copy.time_s <= m.end_s)
        x = copy.joints[:, 0]
        sweep = np.ptp(x[inside], axis=0).max()
        before = np.ptp(
            x[(copy.time_s < m.start_s - 0.2) & (copy.time_s > m.start_s - 0.6)], axis=0
        )
        assert sweep > 0.1 > before.max() * 0.5


# --- the recipe ---------------------------------------------------------------------------------


def write_shrec21(root: Path, sequences: int, seconds: float, seed: int = 0) -> Path:
    """Made-up recordings in the layout of SHREC'21's archive."""
    arrays, lines = {}, []
    for i in range(1, sequences + 1):
        q = sequence(str(i), seed + i, seconds)
        arrays[f"seq_{i:03d}"] = q.joints[:, [0, *range(3, 22)]] * np.float32([1, 1, -1])
        lines.append(
            ";".join([str(i), *(f"{s.label};{s.start + 1};{s.end + 1}" for s in q.segments), ""])
        )
    root.mkdir()
    np.savez(root / "positions.npz", **arrays)
    (root / "annotations_revised_training.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    root = write_shrec21(folder / "data", 8, 16.0)
    out = folder / "small.pt"
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(out)]
    args += ["--minutes", "0.15", "--held-out", "0.25", "--json", "--seed", "3", "--threads", "1"]
    other = write_shrec21(folder / "other", 3, 16.0, seed=40)
    args += ["--other", f"shrec21={other}", "--still", "0.1", "--other-sensors", "0.1"]
    result = CliRunner().invoke(train, args, catch_exceptions=False)
    return result, out


def test_the_command_trains_a_model_that_the_engine_runs(trained):
    result, out = trained
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    metadata = bundle.read_metadata(out)
    assert metadata.labels == ["LEFT", "OPEN"]
    assert metadata.training["seed"] == 3
    assert metadata.training["steps"]["network"] > 0
    assert len(metadata.training["held_out"]) == 2
    assert metadata.training["data"] == "shrec21, 8 sequences"
    # In the pipeline's form too, only those that it was not trained on may judge it.
    judges = unlearnt(metadata.training, list(open_recordings([out.parent / "data"], "shrec21")))
    assert {r.name for r in judges} == set(metadata.training["held_out"])
    assert metadata.scores == told["scores"]
    assert {"held_out", "proxy", "shrec21"} <= set(metadata.scores)
    assert metadata.decoder.per_class["LEFT"].min_duration_s > 0
    engine = Engine(bundle.load(out))
    assert engine.options["left"] == engine.options["right"] == metadata.decoder


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (["--dataset", "shrec99"], 2, "shrec99"),
        (["--root", "/nowhere"], 2, "/nowhere"),
        (["--other", "leap"], 2, "'leap' is not NAME=DIR"),
        (["-o", "/nowhere/at/all.pt"], 1, "no such folder"),
    ],
)
def test_wrong_uses_are_told_in_one_line(tmp_path, change, code, told):
    root = write_shrec21(tmp_path / "data", 1, 16.0)
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(tmp_path / "m.pt")]
    result = CliRunner().invoke(train, [*args, *change])
    assert result.exit_code == code
    assert told in result.output
    assert not (tmp_path / "m.pt").exists()


def until(is_so, seconds: float = 60.0) -> None:
    """Wait for something to be so; fails the test if it is not in time."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.1)


def test_an_interrupt_ends_cleanly(tmp_path):
    root = write_shrec21(tmp_path / "data", 4, 16.0)
    args = ["train", "--online", "--dataset", "shrec21", "--root", str(root), "--threads", "1"]
    command = [sys.executable, "-m", "hgr_stream.cli", *args, "-o", str(tmp_path / "m.pt")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    time.sleep(2.0)  # wherever it is by then, loading or training
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    # Told by the command, or while it loaded; -SIGINT is what a shell calls 130: Python ends so
    # when the interrupt met a library that was being imported.
    assert process.returncode in (1, 130, -signal.SIGINT), told
    assert "Traceback" not in told
    assert not (tmp_path / "m.pt").exists()


def test_too_little_data_is_told(tmp_path):
    root = write_shrec21(tmp_path / "data", 1, 16.0)
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(tmp_path / "m.pt")]
    result = CliRunner().invoke(train, args)
    assert result.exit_code == 1
    assert "too few to train" in result.output
    (root / "positions.npz").write_bytes(b"nothing")
    result = CliRunner().invoke(train, args)
    assert result.exit_code == 1
    assert "positions.npz" in result.output


def test_a_model_that_finds_nothing_is_told(tmp_path):
    root = write_shrec21(tmp_path / "data", 4, 16.0)
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(tmp_path / "no.pt")]
    result = CliRunner().invoke(train, [*args, "--epochs", "1", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "finds none of the held-out gestures after 1 steps" in " ".join(result.output.split())


def test_one_gesture_is_enough():
    sequences = [sequence(str(k), k) for k in range(3)]
    for q in sequences:
        q.segments = [s for s in q.segments if s.label == "LEFT"]
    one = Schedule(steps=1, batch=2)
    recipe = Recipe(held_out=0.0, network=one, verifier=one, dater=one)
    outcome = train_online(sequences, recipe)
    assert outcome.metadata.labels == ["LEFT"]
    for q in sequences:
        q.segments = []
    with pytest.raises(ValueError, match="0 kinds of gesture"):
        train_online(sequences, recipe)


def test_a_model_for_streams_does_without_what_its_recordings_lacked():
    sequences = [sequence(str(k), k) for k in range(3)]
    one = Schedule(steps=1, batch=2)
    recipe = Recipe(held_out=0.0, network=one, verifier=one, dater=one)
    assert train_online(sequences, recipe).metadata.needs == ["depth", "fingers"]
    sequences[0].lacks = sequences[1].lacks = ("depth",)
    assert train_online(sequences, recipe).metadata.needs == ["fingers"]


def test_labels_are_those_of_the_data():
    assert labels_of([sequence("1", 1)]) == ["LEFT", "OPEN"]
    assert DecoderOptions().of("LEFT", "begin") == DecoderOptions().begin
