"""``hgr process`` and its lines: events in seconds and in the file's own frame numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hgr_stream.cli.process import event_lines
from hgr_stream.datasets.numbering import FrameNumbers
from hgr_stream.messages import Event, encode, joint_bytes
from hgr_stream.pipeline import Pipeline, recording_notes, run_recording
from hgr_stream.recognition.bundle import load, save
from hgr_stream.recording import Writer
from hgr_stream.stream import topics
from tests.foreign_files import openxr_json
from tests.hands import MS, frame, hand_joints, swipe_frames
from tests.models import save_palm_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_palm_model(tmp_path_factory.mktemp("model") / "palm.pt")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "swipes.mcap"
    with Writer(path) as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    return path


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hgr_stream.cli", "process", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_batches_give_the_events_of_single_frames(model: Path) -> None:
    bundle = load(model)
    told = []
    for batch in (1, 7, 64, 10_000):
        pipeline = Pipeline(bundle, batch=batch)
        events = [e for f in swipe_frames(3) for e in pipeline.push(f)] + pipeline.finish()
        told.append([(e.kind, e.label, e.onset_ns, e.offset_ns, e.report_ns) for e in events])
    assert told[0] == told[1] == told[2] == told[3]
    assert [t[0] for t in told[0]].count("confirmed") == 3


def test_a_line_an_event(recording: Path, model: Path) -> None:
    done = process(recording, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    confirmed = [x for x in lines if x["kind"] == "confirmed"]
    assert [x["label"] for x in confirmed] == ["RIGHT"] * 3
    for i, line in enumerate(confirmed):
        assert line["file"] == str(recording)
        # The strokes begin 1 s into each 6.4 s; 100 frames a second, numbered from 1.
        assert line["start"] == pytest.approx(6.4 * i + 1.05, abs=0.15)
        assert line["start"] < line["end"] <= line["report"]
        assert line["start_frame"] == pytest.approx(100 * line["start"] + 1, abs=1.5)
        assert line["end_frame"] == pytest.approx(100 * line["end"] + 1, abs=1.5)
        assert line["report_frame"] >= line["end_frame"]
        early = [x for x in lines if x["id"] == line["id"] and x["kind"] == "early"]
        assert [x["outcome"] for x in early] == ["confirmed"]
        assert early[0]["end"] == line["end"]
        assert early[0]["report"] < line["report"]
    assert "times real time" in done.stderr


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("hands", ["there is no hand in any frame"]),
        (
            "millimetres",
            ["test: a hand of 101 m from wrist to middle base; are its joints in milli"],
        ),
        ("microseconds", ["test: 640 frames within 0.00639 s; are its times in microseconds?"]),
        ("milliseconds", ["test: 640 frames within 6.39e-06 s; are its times in milliseconds?"]),
        ("", []),
    ],
)
def test_an_odd_recording_is_told_with_its_likely_cause(
    model: Path, spoil: str, told: list[str]
) -> None:
    frames = swipe_frames(1)
    for f in frames:
        f.time_ns //= {"microseconds": 1000, "milliseconds": 1_000_000}.get(spoil, 1)
        if spoil == "hands":
            f.hands = []
        elif spoil == "millimetres":
            f.hands[0].joints = joint_bytes(f.hands[0].array() * 1000)
    pipeline = Pipeline(load(model), batch=64)
    _, devices = run_recording(pipeline, frames)
    notes = recording_notes(pipeline, devices)
    assert [n.startswith(t) for n, t in zip(notes, told, strict=True)] == [True] * len(told)


def test_what_is_odd_is_printed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.mcap"
    with Writer(path) as writer:
        for i in range(50):
            f = frame(i, i * 10 * MS, None)
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    done = process(path, "--model", model)
    assert (done.returncode, "there is no hand in any frame" in done.stderr) == (0, True), (
        done.stderr
    )


def test_a_file_without_frames_is_no_recording_that_was_done(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "nothing.mcap"
    with Writer(path):
        pass
    done = process(path, "--model", model)
    assert done.returncode == 1
    assert "nothing.mcap: holds no frames" in done.stderr
    assert "0 recordings, " in done.stderr


def test_for_people(recording: Path, model: Path) -> None:
    done = process(recording, "--model", model)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    assert "RIGHT" in done.stdout


def test_a_daemons_config_holds(recording: Path, model: Path, tmp_path: Path) -> None:
    config = tmp_path / "kiosk.toml"
    config.write_text(f"""
[model]
use = "{model.as_posix()}"
[recognition]
early = false
refractory_s = 8.0
""")
    done = process(recording, "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    # The second of three strokes, 6.4 s apart, comes too soon.
    assert [json.loads(x)["kind"] for x in done.stdout.splitlines()] == ["confirmed"] * 2
    config.write_text('[recognition]\nignore = ["RIGHT"]')
    assert process(recording, "--config", config, "--model", model).stdout == ""
    for text, wanted in (
        ('ignore = ["JUMP"]', "names 'JUMP', which model 'palm' does not know"),
        ('ignore = ["RIGHT"]\nallow = ["RIGHT"]', "'RIGHT' is in allow and in ignore"),
        ("idle = 0.99", "idle 0.99 does not lie between 0 and"),
    ):
        config.write_text(f"[recognition]\n{text}")
        refused = process(recording, "--config", config, "--model", model)
        assert refused.returncode != 0
        assert wanted in refused.stderr
        assert "Traceback" not in refused.stderr


def test_what_tells_no_times_runs_at_the_rate_of_the_training(model: Path, tmp_path: Path) -> None:
    path, trained = tmp_path / "untimed.jsonl", tmp_path / "trained.pt"
    frames = [{"hands": one["hands"]} for one in openxr_json(61)]
    path.write_text("".join(json.dumps(one) + "\n" for one in frames))
    at_60 = load(model)
    at_60.metadata.training["recordings_hz"] = 60.0
    save(at_60.module, at_60.metadata, trained)
    for args, lasted in (
        ((model,), "2.0 s of stream"),
        ((model, "--rate", 20), "3.0 s of stream"),
        ((trained,), "1.0 s of stream"),
        ((trained, "--rate", 30), "2.0 s of stream"),
    ):
        done = process(path, "--model", *args)
        assert (done.returncode, lasted in done.stderr) == (0, True), done.stderr


def test_bad_files_are_named_and_the_good_one_is_done(
    recording: Path, model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.mcap"
    text.write_text("not a recording")
    empty = tmp_path / "empty.mcap"
    with Writer(empty):
        pass
    done = process(text, recording, empty, tmp_path / "none.mcap", "--model", model, "--json")
    assert done.returncode == 1
    assert len([x for x in done.stdout.splitlines() if '"kind": "confirmed"' in x]) == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 3
    for name, line in zip(("text.mcap", "empty.mcap", "none.mcap"), errors, strict=True):
        assert name in line


def test_a_cut_recording_gives_what_it_holds(recording: Path, model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    with Writer(whole := tmp_path / "whole.mcap") as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
            writer.tick(f.time_ns / 1e9)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = process(cut, "--model", model, "--json")
    assert done.returncode == 0
    assert 1 <= done.stdout.count('"kind": "confirmed"') < 3
    assert "cut" in done.stderr


@pytest.mark.parametrize(
    ("model_text", "fault"), [(None, "no such model file"), ("x", "not a TorchScript file")]
)
def test_a_wrong_model_is_one_line(
    recording: Path, tmp_path: Path, model_text: str | None, fault: str
) -> None:
    path = tmp_path / "model.pt"
    if model_text is not None:
        path.write_text(model_text)
    done = process(recording, "--model", path)
    assert done.returncode == 1
    assert fault in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_frame_numbers() -> None:
    numbers = FrameNumbers()
    for index, ms in ((10, 0), (11, 50), (12, 40), (13, 100), (20, 200)):
        f = frame(index, ms * MS + 7 * MS, hand_joints())
        f.index = index
        numbers.add(f)
    numbers.freeze()  # 12 ran back in time
    assert [numbers.nearest((ms + 7) * MS) for ms in (-5, 20, 26, 75, 76, 170, 999)] == [
        10, 10, 11, 11, 13, 20, 20,
    ]  # fmt: skip
    assert [numbers.latest((ms + 7) * MS) for ms in (0, 49, 50, 150, 500)] == [10, 10, 11, 13, 20]
    assert numbers.seconds(107 * MS) == 0.1


@pytest.mark.parametrize("given", [(0, 0, 0, 0, 0), (7, 7, 8, 8, 9), (98, 99, 100, 1, 2)])
def test_frames_without_numbers_of_their_own_are_numbered_by_position(given: tuple) -> None:
    numbers = FrameNumbers()
    for index, ms in zip(given, (0, 50, 40, 100, 200), strict=True):
        f = frame(0, ms * MS, hand_joints())
        f.index = index
        numbers.add(f)
    numbers.freeze()  # the third ran back in time
    assert [numbers.nearest(ms * MS) for ms in (0, 50, 100, 200)] == [0, 1, 3, 4]


def test_an_early_label_that_was_not_confirmed_is_told_as_cancelled() -> None:
    numbers = FrameNumbers()
    for i in range(100):
        numbers.add(frame(i, i * 10 * MS, hand_joints()))
    numbers.freeze()

    def event(event_id: str, kind: str, at_ms: int, end_ms: int = 0, reason: str = "") -> Event:
        return Event(
            event_id, kind, "V", "d", "right", "right", 100 * MS, at_ms * MS, 0.8,  # type: ignore[arg-type]
            offset_ns=end_ms * MS, report_ns=at_ms * MS, reason=reason,
        )  # fmt: skip

    events = [
        event("a", "begin", 200), event("a", "early", 250), event("a", "cancelled", 600, 550, "no"),
        event("b", "begin", 200), event("b", "cancelled", 600, 550, "too short"),
    ]  # fmt: skip
    lines = list(event_lines("f", events, {"d": numbers}))
    assert [(x["id"], x["kind"]) for x in lines] == [("a", "early"), ("a", "cancelled")]
    assert lines[0]["outcome"] == "cancelled"
    assert lines[0]["end_frame"] == 56
    assert lines[0]["report_frame"] == 26
    assert lines[1]["reason"] == "no"


def test_gestures_that_begin_in_one_tick_on_two_devices_have_ids_of_their_own(model: Path) -> None:
    """The people of one recording: their frames have one boot id, and the same stamps."""
    whole, cut = (swipe_frames(1, device=name) for name in ("x.person0", "x.person1"))
    cut = [f for f in cut if f.time_ns < 1_300 * MS]  # lost on the way
    frames = sorted([*whole, *cut], key=lambda f: f.time_ns)
    events, numbers = run_recording(Pipeline(load(model)), frames)
    begun = [e for e in events if e.kind == "begin"]
    assert len({e.decided_ns for e in begun}) == 1
    assert len({e.id for e in begun}) == len(begun) == 2
    early = [x for x in event_lines("f", events, numbers) if x["kind"] == "early"]
    ends = {e.id: numbers[e.device].nearest(e.offset_ns) for e in events if e.offset_ns}
    assert [x["end_frame"] for x in early] == [ends[e.id] for e in begun]
    assert ends[begun[0].id] > ends[begun[1].id]


def test_seconds_are_the_recordings_whoever_joins_it_late(model: Path) -> None:
    first = swipe_frames(2, device="x.person0")
    late = [f for f in swipe_frames(2, device="x.person1") if f.time_ns > 5_000 * MS]
    replayed = swipe_frames(2, device="old")
    for f in replayed:
        f.time_ns += 10**15
    frames = [*sorted([*first, *late], key=lambda f: f.time_ns), *replayed]
    lines = list(event_lines("f", *run_recording(Pipeline(load(model)), frames)))
    starts = {d: [x["start"] for x in lines if x["device"] == d and x["kind"] == "confirmed"]
              for d in ("x.person0", "x.person1", "old")}  # fmt: skip
    assert starts["x.person1"] == pytest.approx(starts["x.person0"][1:], abs=0.1)
    assert starts["old"] == pytest.approx(starts["x.person0"], abs=0.1), "another clock"


def test_the_official_text_form_and_its_row_numbers(shared_data: Path, tmp_path: Path) -> None:
    """The numbers of a SHREC'21 file are its 1-based rows, whatever form it came in."""
    import tarfile

    with tarfile.open(shared_data / "shrec21_online_train" / "raw_sequences_1-8.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = next(tmp_path.rglob("1.txt")).parent
    done = process("--format", "shrec21", folder, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {
        (Path(x["file"]).stem, x["label"]): (x["start_frame"], x["end_frame"])
        for x in lines
        if x["kind"] == "confirmed"
    }
    annotations = shared_data / "shrec21_online_train" / "annotations_revised_training.txt"
    hits = total = 0
    for row in annotations.read_text().splitlines()[:8]:
        fields = [x.strip() for x in row.strip().strip(";").split(";") if x.strip()]
        for label, start, end in zip(fields[1::3], fields[2::3], fields[3::3], strict=True):
            total += 1
            got = found.get((fields[0], label))
            hits += got is not None and got[0] < int(end) and got[1] > int(start)
    assert total == 23
    assert hits >= 21  # of the model's own training sequences
