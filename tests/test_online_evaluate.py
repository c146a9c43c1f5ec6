"""Online evaluation: figures that can be worked out by hand, and a picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hgr_drivers.base import HandSample, Sample
from hgr_drivers.runner import IdleThinner, Stamper

from hgr_stream.cli.online import evaluate_online_command as judge_command
from hgr_stream.cli.online import tune as tune_command
from hgr_stream.config import Config, Recognition
from hgr_stream.config import load as load_config
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import Recording, open_recordings
from hgr_stream.datasets.numbering import FrameNumbers
from hgr_stream.messages import Event, Truth, encode, joint_bytes
from hgr_stream.pipeline import BATCH, Pipeline, run_recording
from hgr_stream.recognition.bundle import load
from hgr_stream.recognition.options import ClassOptions
from hgr_stream.recording import Writer
from hgr_stream.skeleton import mirrored
from hgr_stream.stream import topics
from hgr_stream.training import thresholds
from hgr_stream.training.learnt import Learnt, unlearnt
from hgr_stream.training.metrics import Span, calibration_error, score
from hgr_stream.training.online_evaluate import (
    FrameSpan,
    Played,
    _scores,
    edit_distance,
    evaluate,
    judged,
    report,
    timeline,
)
from hgr_stream.training.tape import tape
from hgr_stream.training.thresholds import (
    Candidate,
    Tuned,
    best_f1,
    choose,
    tune,
    unrefused,
)
from hgr_stream.training.truth import give_truth, read_truths, sequences_of
from tests.hands import MS, frame, hand_joints, left_hands, swipe_frames
from tests.models import save_palm_model


def span(label: str, start: int, end: int, report: int = 0) -> FrameSpan:
    """At 50 frames a second."""
    return FrameSpan(label, start, end, report, start / 50, end / 50, report / 50)


def played(truths: list[FrameSpan], found: list[FrameSpan], confidence: float = 1.0) -> Played:
    return Played(
        "x", truths, {"confirmed": found, "early": []},
        {"confirmed": [confidence] * len(found), "early": []}, 60.0, 0.02,
    )  # fmt: skip


def test_figures_by_hand() -> None:
    truths = [span("A", 100, 200), span("B", 300, 400), span("A", 500, 520)]
    found = [
        span("A", 110, 205, report=215),  # right
        span("A", 300, 400, report=410),  # a B taken for an A
        span("B", 1000, 1100, report=1110),  # where nothing was
    ]
    r = report([played(truths, found)], "confirmed", "shrec21")
    b = r.benchmark
    assert b.detection_rate == pytest.approx((0.5 + 0.0) / 2)
    assert b.false_positives == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert b.jaccard == pytest.approx((1 / 3 + 0 / 2) / 2)
    assert (b.precision, b.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    idle_s = 60 - 0.02 * 220
    assert b.false_per_hour == pytest.approx(3600 / idle_s)
    assert r.commit_lag_ms == pytest.approx((215 - 200) * 20)
    assert r.edit_accuracy == pytest.approx(1 - 2 / 3)  # A A B for A B A


def test_what_lasts_a_single_frame_is_hit_by_what_holds_that_frame() -> None:
    tap, around, beside = span("A", 150, 150), span("A", 140, 160, 165), span("A", 200, 200, 205)
    for rule in ("any", "shrec21"):
        b = report([played([tap], [around])], "confirmed", rule).benchmark
        assert (b.detection_rate, b.f1, b.strays, b.time_to_detect) == (1.0, 1.0, 0, 0.0)
    b = report([played([tap], [beside])], "confirmed", "shrec22").benchmark
    assert (b.detection_rate, b.strays) == (0.0, 1), "elsewhere is no hit, however short"
    # A label told early and cancelled at once lies in the gesture all the same.
    b = report([played([around], [tap])], "confirmed", "any").benchmark
    assert (b.f1, b.strays) == (1.0, 0)
    long = span("A", 100, 200)
    b = report([played([tap, long], [span("A", 120, 190, 210)])], "confirmed", "any").benchmark
    assert b.time_to_detect == pytest.approx(1.1)


def live_session(numbered: bool) -> Recording:
    """A minute at 120 frames a second, as a driver publishes it: with a hand from 52 to 59 s, and
    two gestures."""
    thinner, stamper = IdleThinner(), Stamper("live", "boot", lossless=False)
    frames = []
    for k in range(60 * 120):
        now_ns = 10**12 + round(k * 1e9 / 120)
        hands = [HandSample(1, "right", hand_joints())] if 52 * 120 <= k < 59 * 120 else []
        sample = Sample(now_ns, hands, k * numbered)
        if not thinner.skips(sample, now_ns):
            frames.append(stamper.frame(sample, now_ns, 1))
    first_ns = frames[0].time_ns
    truths = [
        Truth("live", "", "A", first_ns + at_s * 10**9, first_ns + (at_s + 1) * 10**9)
        for at_s in (54, 57)
    ]
    return Recording("live", Path("live.mcap"), frames, truths)


@pytest.mark.parametrize("numbered", [True, False])
def test_a_live_recording_is_judged_by_its_clock(numbered: bool) -> None:
    """Most frames without hands are left out of it."""
    recording = live_session(numbered)
    assert len(list(recording.frames)) < 1700
    numbers = FrameNumbers()
    for f in recording.frames:
        numbers.add(f)
    events = [
        Event(
            str(i), "confirmed", "A", "live", "right", "right", t.onset_ns, t.offset_ns, 0.9,
            offset_ns=t.offset_ns, report_ns=t.offset_ns + 200_000_000,
        )
        for i, t in enumerate(recording.truths)
    ]  # fmt: skip
    one = judged(recording, events, numbers.freeze())
    assert one.frame_s == pytest.approx(1 / 120, rel=0.01)
    assert (one.seconds, one.gesture_s) == (pytest.approx(60, abs=0.1), pytest.approx(2))
    assert one.hand_s == pytest.approx(7, abs=0.02)
    told = report([one], "confirmed", "shrec22")
    assert told.commit_lag_ms == pytest.approx(200, abs=1)
    assert told.benchmark.idle_h * 3600 == pytest.approx(58, abs=0.1)
    assert told.benchmark.delay == pytest.approx(1.2 * 120, abs=1)
    assert (told.benchmark.f1, told.benchmark.detection_rate) == (1.0, 1.0)


def test_a_hand_is_in_view_until_the_next_frame_but_not_across_a_gap() -> None:
    numbers = FrameNumbers()
    for ms, hand in ((0, True), (100, False), (1000, True), (1100, True), (9000, True)):
        numbers.add(frame(ms, ms * MS, hand_joints() if hand else None))
    assert numbers.freeze().hand_seconds() == pytest.approx(0.1 + 0.1 + 0.25)


def test_edit_distance() -> None:
    assert edit_distance("", "") == 0
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("abc", "") == 3


def test_calibration_error() -> None:
    told = np.array([0.95] * 10 + [0.55] * 10)
    right = np.array([True] * 10 + [True] * 5 + [False] * 5)
    assert calibration_error(told, right) == pytest.approx(0.05)
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0


def test_the_pipeline_on_a_recording_with_truth_and_its_picture(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    frames = swipe_frames(3)
    strokes = [(1.0, 1.4), (7.4, 7.8), (13.8, 14.2)]
    truths = [Truth("test", "right", "RIGHT", int(a * 1e9), int(b * 1e9)) for a, b in strokes]
    recording = Recording("swipes", tmp_path / "x", frames, truths)
    result, reports = evaluate(bundle, [recording], "any")
    confirmed = reports["confirmed"]
    assert (confirmed.benchmark.f1, confirmed.edit_accuracy) == (1.0, 1.0)
    assert confirmed.benchmark.false_per_hour == 0.0
    assert reports["early"].commit_lag_ms < 400
    assert result[0].frame_s == pytest.approx(0.01, abs=1e-4)
    timeline(bundle, recording, result[0], tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    [(times, right)] = _scores(bundle, recording, None)
    mirroring = load(save_palm_model(tmp_path / "m.pt", mirrors=True))
    recording.frames = left_hands([f for f in frames if not 4.0 < f.time_ns / 1e9 < 6.0])
    tracks = _scores(mirroring, recording, None)
    assert [t[0] > 5 for t, _ in tracks] == [False, True], "no line across a loss"
    told = np.concatenate([p for _, p in tracks])
    for stroke in (1, 2):  # as a left hand's the same strokes are the same gestures
        assert told[:, stroke].max() == pytest.approx(right[:, stroke].max(), abs=0.01)
    assert len(times) > len(told)
    recording.truths = []
    with pytest.raises(DatasetError, match="what is performed"):
        evaluate(bundle, [recording], "any")


def test_thresholds_are_raised_where_they_cost_least() -> None:
    found = [
        *(Candidate("A", c, True, False) for c in (0.5, 0.6, 0.9)),
        Candidate("A", 0.3, False, True),  # cheap: no true A is below it
        *(Candidate("B", c, True, False) for c in (0.2, 0.3, 0.9)),
        Candidate("B", 0.5, False, True),  # dear: costs two
    ]
    assert choose(found, 2) == {}
    assert choose(found, 1) == {"A": 0.4}
    assert choose(found, 0) == {"A": 0.4, "B": 0.7}


def test_tuning_rids_a_recording_of_its_false_events(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    truths = [Truth("test", "right", "RIGHT", int(1.0e9), int(1.4e9))]  # of three strokes
    recording = Recording("swipes", tmp_path / "x", swipe_frames(3), truths)
    tuned = tune(bundle, [recording], 1.0)
    assert tuned.before.benchmark.false_per_hour > 100
    assert tuned.after.benchmark.false_per_hour == 0.0
    assert tuned.threshold["RIGHT"] > 0.5


def test_tuning_rids_a_left_hand_of_its_false_events_too(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt", mirrors=True))
    truths = [Truth("test", "left", "RIGHT", int(1.0e9), int(1.4e9))]  # of three strokes
    frames = left_hands(swipe_frames(3))
    recording = Recording("swipes", tmp_path / "x", frames, truths)
    tuned = tune(bundle, [recording], 1.0)
    assert tuned.before.benchmark.false_per_hour > 100
    assert tuned.after.benchmark.false_per_hour == 0.0
    assert set(tuned.threshold) == {"RIGHT"}
    # What was chosen on the tape does the same in the pipeline.
    config = Config(recognition=Recognition(threshold=tuned.threshold))
    _, reports = evaluate(bundle, [recording], "any", config=config)
    assert reports["confirmed"] == tuned.after


def test_what_is_false_under_higher_thresholds_alone_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its early label, for which the threshold is too high, the gesture is told as another.
    def come(
        _: object, __: object, threshold: Mapping[str, float] = thresholds.NONE
    ) -> list[Played]:
        early = threshold.get("LEFT", 0.0) <= 0.9
        label, sure = ("LEFT", 0.9) if early else ("RIGHT", 0.8)
        return [played([], [span(label, 0, 20)] * (sure >= threshold.get(label, 0.0)), sure)]

    monkeypatch.setattr(thresholds, "_played", come)
    tuned = tune(load(save_palm_model(tmp_path / "palm.pt")), [], 1.0)
    assert tuned.threshold == {"LEFT": 0.95, "RIGHT": 0.9}
    assert (tuned.after.benchmark.strays, tuned.unrefused) == (0, [])


def test_false_events_are_allowed_by_the_hours_of_a_live_recording(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    hand_s = 600  # before it comes there are ten frames a second
    idle = [frame(i, i * 100 * MS, None) for i in range(hand_s * 10)]
    moved = swipe_frames(3)
    for f in moved:
        f.seq, f.time_ns = f.seq + len(idle), f.time_ns + hand_s * 10**9
    strokes = [(hand_s + 1.0, hand_s + 1.4), (hand_s + 7.4, hand_s + 7.8)]  # of three
    truths = [Truth("test", "right", "RIGHT", int(a * 1e9), int(b * 1e9)) for a, b in strokes]
    recording = Recording("kiosk", tmp_path / "x", [*idle, *moved], truths)
    idle_s = moved[-1].time_ns / 1e9 - 0.8
    assert tune(bundle, [recording], 3600 / (idle_s - 1)).threshold == {}
    assert tune(bundle, [recording], 3600 / (idle_s + 1)).threshold.keys() == {"RIGHT"}


def test_f1_thresholds_are_lowered_too_and_few_samples_lean_on_all() -> None:
    found = [
        *(Candidate("A", c, True, False) for c in (0.15, 0.2, 0.3, 0.5)),
        *(Candidate("B", c, True, False) for c in (0.6, 0.7, 0.8, 0.9) * 6),
        *(Candidate("B", c, False, True) for c in (0.4, 0.45, 0.5, 0.55) * 6),
    ]
    chosen = best_f1(found, ["A", "B", "C"])
    assert 0.55 < chosen["B"] < 0.6
    assert chosen["C"] == pytest.approx(chosen["B"], abs=0.02), "never seen: as the others"
    assert chosen["A"] < 0.15
    alone = best_f1([Candidate("A", 0.05, False, False), *found], ["A"])
    assert alone["A"] >= 0.05


def swipes(bundle_rate: float = 100.0) -> Recording:
    strokes = [(1.0, 1.4), (7.4, 7.8), (13.8, 14.2)]
    truths = [Truth("test", "right", "RIGHT", int(a * 1e9), int(b * 1e9)) for a, b in strokes]
    frames = swipe_frames(3, rate_hz=bundle_rate)
    return Recording("swipes", Path("x"), frames, truths)


def test_a_tape_gives_the_pipelines_events_under_any_settings(tmp_path: Path) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    kept = tape(bundle, swipes())
    own = bundle.metadata.decoder
    for options in (None, msgspec.structs.replace(own, begin=0.8, early_on=False)):
        events, _ = run_recording(Pipeline(bundle, batch=BATCH, options=options), swipes().frames)
        assert len(events) >= 6
        assert kept.events(options) == events
        assert kept.events(options) == events, "played again it is the same"
    holes = swipes()
    for k, f in enumerate(holes.frames):  # once too short to end a stroke, and once not
        f.hands[0].lacks = ["depth"] * (110 < k < 125 or 762 < k < 800)
    events, _ = run_recording(Pipeline(bundle, batch=BATCH), holes.frames)
    assert any(e.reason == "lacks depth" for e in events)
    assert tape(bundle, holes).events() == events


def test_tuning_for_f1_wins_back_what_was_refused(tmp_path: Path) -> None:
    path = save_palm_model(tmp_path / "palm.pt")
    bundle = load(path)
    strict = {"LEFT": ClassOptions(sure=0.99), "RIGHT": ClassOptions(sure=0.99)}
    bundle.metadata.decoder = msgspec.structs.replace(bundle.metadata.decoder, per_class=strict)
    recordings = [swipes(hz) for hz in (100.0, 60.0, 50.0)]
    tuned = tune(bundle, recordings, None, for_f1=True)
    assert tuned.before.benchmark.recall < 0.5
    assert tuned.after.benchmark.f1 == 1.0
    assert tuned.threshold["RIGHT"] < 0.99
    assert tuned.usual_f1 is not None
    assert tuned.expected_f1 is not None
    assert tuned.expected_f1 > tuned.usual_f1
    few = tune(bundle, recordings[:1], None, for_f1=True)
    assert few.expected_f1 is None


def test_thresholds_that_lose_elsewhere_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load(save_palm_model(tmp_path / "palm.pt"))
    recordings = [swipes(hz) for hz in (100.0, 60.0, 50.0)]
    for lost, taken in ((0.02, True), (0.06, False)):
        monkeypatch.setattr(thresholds, "_cross_validated", lambda *_, lost=lost: (0.9, 0.9 - lost))
        tuned = tune(bundle, recordings, None, for_f1=True)
        assert bool(tuned.threshold) is taken


def test_recordings_that_a_model_was_trained_on_do_not_judge_it(tmp_path: Path) -> None:
    several = [swipes(hz) for hz in (100.0, 60.0, 50.0)]
    of = [sequences_of(r)[0] for r in several]
    held = {"learnt": Learnt.from_sequences([of[0], of[2]]).metadata()}
    assert unlearnt(held, several) == [several[1]]
    assert unlearnt({}, several) == several  # a file that does not say
    with pytest.raises(DatasetError, match="trained on all"):
        unlearnt({"learnt": Learnt.from_sequences(of).metadata()}, several)

    # The same hand in another format, under another name, as a left hand.
    file = tmp_path / "renamed.mcap"
    with Writer(file) as writer:
        for f in several[0].frames:
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    again = list(open_recordings([file]))
    with pytest.raises(DatasetError, match="trained on all"):
        unlearnt(held, again)
    left = replace(of[0], joints=mirrored(of[0].joints), side="left")
    assert Learnt.from_sequences([left]) == Learnt.from_sequences([of[0]])


def test_the_commands_on_recordings_of_ones_own(tmp_path: Path) -> None:
    model = str(save_palm_model(tmp_path / "palm.pt"))
    folder = tmp_path / "sessions"
    folder.mkdir()
    for name in ("a", "b", "c"):
        with Writer(folder / f"{name}.mcap") as writer:
            for f in swipe_frames(3):
                writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
        (folder / f"{name}.csv").write_text("RIGHT,1.0,1.4\nRIGHT,7.4,7.8\nRIGHT,13.8,14.2\n")

    def run(command: click.Command, *args: str) -> Result:
        return CliRunner().invoke(command, [*args, "--model", model], catch_exceptions=False)

    judge = ("--online", "--root", str(folder))
    picture = tmp_path / "b.png"
    done = run(judge_command, *judge, "--json", "--picture", str(picture), "--timeline", "b")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["gestures"], told["confirmed"]["f1"], told["early"]["f1"]) == (9, 1.0, 1.0)
    assert told["rule"] == "any"
    assert "any overlap counts" in " ".join(run(judge_command, *judge).stdout.split())
    assert run(judge_command, *judge, "--picture", str(picture), "--timeline", "z").output.endswith(
        "no recording is called 'z'; there are a, b, c\n"
    )
    odd = run(judge_command, "--online", "--root", str(folder / "a.mcap"), "--picture", "b.pngg")
    assert odd.exit_code == 1
    assert "Error: b.pngg: Format 'pngg' is not supported" in odd.output
    assert "event F1" in odd.stdout, "the figures are told all the same"
    assert run(judge_command, *judge, "--timeline", "b").exit_code == 2
    nowhere = run(judge_command, *judge, "--picture", str(tmp_path / "no" / "b.png"))
    assert (nowhere.exit_code, nowhere.stdout) == (1, ""), "told before minutes are spent"
    assert f"there is no folder {tmp_path / 'no'}" in nowhere.output
    keys = "detection_rate false_positives jaccard delay precision recall f1 false_per_hour"
    keys += " edit_accuracy time_to_detect commit_lag_ms calibration_error per_class"
    for key in keys.split():
        assert key in told["confirmed"], key
    low, high = told["confirmed"]["intervals"]["false_per_hour"]
    assert low == 0.0 < high  # none in so short a time says little
    assert told["confirmed"]["intervals"]["f1"] == [1.0, 1.0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    slow = json.loads(run(judge_command, *judge, "--json", "--perturb", "rate=30").stdout)
    assert slow["perturbed"] == ["rate=30"]
    assert slow["frame_s"] == pytest.approx(1 / 30, rel=0.01)
    silent = run(judge_command, *judge, "--silent")
    assert "confirmed  9 false events in 0.02 h" in " ".join(silent.stdout.split("\n"))
    assert "RIGHT 9\n" in silent.stdout
    assert "(95 %: " in silent.stdout
    assert "a hand was in view for 0.02 h of it" in silent.stdout
    (folder / "c.csv").write_text("WAVE,1.0,1.4\n")
    shared = json.loads(run(judge_command, *judge, "--json", "--shared").stdout)
    assert shared["gestures"] == 6
    config = tmp_path / "quiet.toml"
    config.write_text('[recognition]\nignore = ["RIGHT"]\n')
    deaf = json.loads(run(judge_command, *judge, "--json", "--config", str(config)).stdout)
    assert (deaf["gestures"], deaf["confirmed"]["recall"]) == (7, 0.0)
    out = tmp_path / "thresholds.toml"
    tuned = run(tune_command, str(folder), "--for", "f1", "--json", "-o", str(out))
    assert tuned.exit_code == 0, tuned.output
    said = json.loads(tuned.stdout)
    assert said["unseen_f1"]["own"] > 0.5
    low, high = said["after"]["intervals"]["f1"]
    assert 0 <= low < said["after"]["f1"] <= high <= 1
    assert out.read_text().startswith("[recognition.threshold]")
    again = run(tune_command, str(folder), "--for", "f1", "--config", str(out), "-o", str(out))
    assert again.exit_code == 0, again.output
    for whole in (config, folder / "c.csv"):
        before = whole.read_bytes()
        over = run(tune_command, str(folder), "-o", str(whole))
        assert over.exit_code == 1
        assert f"Error: {whole} exists and holds more than thresholds: name another" in over.output
        assert whole.read_bytes() == before
    nowhere = run(tune_command, str(folder), "-o", str(tmp_path / "none" / "t.toml"))
    assert nowhere.exit_code == 1
    assert "t.toml: No such file or directory" in nowhere.output
    assert "after  " in nowhere.stderr, "what was found is told all the same"
    hourly = run(tune_command, str(folder))
    assert "minutes without a gesture are short for 1 false events an hour" in hourly.stderr
    assert "record 60 and more" in hourly.stderr
    wrong = run(judge_command, "--online", "--root", str(folder), "--perturb", "rate=x")
    assert wrong.exit_code == 1
    assert "wants a number" in wrong.output


def test_events_of_gestures_that_nobody_performed_have_a_row() -> None:
    found = [Span("LEFT", 0, 10), Span("TAP", 20, 30), Span("TAP", 40, 50)]
    told = score([[Span("LEFT", 0, 10)]], [found], "shrec21")
    assert [(c.label, c.truths, c.hits, c.false) for c in told.per_class] == [
        ("LEFT", 1, 1, 0),
        ("TAP", 0, 0, 2),
    ]
    # The benchmark's averages are over what was performed; precision is over all.
    assert (told.detection_rate, told.jaccard, told.precision) == (1.0, 1.0, 1 / 3)


def test_a_truth_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("label,start_s,end_s\nLEFT,1.5,2.25\n\n# rest\nRIGHT,4,5\n")
    assert [(n, t.label, t.onset_ns, t.offset_ns) for n, t in read_truths(path, "leap")] == [
        (2, "LEFT", 1_500_000_000, 2_250_000_000),
        (5, "RIGHT", 4_000_000_000, 5_000_000_000),
    ]
    path.write_text("# Anna, Monday\n\nLabel,Start_s,End_s\nLEFT,1.5,2.25\n")
    assert [n for n, _ in read_truths(path, "leap")] == [4]
    for text, line in (("LEFT,1.5\n", ":1:"), ("A,1,2\nLEFT,2,1\n", ":2:"), ("A,x,2\n", ":1:")):
        path.write_text(text)
        with pytest.raises(DatasetError, match=line):
            read_truths(path, "leap")
    with pytest.raises(DatasetError, match="No such file"):
        read_truths(tmp_path / "none.csv", "leap")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A,1,2\nB,1.5,3\n", ":2: B begins before A of line 1 has ended"),
        ("B,1.5,3\nA,1,2\n", ":1: B begins before A of line 2 has ended"),
        ("A,1,2\nB,2,3\nA,1,2\n", ":3: says the same as line 1"),
        ("A,nan,2\n", ":1: nan to 2 are no seconds"),
        ("A,1,inf\n", ":1: 1 to inf are no seconds"),
        (
            "label,start_s,end_s,hand\nA,1,2,left\n",
            ":1: wants label,start_s,end_s and nothing more",
        ),
        ("A,1,2,left\n", ":1: wants label,start_s,end_s and nothing more"),
        ("label,start_s,end_s\nnone,1,2\n", ":2: none is no gesture"),
        ("A,1,2\n\nB,18,60\n", ":3: B ends at 60 s, after the end of one.mcap"),
    ],
)
def test_what_is_wrong_in_a_truth_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    frames = swipe_frames(3)
    recording = Recording("one", tmp_path / "one.mcap", frames)
    path = tmp_path / "one.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=re.escape(f"{path}{told}")):
        give_truth(recording, path)
    assert not recording.truths
    last_s = (frames[-1].time_ns - frames[0].time_ns) / 1e9
    path.write_text(f"A,1,2,\nB,2,{last_s + 0.9}\n")  # these are none: touching, a little late
    give_truth(recording, path)
    assert len(recording.truths) == 2


def test_gestures_that_the_model_does_not_know_and_idle_recordings(tmp_path: Path) -> None:
    model = str(save_palm_model(tmp_path / "palm.pt"))
    file = tmp_path / "a.mcap"
    with Writer(file) as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    truth = file.with_suffix(".csv")

    def run(*args: str) -> Result:
        args = ("--online", "--root", str(file), "--model", model, *args)
        return CliRunner().invoke(judge_command, args, catch_exceptions=False)

    truth.write_text("RIGHTT,1.0,1.4\nRIGHT,7.4,7.8\nRIGHTT,13.8,14.2\n")
    done = run("--json")
    assert done.stderr.count("does not know RIGHTT; did you mean RIGHT?") == 1
    tuned = CliRunner().invoke(tune_command, [str(file), "--model", model])
    assert tuned.stderr.count("does not know RIGHTT; did you mean RIGHT?") == 1
    truth.write_text("")
    assert "3 false events" in run().stdout
    assert json.loads(run("--json").stdout)["gestures"] == 0
    both = run("--truth", str(truth), "--silent")
    assert both.exit_code == 2
    assert "give one" in both.output


def test_tuning_on_recordings_in_which_nobody_gestures_begins_with_the_config(
    tmp_path: Path,
) -> None:
    model = str(save_palm_model(tmp_path / "palm.pt"))
    file, config = tmp_path / "night.mcap", tmp_path / "kiosk.toml"
    with Writer(file) as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)

    def run(*args: str) -> Result:
        return CliRunner().invoke(tune_command, [str(file), "--model", model, *args])

    unsaid = run()
    assert unsaid.exit_code == 1
    assert "give a TRUTH file, or --silent" in unsaid.output
    quiet = run("--silent")
    assert quiet.exit_code == 0, quiet.output
    assert "[recognition.threshold]\n" in quiet.stdout
    assert "after      0.0 false events an hour" in quiet.stderr
    assert "recall" not in quiet.stderr
    (tmp_path / "night.csv").write_text("")  # says the same
    assert run().stdout == quiet.stdout

    config.write_text('[recognition]\nignore = ["RIGHT"]\n[recognition.threshold]\nLEFT = 0.3\n')
    deaf = run("--config", str(config), "--json")
    told = json.loads(deaf.stdout)
    assert (told["before"]["false_per_hour"], told["threshold"]) == (0.0, {"LEFT": 0.3})
    assert "# these thresholds will do\n[recog" in run("--config", str(config)).stdout
    assert "says nothing of F1" in run("--for", "f1").output
    assert run("--silent", "truth.csv").exit_code == 2


def test_hands_that_are_refused_are_told_beside_the_figures(tmp_path: Path) -> None:
    model, file = str(save_palm_model(tmp_path / "palm.pt")), tmp_path / "night.mcap"
    with Writer(file) as writer:
        for f in swipe_frames(3):
            f.hands[0].joints = joint_bytes(f.hands[0].array() * 1000)
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    judge = ["--online", "--root", str(file), "--silent", "--model", model]
    for command, args in ((judge_command, judge), (tune_command, [str(file), *judge[3:]])):
        done = CliRunner().invoke(command, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "night: test: a hand of " in done.stderr
        assert "are its joints in millimetres?" in done.stderr


def test_of_several_false_events_the_least_sure_goes_first() -> None:
    strays = [Candidate("A", 0.9, False, True), Candidate("B", 0.4, False, True)]
    assert choose(strays, 1) == {"B": 0.7}


def test_what_no_threshold_refuses_is_told() -> None:
    found = [
        Candidate("GRAB", 1.0, False, True),
        Candidate("GRAB", 0.7, False, True),
        Candidate("TAP", 0.99998, False, True),
        Candidate("TAP", 0.99999, True, False),
    ]
    threshold = choose(found, 1)
    assert 0.7 < threshold["GRAB"] <= 1.0
    assert 0.99998 < threshold["TAP"] <= 0.99999
    assert unrefused(found, 1) == []
    assert choose(found, 0) == threshold
    assert unrefused(found, 0) == ["GRAB"]


def test_tune_writes_any_label_and_tells_what_to_ignore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(save_palm_model(tmp_path / "palm.pt"))
    file = tmp_path / "night.mcap"
    with Writer(file) as writer:
        for f in swipe_frames(3):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    labels = ['say "hi"', "back\\slash", "größer 👍"]
    none = report([played([], [])], "confirmed", "any")
    found = Tuned(dict.fromkeys(labels, 0.5), none, none, unrefused=["GRAB"])
    monkeypatch.setattr(thresholds, "tune", lambda *_, **__: found)
    out = tmp_path / "found.toml"
    args = [str(file), "--silent", "--model", model, "-o", str(out)]
    told = CliRunner().invoke(tune_command, args)
    assert told.exit_code == 0, told.output
    assert load_config(out).recognition.threshold == found.threshold
    assert "GRAB: even the surest events were false" in told.stderr
    assert json.loads(CliRunner().invoke(tune_command, [*args, "--json"]).stdout)["unrefused"] == [
        "GRAB"
    ]
    found.threshold = {}
    assert "will do" not in CliRunner().invoke(tune_command, args).output


@pytest.mark.parametrize("option", [["--silent"], ["--truth", "/nonexistent.csv"]])
@pytest.mark.parametrize("dataset", ["shrec17", "recordings"])
def test_spliced_gestures_have_truth_of_their_own(
    tmp_path: Path, dataset: str, option: list[str]
) -> None:
    args = ["--online", "--dataset", dataset, "--root", str(tmp_path), *option]
    done = CliRunner().invoke(judge_command, args)
    assert done.exit_code == 2
    assert "no --truth, no --silent" in " ".join(done.output.split())


def test_recordings_without_truth_are_left_out(tmp_path: Path) -> None:
    model = str(save_palm_model(tmp_path / "palm.pt"))
    folder = tmp_path / "sessions"
    folder.mkdir()
    for name in ("a", "b"):
        with Writer(folder / f"{name}.mcap") as writer:
            for f in swipe_frames(3):
                writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    (folder / "a.csv").write_text("RIGHT,1.0,1.4\nRIGHT,7.4,7.8\nRIGHT,13.8,14.2\n")
    args = ["--online", "--root", str(folder), "--model", model, "--json"]
    done = CliRunner().invoke(judge_command, args)
    told = json.loads(done.stdout)
    assert (told["recordings"], told["confirmed"]["precision"]) == (1, 1.0)
    assert re.search(r"left out: \S*b.mcap: says nothing .* put a b.csv", done.stderr)
