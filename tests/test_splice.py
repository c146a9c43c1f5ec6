"""Isolated gestures as streams: what is in them, who is held out, and models trained on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hgr_stream.cli.evaluate import _rate_hz as recordings_hz
from hgr_stream.cli.evaluate import evaluate as evaluate_command
from hgr_stream.cli.online import evaluate_online_command
from hgr_stream.cli.rates import rate_of
from hgr_stream.cli.train_online import DATASETS, train
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import Recording, open_recordings
from hgr_stream.datasets.gestures import Gestures
from hgr_stream.datasets.tables import annotations_beside
from hgr_stream.messages import Hand, Truth, encode, joint_bytes
from hgr_stream.recognition import bundle
from hgr_stream.recording import Writer
from hgr_stream.skeleton import N_JOINTS, Float32, bone_lengths
from hgr_stream.stream import topics
from hgr_stream.training.material import (
    CONTINUOUS,
    ISOLATED,
    load,
    load_beside,
    part_of,
    part_told,
    spliced_recordings,
)
from hgr_stream.training.recipe import Recipe, train_online
from hgr_stream.training.splice import SpliceRule, idle_clips, splice
from hgr_stream.training.streams import labels_of, split, to_streams
from hgr_stream.training.truth import load_streams, sequences_of
from tests.foreign_files import openxr_csv
from tests.hands import hand_joints, swipe_frames
from tests.models import save_palm_model
from tests.test_training import sequence, write_shrec21

RULE = SpliceRule(gestures=4, rounds=2)


def take(kind: str, seed: int, frames: int = 24) -> Float32:
    """A hand that sweeps to one side (LEFT, RIGHT) or bows (BOW); (T, 66)."""
    rng = np.random.default_rng(seed)
    way = np.sin(np.linspace(0, np.pi / 2, frames)) * rng.uniform(0.2, 0.3)
    joints = np.stack([hand_joints() for _ in range(frames)])
    axis, sign = {"LEFT": (0, -1), "RIGHT": (0, 1), "BOW": (1, -1)}[kind]
    joints[:, :, axis] += sign * way[:, None]
    joints += rng.normal(0, 0.0005, joints.shape).astype(np.float32) + rng.normal(0, 0.05, 3)
    return joints.reshape(frames, -1).astype(np.float32)


def gestures(people: list[str], takes: int = 3) -> Gestures:
    kinds = ["BOW", "LEFT", "RIGHT"]
    rows = [(p, k, i) for p in people for k in range(3) for i in range(takes)]
    return Gestures(
        "made-up",
        [take(kinds[k], 100 * k + 10 * n + i) for n, (_, k, i) in enumerate(rows)],
        np.array([k for _, k, _ in rows]),
        kinds,
        [p for p, _, _ in rows],
        [f"{p}-{k}-{i}" for p, k, i in rows],
        30.0,
    )


def test_every_gesture_is_in_the_stream_as_it_was_recorded() -> None:
    isolated = gestures(["anna", "ben", "cara"])
    streams = splice(isolated, RULE, seed=1)
    assert {q.subject for q in streams} == {"anna", "ben", "cara"}
    recorded = {
        (
            isolated.subjects[i],
            isolated.classes[isolated.labels[i]],
            isolated.sequences[i].tobytes(),
        )
        for i in range(len(isolated))
    }
    performed = []
    for q in streams:
        assert (np.diff(q.time_ns) > 0).all()
        assert np.isfinite(q.joints).all()
        assert q.joints.shape[1:] == (N_JOINTS, 3)
        assert len(q.segments) <= RULE.gestures
        ends = [(s.start, s.end) for s in q.segments]
        assert ends == sorted(ends)
        for s in q.segments:
            assert s.start > 0, "something always comes before"
            performed.append((q.subject, s.label, q.joints[s.start : s.end + 1].tobytes()))
    assert len(performed) == RULE.rounds * len(isolated)
    assert set(performed) == recorded
    again = splice(isolated, RULE, seed=1)
    assert all(np.array_equal(a.joints, b.joints) for a, b in zip(streams, again, strict=True))
    other = splice(isolated, RULE, seed=2)
    assert any(len(a.joints) != len(b.joints) for a, b in zip(streams, other, strict=True))


def test_what_joins_them_is_a_hand_that_moves_as_hands_do() -> None:
    (q, *_) = splice(gestures(["a", "b", "c"]), RULE, seed=3)
    inside = np.zeros(len(q.joints), bool)
    for s in q.segments:
        inside[s.start : s.end + 1] = True
    bones = bone_lengths(q.joints[~inside])[:, 1:]
    assert bones.std(0).max() < 0.002, "bones do not shrink on the way"
    speed = np.linalg.norm(np.diff(q.joints[:, 0], axis=0), axis=1) / (np.diff(q.time_ns) / 1e9)
    assert speed.max() < 3.0, "nothing jumps, least of all where pieces meet"
    assert (~inside).sum() / 30 > len(q.segments) * 0.3


def test_people_are_held_out_whole() -> None:
    streams = splice(gestures(list("abcdef")), RULE, seed=0)
    inside, outside = split(to_streams(streams, labels_of(streams)), 0.3, 0)
    assert {s.group for s in inside} & {s.group for s in outside} == set()
    assert len({s.group for s in outside}) == 2


def test_where_nobody_is_named_takes_are_held_out() -> None:
    streams = splice(gestures([""], takes=4), RULE)
    assert {q.subject for q in streams} == {f"takes-{k}" for k in range(1, 5)}
    seen = [
        {
            q.joints[s.start : s.end + 1].tobytes()
            for q in streams
            if q.subject == p
            for s in q.segments
        }
        for p in sorted({q.subject for q in streams})
    ]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 12
    with pytest.raises(DatasetError, match="single take"):
        splice(gestures([""], takes=1), RULE)
    flat = gestures(["a", "b", "c"])
    flat.canonical = False
    with pytest.raises(DatasetError, match="no canonical hand"):
        splice(flat, RULE)


def test_idle_stretches_of_continuous_recordings_are_used() -> None:
    q = sequence("1", 1)
    clips = idle_clips([q])
    assert clips
    busy = np.concatenate([q.joints[s.start : s.end + 1] for s in q.segments])
    for clip in clips:
        assert clip.rate_hz == pytest.approx(50, rel=0.02)
        assert np.abs(clip.joints[:, None, 0] - busy[None, :, 0]).max(-1).min() > 0
    faulty = sequence("2", 2)
    faulty.notes.append("annotation X: outside the sequence, dropped")
    assert idle_clips([faulty]) == []
    always = SpliceRule(gestures=4, rounds=1, idle=1.0, straight=0.0)
    rates = {
        round(1e9 / step)
        for s in splice(gestures(["a", "b", "c"]), always, idle=clips)
        for step in np.diff(s.time_ns)
    }
    assert {30, 50} <= rates, "frames of both clocks"


def write_takes(root: Path, people: list[str], takes: int = 4) -> Path:
    """A user's own folder: one gesture a file, and labels.csv."""
    root.mkdir()
    isolated = gestures(people, takes)
    lines = ["file,label,subject"]
    for i, name in enumerate(isolated.names):
        np.save(root / f"{i}.npy", isolated.joints(i))
        lines.append(f"{i}.npy,{isolated.classes[isolated.labels[i]]},{isolated.subjects[i]}")
        assert name
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_command_offers_every_data_set_that_can_be_learnt() -> None:
    assert {*CONTINUOUS, *ISOLATED} == {*DATASETS}


def test_sources_are_joined_and_gestures_renamed(tmp_path: Path) -> None:
    takes = write_takes(tmp_path / "takes", ["a", "b", "c"])
    stream = write_shrec21(tmp_path / "s21", 3, 16.0)
    both = load([("recordings", takes), ("shrec21", stream)], same={"RIGHT": "SWIPE_RIGHT"})
    assert labels_of(both) == ["BOW", "LEFT", "OPEN", "SWIPE_RIGHT"]
    assert {q.name.partition(":")[0] for q in both} == {"recordings", "shrec21"}
    assert {q.subject for q in both} == {"recordings:a", "recordings:b", "recordings:c", ""}
    with pytest.raises(DatasetError, match="no gesture is called 'UP'"):
        load([("recordings", takes)], same={"UP": "DOWN"})
    plain = load([("recordings", takes)])
    swapped = {"LEFT": "RIGHT", "RIGHT": "LEFT"}
    again = load([("recordings", takes)], same=swapped, usual={**swapped, "UP": "DOWN"})
    for before, after in zip(plain, again, strict=True):
        called = [swapped.get(s.label, s.label) for s in before.segments]
        assert [s.label for s in after.segments] == called


def test_what_is_learnt_of_two_folders_of_one_data_set_is_known(tmp_path: Path) -> None:
    parts = [
        ("shrec21", write_shrec21(tmp_path / name, 3, 16.0, seed))
        for name, seed in (("a", 0), ("b", 50))
    ]
    found = load(parts)
    assert [q.name for q in found] == [f"shrec21{k}:{n}" for k in ("", ".2") for n in (1, 2, 3)]


def write_landmarks(folder: Path) -> Path:
    """A stream that tells no times: 120 frames of MediaPipe's, with a truth file."""
    folder.mkdir()
    points = np.delete(hand_joints(), 1, 0).tolist()
    lines = [json.dumps({"hand_world_landmarks": [points]}) for _ in range(120)]
    (folder / "one.jsonl").write_text("\n".join(lines))
    (folder / "one.csv").write_text("BOW,0.5,1\n")
    return folder


def test_what_tells_no_times_has_the_rate_that_is_given(tmp_path: Path) -> None:
    takes = write_takes(tmp_path / "takes", ["a", "b", "c"])
    stream = write_landmarks(tmp_path / "stream")
    swipes = tmp_path / "swipes"
    swipes.mkdir()
    record(swipes / "timed.mcap")
    (swipes / "timed.csv").write_text("RIGHT,1,1.4\n")
    for rate_hz in (None, 60.0):
        step_ns = round(1e9 / (rate_hz or 30.0))
        for own in (
            load([("recordings", takes)], rate_hz=rate_hz),
            load_beside([("recordings", takes)], [], rate_hz=rate_hz)["recordings"],
            load([("streams", stream)], rate_hz=rate_hz),
        ):
            part = slice(own[0].segments[0].start, own[0].segments[0].end + 1)
            assert np.abs(np.diff(own[0].time_ns[part]) - step_ns).max() <= 1
        spliced = spliced_recordings("recordings", takes, "test", rate_hz=rate_hz)[0].truths[0]
        assert spliced.offset_ns - spliced.onset_ns == pytest.approx(23 * step_ns, abs=20)
        (timed,) = load([("streams", swipes)], rate_hz=rate_hz)
        assert np.array_equal(timed.time_ns, load_streams(swipes)[0].time_ns)


def test_a_rate_is_asked_of_ones_own(tmp_path: Path) -> None:
    args = ["--online", "--dataset", "shrec21", "--root", str(tmp_path), "--rate", "60"]
    for command, more in ((train, ["-o", str(tmp_path / "m.pt")]), (evaluate_online_command, [])):
        done = CliRunner().invoke(command, [*args, *more])
        assert done.exit_code == 2
        assert "--rate is of recordings of one's own, not of shrec21" in done.output


def train_brief(args: list[str]) -> Result:
    return CliRunner().invoke(train, [*args, "--minutes", "0.1", "--threads", "1"])


def test_the_command_trains_on_ones_own_takes_and_judges_who_was_held_out(tmp_path: Path) -> None:
    takes = write_takes(tmp_path / "takes", list("abcde"))
    stream = write_shrec21(tmp_path / "s21", 4, 16.0)
    out = tmp_path / "own.pt"
    args = ["--online", "--dataset", "recordings", "--root", str(takes), "-o", str(out), "--json"]
    args += ["--and", f"shrec21={stream}", "--minutes", "0.1", "--threads", "1", "--rate", "60"]
    result = CliRunner().invoke(train, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    metadata = bundle.read_metadata(out)
    model = bundle.load(out)
    assert (rate_of(model, None), rate_of(model, 20.0)) == (60.0, 20.0)
    assert recordings_hz(str(out)) == 60.0
    assert metadata.labels == ["BOW", "LEFT", "OPEN", "RIGHT"]
    assert metadata.mirror_labels == {"LEFT": "RIGHT", "RIGHT": "LEFT"}
    assert metadata.training["data"].startswith("recordings+shrec21, ")
    people = {n.rpartition(".")[0] for n in metadata.training["held_out"] if n[0] == "r"}
    assert people
    judge = ["--online", "--dataset", "recordings", "--root", str(takes), "--model", str(out)]
    result = CliRunner().invoke(evaluate_online_command, [*judge, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["gestures"] == 12 * len(people)
    left_out = f"left out: {2 * (5 - len(people))} recordings that own was trained on"
    assert left_out in result.stderr
    # As whole gestures they are known as well, whoever is asked for.
    whole = [str(out), "--dataset", "recordings", "--root", str(takes), "--split", "all"]
    result = CliRunner().invoke(evaluate_command, whole)
    assert result.exit_code == 1
    assert f"trained on {12 * (5 - len(people))} of the 60 gestures" in result.output
    again = ["--online", "--from", str(out), "--dataset", "recordings", "--root", str(takes)]
    adapted = train_brief([*again, "-o", str(tmp_path / "adapted.pt")])
    assert adapted.exit_code == 0, adapted.output
    assert "recordings that own was trained on" in adapted.output
    assert rate_of(bundle.load(tmp_path / "adapted.pt"), None) == 60.0  # the base's, for both
    result = CliRunner().invoke(
        evaluate_online_command, [*judge[:-1], str(tmp_path / "adapted.pt")]
    )
    assert "trained on all of these recordings" in result.output


def test_who_is_held_out_is_judged_by_the_names_of_the_training(tmp_path: Path) -> None:
    takes, out = write_takes(tmp_path / "takes", list("abcde")), tmp_path / "own.pt"
    args = ["--online", "--dataset", "recordings", "--root", str(takes)]
    trained = train_brief([*args, "-o", str(out), "--same", "BOW=NOD"])
    assert trained.exit_code == 0, trained.output
    judge = [*args, "--model", str(out), "--json"]
    result = CliRunner().invoke(evaluate_online_command, judge, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["confirmed"]["per_class"]
    assert {label for label, n in found.items() if n["truths"]} == {"LEFT", "NOD", "RIGHT"}
    again = train_brief([*args, "-o", str(tmp_path / "again.pt"), "--from", str(out)])
    assert again.exit_code == 0, again.output
    assert "learnt as none" not in again.output
    assert bundle.read_metadata(tmp_path / "again.pt").training["same"] == {"BOW": "NOD"}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--other", "recordings: would judge what is learnt"),
        ("--also", "recordings: would be learnt beside, but is held out"),
    ],
)
def test_what_is_held_out_stays_out_and_what_is_learnt_does_not_judge(
    tmp_path: Path, option: str, told: str
) -> None:
    takes = write_takes(tmp_path / "takes", list("abcd"))
    copy = shutil.copytree(takes, tmp_path / "copy")
    args = ["--online", "--dataset", "recordings", "--root", str(takes)]
    done = train_brief([*args, "-o", str(tmp_path / "m.pt"), option, f"recordings={copy}"])
    assert done.exit_code == 1
    assert told in done.output


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (["--same", "LEFT"], 2, "'LEFT' is not OLD=NEW"),
        (["--same", "UP=DOWN"], 1, "no gesture is called 'UP'"),
        (["--and", "shrec99=x"], 2, "not NAME=DIR"),
        (["--and", "streams=/nowhere"], 1, "/nowhere: no such file or folder"),
    ],
)
def test_wrong_uses_are_told(tmp_path: Path, change: list[str], code: int, told: str) -> None:
    takes = write_takes(tmp_path / "takes", ["a"], 2)
    args = ["--online", "--dataset", "recordings", "--root", str(takes), *change]
    result = CliRunner().invoke(train, [*args, "-o", str(tmp_path / "m.pt")])
    assert result.exit_code == code
    assert told in result.output


# --- one's own continuous recordings -------------------------------------------------------------


def record(path: Path, swipes: int = 3) -> Path:
    with Writer(path) as writer:
        for f in swipe_frames(swipes, seed=swipes):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    return path


def test_ones_own_recordings_with_a_truth_file_beside_them(tmp_path: Path) -> None:
    record(tmp_path / "one.mcap")
    with pytest.raises(DatasetError, match=r"put a one\.csv"):
        load_streams(tmp_path)
    (tmp_path / "one.csv").write_text("RIGHT,1.0,1.4\nRIGHT,7.4,7.8\n")
    (q,) = load_streams(tmp_path)
    assert (q.name, q.subject, q.side) == ("one", "one", "right")
    assert q.lacks == ()
    starts = [(q.time_ns[s.start] - q.time_ns[0]) / 1e9 for s in q.segments]
    assert starts == pytest.approx([1.0, 7.4], abs=0.02)
    (tmp_path / "one.csv").write_text("RIGHT,1000,1400\n")
    with pytest.raises(DatasetError, match="are its times seconds"):
        load_streams(tmp_path)


def test_a_recording_that_is_a_csv_has_its_truth_beside_it_too(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(openxr_csv(100))
    with pytest.raises(DatasetError, match=r"put a one\.truth\.csv"):
        load_streams(tmp_path)
    (tmp_path / "one.truth.csv").write_text("RIGHT,0.5,1.0\n")
    for root in (tmp_path, tmp_path / "one.csv"):
        (q,) = load_streams(root)
        assert [(s.label, s.start, s.end) for s in q.segments] == [("RIGHT", 25, 50)]
    (tmp_path / "one.truth.csv").write_text("")
    (q,) = load_streams(tmp_path)
    assert not q.segments


def test_what_a_source_cannot_see_is_lacked_by_what_is_learnt(tmp_path: Path) -> None:
    with Writer(tmp_path / "one.mcap") as writer:
        for f in swipe_frames(2):
            for hand in f.hands:
                hand.lacks = ["depth"]
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    (tmp_path / "one.csv").write_text("RIGHT,1.0,1.4\n")
    assert {q.lacks for q in load_streams(tmp_path)} == {("depth",)}
    flat = gestures(["anna", "ben", "cara"])
    flat.lacks = [("depth",)] * len(flat)
    assert {q.lacks for q in splice(flat)} == {("depth",)}


def write_sessions(root: Path, *, idle: bool = False) -> Path:
    """The usual layout: a folder a person, the recordings numbered."""
    for k, person in enumerate(("anna", "ben")):
        (root / person).mkdir(parents=True)
        record(root / person / "1.mcap", 4 + k)
        lines = [f"{('RIGHT', 'BACK')[i % 2]},{1 + 3.2 * i},{1.4 + 3.2 * i}\n" for i in range(6)]
        (root / person / "1.csv").write_text("".join(lines))
    if idle:
        record(root / "anna" / "2.mcap", 2)
        (root / "anna" / "2.csv").write_text("label,start_s,end_s\n")
    return root


def test_json_lines_with_truth_files_beside_them(tmp_path: Path) -> None:
    hand = hand_joints().tolist()
    fingers = [j for i in (6, 10, 14, 18) for j in (hand[0], *hand[i : i + 4])]  # with metacarpals
    xr = {"side": "right", "joints": [hand[1], hand[0], *hand[2:6], *fingers]}
    for name, seen in (
        ("a.jsonl", {"hands": [xr]}),
        ("b.ndjson", {"hand_world_landmarks": [[hand[0], *hand[2:]]]}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"timestamp_ms": 20 * i, **seen}) for i in range(100)]
        (folder / name).write_text("\n".join(lines))
        (folder / f"{name[0]}.csv").write_text("label,start_s,end_s\nA,0.5,1\n")
        (q,) = load_streams(folder)
        assert (q.subject, [s.label for s in q.segments]) == (name[0], ["A"])


def test_recordings_of_one_name_in_several_folders_are_several(tmp_path: Path) -> None:
    found = load_streams(write_sessions(tmp_path))
    assert [(q.name, q.subject) for q in found] == [("anna/1", "anna/1"), ("ben/1", "ben/1")]
    inside, outside = split(to_streams(found, labels_of(found)), 0.2, 0)
    assert len(inside) == len(outside) == 1
    assert [q.name for q in load_streams(tmp_path / "ben")] == ["1"]
    assert [q.name for q in load_streams(tmp_path / "ben" / "1.mcap")] == ["1"]


def test_gestures_of_the_other_hand_are_not_this_ones() -> None:
    frames = swipe_frames(3)
    for f in frames[:800]:
        f.hands.append(Hand(8, "left", joint_bytes(hand_joints(-0.4, side="left"))))
    told: list[str] = []

    def learnt(*hands: str) -> list[str]:
        told.clear()
        truths = [
            Truth("test", hand, label, at * 10**9, (at + 1) * 10**9)
            for hand, label, at in zip(hands, ("WAVE", "RIGHT"), (3, 1), strict=True)
        ]
        recording = Recording("x", Path("x"), frames, truths)
        (q,) = sequences_of(recording, told.append)
        assert q.side == "right"
        return [s.label for s in q.segments]

    assert learnt("left", "right") == ["RIGHT"]
    assert not told
    assert learnt("", "") == ["WAVE", "RIGHT"]
    assert "the left one is seen, too: are they all the right one's?" in told[0]
    del frames[:700]  # what is left of the left hand performs nothing
    assert learnt("", "") == []
    assert not told


def test_impossible_hands_are_not_learnt(tmp_path: Path) -> None:
    with Writer(tmp_path / "one.mcap") as writer:
        for k, f in enumerate(swipe_frames(3)):
            joints = f.hands[0].array().copy()
            if k % 10 == 0:
                joints[5] = np.nan
            f.hands[0].joints = joint_bytes(joints)
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    (tmp_path / "one.csv").write_text("RIGHT,1.0,1.4\n")
    told: list[str] = []
    (q,) = load_streams(tmp_path, told.append)
    assert np.isfinite(q.joints).all()
    assert len(q.joints) == k - k // 10
    (line,) = told
    assert f"{k // 10 + 1} hands left out: a hand with joints that are not numbers" in line


def test_a_copy_of_a_recording_is_not_held_out_from_it(tmp_path: Path) -> None:
    write_sessions(tmp_path)
    for name in ("1.mcap", "1.csv"):
        shutil.copy(tmp_path / "ben" / name, tmp_path / "anna" / name.replace("1", "0"))
    told: list[str] = []
    found = load([("streams", tmp_path)], tell=told.append)
    assert [q.name for q in found] == ["anna/0", "anna/1"]
    assert told == ["left out: ben/1 begins as anna/0 does: a copy, or a part of it"]


def test_labels_that_differ_by_case_alone_are_told(tmp_path: Path) -> None:
    write_sessions(tmp_path)
    labels = tmp_path / "ben" / "1.csv"
    (label, *_) = labels.read_text().split(",")
    labels.write_text(labels.read_text().replace(label, label.title(), 1))
    told: list[str] = []
    load([("streams", tmp_path)], tell=told.append)
    assert told == [f"label {label!r} and {label.title()!r} count as two: meant as one?"]


def test_an_empty_truth_file_says_that_nobody_gestures(tmp_path: Path) -> None:
    found = load_streams(write_sessions(tmp_path, idle=True))
    assert [(q.name, len(q.segments)) for q in found] == [
        ("anna/1", 6),
        ("anna/2", 0),
        ("ben/1", 6),
    ]
    for seed in range(4):  # settings cannot be chosen on idle time alone
        _, outside = split(to_streams(found, labels_of(found)), 0.2, seed)
        assert all(s.marks for s in outside)
        assert outside
    few = to_streams(found[:2], labels_of(found))
    assert split(few, 0.2, 0) == (few, [])
    many = to_streams([found[0], found[2], *[found[1]] * 5], labels_of(found))
    for i, s in enumerate(many):
        many[i] = replace(s, group=str(i))
    assert sorted(len(s.marks) for s in split(many, 0.2, 0)[1]) == [0, 6]
    (tmp_path / "anna" / "2.csv").unlink()
    with pytest.raises(DatasetError, match=r"put a 2\.csv .* an empty one if nobody gestures"):
        load_streams(tmp_path)


def test_idle_recordings_are_trained_with_and_nothing_held_out_is_told(tmp_path: Path) -> None:
    root = write_sessions(tmp_path / "sessions", idle=True)
    out = tmp_path / "m.pt"
    args = ["--online", "--dataset", "streams", "-o", str(out), "--minutes", "0.1"]
    done = CliRunner().invoke(train, [*args, "--root", str(root), "--json", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "nothing can be held out" not in done.output
    (held,) = bundle.read_metadata(out).training["held_out"]
    assert held in {"anna/1", "ben/1"}
    done = CliRunner().invoke(
        train, [*args, "--root", str(root / "anna"), "--folds", "3", "--threads", "1"]
    )
    assert "warning: nothing can be held out: each recording, or person, performs" in done.output


def test_the_truth_beside_a_recording_replaces_its_own(tmp_path: Path) -> None:
    path = tmp_path / "one.mcap"
    with Writer(path) as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
        truth = Truth(f.device, "", "OLD", 10**9, 2 * 10**9)
        writer.write(topics.of(truth), encode(truth), f.time_ns, f.time_ns)
    (q,) = load_streams(tmp_path)
    assert [s.label for s in q.segments] == ["OLD"]
    (tmp_path / "one.csv").write_text("NEW,1.0,1.4\n")
    told: list[str] = []
    (q,) = load([("streams", tmp_path)], tell=told.append)
    assert [s.label for s in q.segments] == ["NEW"]
    assert told == [f"{tmp_path / 'one.csv'}: taken instead of what one.mcap itself tells"]


def test_a_gesture_cannot_be_called_none() -> None:
    two = [sequence("1", 1), sequence("2", 2)]
    for q in two:
        q.segments = [replace(s, label="none" if i else "A") for i, s in enumerate(q.segments)]
    with pytest.raises(ValueError, match="'none' is what is told of no gesture"):
        train_online(two, Recipe())


def test_a_recording_is_cut_where_the_hand_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "lost.mcap"
    with Writer(path) as writer:
        for f in swipe_frames(3):
            away = 7.5e9 < f.time_ns < 8.5e9  # in mid-gesture
            f.hands = [] if away else f.hands
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    (tmp_path / "lost.csv").write_text("RIGHT,1.0,1.4\nRIGHT,7.4,7.8\nRIGHT,13.8,14.2\n")
    told: list[str] = []
    first, second = load_streams(tmp_path, told.append)
    assert first.subject == second.subject == "lost"
    # Of the gesture that was half seen nothing is left, of what lies before and after it all.
    assert [len(first.segments), len(second.segments)] == [1, 1]
    assert [s.name for s in to_streams([first, second], ["RIGHT"])] == ["lost.0", "lost.1"]
    assert 7.3e9 < first.time_ns[-1] - first.time_ns[0] < 7.4e9
    assert second.time_ns[0] >= 8.5e9
    assert told == [f"{path}: the hand was lost in 1 gestures; they are left out"]
    brief = "RIGHT,1.001,1.019\nRIGHT,3.001,3.019\n"  # one frame each, 10 ms apart
    (tmp_path / "lost.csv").write_text(brief)
    assert [len(q.segments) for q in load_streams(tmp_path)] == [2, 0]


def test_pieces_too_short_to_teach_anything_are_left_out_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "flickers.mcap"

    def write(until_s: float) -> None:
        with Writer(path, force=True) as writer:
            for f in swipe_frames(3):
                # Seen for 0.1 s at a time, twice; then for as long as it lasts.
                seen = f.time_ns % 10**9 <= 10**8 if f.time_ns < 2e9 else f.time_ns < until_s * 1e9
                f.hands = f.hands if seen else []
                writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)

    write(100.0)
    (tmp_path / "flickers.csv").write_text("RIGHT,7.4,7.8\n")
    told: list[str] = []
    (q,) = load_streams(tmp_path, told.append)
    assert (q.subject, [s.label for s in q.segments]) == ("flickers", ["RIGHT"])
    assert told == [f"{path}: the hand was seen for under 0.5 s at a time 2 times; left out"]
    write(2.4)
    with pytest.raises(DatasetError, match=r"no hand in it for 0\.5 s"):
        load_streams(tmp_path)


def test_the_part_is_found_by_its_folder(tmp_path: Path) -> None:
    for name in ("training_set", "test_set"):
        (tmp_path / name / "sequences").mkdir(parents=True)
        (tmp_path / name / "sequences" / "1.txt").write_text("")
    assert part_of(tmp_path, "train").name == "training_set"
    assert part_of(tmp_path, "test").name == "test_set"
    assert part_of(tmp_path / "test_set", "test").name == "test_set"
    assert part_of(tmp_path / "test_set", "train").name == "test_set"


def test_each_part_has_its_own_annotations(tmp_path: Path) -> None:
    for part in ("training_set", "test_set"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "1.txt").write_text("")
    both = {"annotations_training.txt", "annotations_test.txt"}
    for name in both:
        (tmp_path / name).write_text("")
    for part, name in zip(("training_set", "test_set"), sorted(both, reverse=True), strict=True):
        for root in (tmp_path / part, tmp_path / part / "1.txt"):
            found = annotations_beside(root)
            assert found is not None
            assert found.name == name
    revised = tmp_path / "training_set" / "annotations_revised_training.txt"
    revised.write_text("")
    (tmp_path / "training_set" / "annotations.txt").write_text("")
    assert annotations_beside(tmp_path / "training_set" / "1.txt") == revised
    truth = tmp_path / "test_set" / "ground_truth.txt"
    truth.write_text("")
    assert annotations_beside(tmp_path / "test_set") == truth


def test_annotations_beside_an_unpacked_archive_are_found(tmp_path: Path) -> None:
    root = write_shrec21(tmp_path / "data", 1, 16.0)
    (points,) = np.load(root / "positions.npz").values()
    (root / "positions.npz").unlink()
    (root / "shrec21" / "training_set").mkdir(parents=True)
    rows = np.concatenate([points, np.zeros((*points.shape[:2], 4))], 2).reshape(len(points), -1)
    np.savetxt(root / "shrec21" / "training_set" / "1.txt", rows, fmt="%.5f", delimiter=";")
    (known,) = load([("shrec21", root)])
    (recording,) = open_recordings([root], "shrec21")
    assert [t.label for t in recording.truths] == [s.label for s in known.segments] != []


def test_a_folder_of_the_other_part_alone_is_refused(tmp_path: Path) -> None:
    latest = tmp_path / "latest"  # the word is not in it
    (latest / "sequences").mkdir(parents=True)
    (latest / "sequences" / "1.txt").write_text("")
    assert part_told(latest, "test") == (latest, None)
    (latest / "annotations_revised_training.txt").write_text("")
    assert part_told(latest, "train") == (latest, "train")
    with pytest.raises(DatasetError, match="holds the train part alone: --split train"):
        part_told(latest, "test")
    both = tmp_path / "both"
    for name in ("training_set", "test_set"):
        (both / name).mkdir(parents=True)
        (both / name / "1.txt").write_text("")
    for split_ in ("train", "test"):
        assert part_told(both, split_)[1] == split_
    with pytest.raises(DatasetError, match="holds the test part alone: --split test"):
        part_told(both / "test_set" / "1.txt", "train")


def test_the_command_tells_the_part_that_it_knows(tmp_path: Path) -> None:
    root = write_shrec21(tmp_path / "s21", 2, 16.0)
    model = str(save_palm_model(tmp_path / "palm.pt"))

    def run(*args: str) -> Result:
        args = ("--online", "--dataset", "shrec21", "--root", str(root), "--json", *args)
        return CliRunner().invoke(evaluate_online_command, [*args, "--model", model])

    assert json.loads(run("--split", "train").stdout)["split"] == "train"
    refused = run()
    assert refused.exit_code == 1
    assert "holds the train part alone: --split train" in refused.output
    (root / "annotations_revised_training.txt").rename(root / "annotations.txt")
    assert json.loads(run().stdout)["split"] is None
