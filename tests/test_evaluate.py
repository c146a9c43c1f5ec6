"""What ``hgr evaluate`` says and refuses, and ``hgr export``."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_isolated import QUICK, dhg, takes, write_takes

from hgr_stream.cli.evaluate import _rate_hz
from hgr_stream.cli.evaluate import evaluate as evaluate_command
from hgr_stream.cli.evaluate import export as export_command
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.gestures import Gestures, load_recordings
from hgr_stream.recognition.bundle import ModelError
from hgr_stream.training import evaluate as ev
from hgr_stream.training.evaluate import Model, OverlapError
from hgr_stream.training.intervals import wilson
from hgr_stream.training.isolated import train_isolated
from hgr_stream.training.isolated_folds import train_folds
from hgr_stream.training.isolated_outputs import calibrated
from hgr_stream.training.isolated_recipe import MODERN, scaled
from hgr_stream.training.runs import export_run
from tests.hands import swipe_frames
from tests.models import save_palm_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of recordings of four people."""
    folder = tmp_path_factory.mktemp("takes")
    write_takes(folder, takes(), "npy")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "one"
    train_isolated(
        load_recordings(data), QUICK, folder, held_out=["3"], device="cpu", command="hgr train x"
    )
    return folder


def test_report_counts() -> None:
    gestures = takes(repeats=1)
    found = np.zeros((12, 2, 3))
    found[np.arange(12), 0, 0] = 1  # after half of it: always class 0
    found[np.arange(12), 1, gestures.labels] = 1
    found[0, 1] = [0, 0, 1]  # one mistake, of subject 0
    told = ev.report(gestures, found, (0.5, 1.0))
    assert told.accuracy == pytest.approx(11 / 12)
    assert told.by_fraction == pytest.approx({"0.5": 4 / 12, "1": 11 / 12})
    assert told.per_subject == pytest.approx({"0": 2 / 3, "1": 1.0, "2": 1.0, "3": 1.0})
    assert told.confusion == [[3, 0, 1], [0, 4, 0], [0, 0, 4]]
    assert told.per_class["push"]["recall"] == 0.75
    assert told.per_class["wave"]["precision"] == 0.8
    assert [m["name"] for m in told.mistakes] == ["take0"]


def test_command_on_whom_a_run_held_out(run: Path, data: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    done = CliRunner().invoke(
        evaluate_command,
        [str(run), "--dataset", "recordings", "--root", str(data), "--split", "held-out",
         "--json", "--out", str(tmp_path / "report")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert torch.get_num_threads() == 1
    told = json.loads(done.stdout)
    assert told["gestures"] == 18
    assert list(told["per_subject"]) == ["3"]
    best = json.loads((run / "scores.json").read_text())["best"]
    assert told["accuracy"] == pytest.approx(best["accuracy/validation"])
    assert told["by_fraction"]["1"] == told["accuracy"]
    assert (tmp_path / "report" / "confusion.png").stat().st_size > 5000
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written["gestures"] == 18
    assert written["split"] == "held-out"


@pytest.mark.parametrize(
    ("out", "fault"),
    [
        ("file/report", "cannot be written: Not a directory"),
        ("new", r"report.json is written; its picture needs matplotlib[.a-z]*: pip install"),
    ],
)
def test_a_report_that_cannot_be_written_is_shown(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, fault: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "file").touch()
    options = ["--dataset", "recordings", "--root", str(data), "--split", "held-out"]
    told = [str(run), *options, "--out", str(tmp_path / out), "--json"]
    done = CliRunner().invoke(evaluate_command, told)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["gestures"] == 18
    assert re.search(fault, done.stderr), done.stderr


def test_command_refuses_whom_the_model_has_seen(run: Path, data: Path) -> None:
    options = ["--dataset", "recordings", "--root", str(data)]
    done = CliRunner().invoke(evaluate_command, [str(run), *options])
    assert done.exit_code == 1
    assert "refused: trained on 54 of the 72 gestures" in done.output


def test_command_with_a_split_file(run: Path, data: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.csv"
    split.write_text("0,train\n1,train\n2,train\n3,test\n")
    options = ["--dataset", "recordings", "--root", str(data), "--split", str(split)]
    done = CliRunner().invoke(evaluate_command, [str(run), *options])
    assert done.exit_code == 0, done.output
    assert "of 18 gestures" in done.output
    assert "the temperature was fitted to people judged here" in done.output
    split.write_text("3,train\n2,test\n")
    done = CliRunner().invoke(evaluate_command, [str(run), *options])
    assert done.exit_code == 1
    assert "refused" in done.output


def test_folds_are_pooled(data: Path, tmp_path: Path) -> None:
    gestures = load_recordings(data)
    recipe = scaled(QUICK, epochs=2)
    runs = list(train_folds(gestures, recipe, tmp_path / "f", 2, device="cpu"))
    assert sorted(s for r in runs for s in r.held_out) == ["0", "1", "2", "3"]
    options = ["--dataset", "recordings", "--root", str(data), "--json"]
    done = CliRunner().invoke(
        evaluate_command, [str(tmp_path / "f"), *options, "--split", "held-out"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["gestures"] == len(gestures)
    rights = [r.figures["accuracy/validation"] * 36 for r in runs]
    assert told["accuracy"] * 72 == pytest.approx(sum(rights), abs=0.01)
    assert not any("held out by no run" in note for note in told["notes"])
    for k, run in enumerate(runs):
        shutil.copytree(run.folder, tmp_path / "part" / "seed-0" / f"fold-{k + 1}")
    other = tmp_path / "part" / "seed-1" / "fold-1"  # was stopped after its first fold
    shutil.copytree(runs[0].folder, other)
    settings = json.loads((other / "run.json").read_text())
    settings["recipe"]["seed"] = 1
    (other / "run.json").write_text(json.dumps(settings))
    done = CliRunner().invoke(
        evaluate_command, [str(tmp_path / "part"), *options, "--split", "held-out"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert "seed 1: 2 of 4 people are held out by no run there" in told["notes"]
    assert not any(note.startswith("seed 0") for note in told["notes"])
    assert told["accuracy"] == pytest.approx(np.mean(list(told["by_seed"].values())))


def test_seeds_are_judged_together(data: Path, tmp_path: Path) -> None:
    """On any split: all of them have learnt from the same people. Folds have not."""
    recipe, gestures = scaled(QUICK, epochs=1), load_recordings(data)
    known = gestures.take([i for i, s in enumerate(gestures.subjects) if s != "3"])
    list(train_folds(known, recipe, tmp_path / "s", seeds=[0, 1], device="cpu"))
    list(train_folds(known, recipe, tmp_path / "f", 2, device="cpu"))
    split = tmp_path / "split.csv"
    split.write_text("3,test\n")
    options = ["--dataset", "recordings", "--root", str(data), "--split", str(split), "--json"]
    done = CliRunner().invoke(evaluate_command, [str(tmp_path / "s"), *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (set(told["by_seed"]), told["gestures"]) == ({"0", "1"}, 2 * 18)
    assert told["accuracy"] == pytest.approx(np.mean(list(told["by_seed"].values())))
    done = CliRunner().invoke(evaluate_command, [str(tmp_path / "f"), *options])
    assert done.exit_code == 2
    assert "holds 2 folds; evaluate it on held-out" in done.output


def test_a_streaming_model_gets_gestures_at_its_own_rate(tmp_path: Path) -> None:
    model = Model(save_palm_model(tmp_path / "palm.pt"))
    swipe = np.stack([f.hands[0].array() for f in swipe_frames(1)])[101:141].reshape(40, -1)
    fast = Gestures("x", [swipe], np.array([1]), ["LEFT", "RIGHT"], [""], ["x"], 100.0)
    slow = replace(fast, sequences=[swipe[::4]], rate_hz=25.0)
    found = [ev.scores(model, g, (0.5, 1.0)) for g in (fast, slow)]
    assert found[0] == pytest.approx(found[1])
    assert found[1][0, 0, 1] > 0.9
    assert _rate_hz(str(model.bundle.path)) == 30.0, "of recordings without times"


def test_seeds_are_told_apart() -> None:
    gestures = takes(repeats=1)
    right = np.zeros((12, len(ev.FRACTIONS), 3))
    right[np.arange(12), :, gestures.labels] = 1
    wrong = right.copy()
    wrong[:3] = wrong[:3][:, :, [1, 2, 0]]
    both = ev.pooled([(gestures, right), (gestures, wrong)], [0, 1])
    assert both.by_seed == {"0": 1.0, "1": 0.75}
    assert both.seed_spread == pytest.approx(0.25 / 2**0.5)
    assert both.accuracy == pytest.approx(0.875)
    assert both.low == wilson(10, 12)[0]  # 12 gestures were seen, though twice
    assert ev.pooled([(gestures, right)], [0]).by_seed == {}


def test_export_names_where_it_comes_from(run: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.pt"
    report = tmp_path / "report.json"
    gestures = load_recordings(data)
    others = gestures.take(np.flatnonzero(np.array(gestures.subjects) == "3"))
    export_run(run, tmp_path / "other.pt")
    found = ev.evaluate(Model(tmp_path / "other.pt"), others)
    report.write_text(json.dumps({"model": "m", "split": "all"} | found.to_dict()))
    done = CliRunner().invoke(
        export_command,
        [str(run), "-o", str(file), "--scores", str(report), "--temperature", "0.5", "--json"],
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["name"] == "mine"
    assert told["training"]["command"] == "hgr train x"
    assert told["training"]["seed"] == 0
    assert told["training"]["subjects"] == ["0", "1", "2"]
    assert told["scores"]["evaluated"]["accuracy"] == pytest.approx(found.accuracy)
    assert found.accuracy > 0.8
    again, plain = Model(file), Model(tmp_path / "other.pt")
    assert told["temperature"] == 0.5
    sharper = plain.probabilities(others.joints(0)) ** (plain.bundle.metadata.temperature / 0.5)
    assert again.probabilities(others.joints(0)) == pytest.approx(sharper / sharper.sum())


def test_export_errors(run: Path, tmp_path: Path) -> None:
    folds, a_list = tmp_path / "folds", tmp_path / "a.json"
    for k in (1, 2):
        shutil.copytree(run, folds / f"fold-{k}")
    a_list.write_text("[1, 2]")
    coarse, judged = tmp_path / "coarse.json", takes(repeats=1).of_coarse()
    found = ev.report(judged, np.eye(2)[judged.labels][:, None])
    coarse.write_text(json.dumps({"model": "m", "split": "all"} | found.to_dict()))
    other, begun = shutil.copytree(run, tmp_path / "o"), shutil.copytree(run, tmp_path / "b")
    torch.save({"norm_b.weight": torch.zeros(3)}, other / "best.pt")
    (begun / "scores.json").unlink()
    cut = shutil.copytree(run, tmp_path / "c")
    (cut / "best.pt").write_bytes(b"")  # of which torch says nothing
    for arguments, fault in (
        ([str(tmp_path), "-o", str(tmp_path / "x.pt")], "not the folder of a training"),
        ([str(run), "-o", str(tmp_path / "x.pt"), "--coarse"], "have no coarse ones"),
        ([str(run), "-o", str(tmp_path / "no" / "x.pt")], "no such folder"),
        ([str(run), "-o", str(tmp_path / "x.pt"), "--int8"], "leave --int8 away"),
        ([str(other), "-o", str(tmp_path / "x.pt")], "best.pt is of another version's network"),
        ([str(begun), "-o", str(tmp_path / "x.pt")], "not a finished training; resume it first"),
        ([str(cut), "-o", str(tmp_path / "x.pt")], "best.pt: not a checkpoint (EOFError)"),
        ([str(folds), "-o", str(tmp_path / "x.pt")], "holds 2 runs; name one of them, "),
        ([str(run), "-o", str(tmp_path / "x.pt"), "--scores", str(run / "run.json")], "not a rep"),
        ([str(run), "-o", str(tmp_path / "x.pt"), "--scores", str(a_list)], "a.json: not a report"),
        ([str(run), "-o", str(tmp_path / "x.pt"), "--scores", str(coarse)], "2 classes that are"),
    ):
        done = CliRunner().invoke(export_command, arguments)
        assert done.exit_code == 1, done.output
        assert fault in done.output


@pytest.mark.parametrize(("joints", "dims"), [(21, 2), (17, 2), (7, 3)])
def test_what_is_no_hand_is_judged_but_not_exported(
    tmp_path: Path, data: Path, joints: int, dims: int
) -> None:
    folder = tmp_path / "takes"
    folder.mkdir()
    shutil.copy(data / "labels.csv", folder)
    for file in data.glob("*.npy"):
        np.save(folder / file.name, 640 * np.load(file).reshape(-1, 22, 3)[:, :joints, :dims])
    gestures = load_recordings(folder)
    run = tmp_path / "run"
    recipe = scaled(MODERN, epochs=2, batch=24)
    trained = train_isolated(gestures, recipe, run, held_out=["3"], device="cpu")
    options = ["--dataset", "recordings", "--split", "held-out", "--json"]
    done = CliRunner().invoke(evaluate_command, [str(run), "--root", str(folder), *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["gestures"] == 18
    assert told["accuracy"] == pytest.approx(trained.figures["accuracy/validation"])
    assert len(told["by_fraction"]) == len(ev.FRACTIONS)
    done = CliRunner().invoke(evaluate_command, [str(run), "--root", str(data), *options])
    assert done.exit_code == 1
    assert f": hands; the model was trained on {joints * dims} channels" in done.output
    done = CliRunner().invoke(export_command, [str(run), "-o", str(tmp_path / "m.pt")])
    assert done.exit_code == 1
    assert f"{joints * dims} channels are no hand: " in done.output
    assert "since a stream carries hands" in done.output
    assert not (tmp_path / "m.pt").exists()


def test_recordings_count_at_the_rate_of_the_training(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = tmp_path / "fast"
    shutil.copytree(run, fast)
    settings = json.loads((fast / "run.json").read_text())
    (fast / "run.json").write_text(json.dumps(settings | {"rate_hz": 60.0}))
    export_run(fast, tmp_path / "fast.pt")
    rates = []

    def load(folder: Path, labels: Path | None, rate_hz: float) -> Gestures:
        rates.append(rate_hz)
        return load_recordings(folder, labels, rate_hz)

    monkeypatch.setattr("hgr_stream.datasets.gestures.load_recordings", load)
    (tmp_path / "split.csv").write_text("3,test\n")
    options = ["--dataset", "recordings", "--root", str(data), "--split", f"{tmp_path}/split.csv"]
    for model in (run, fast, tmp_path / "fast.pt"):
        done = CliRunner().invoke(evaluate_command, [str(model), *options])
        assert done.exit_code == 0, done.output
    assert rates == [30.0, 60.0, 60.0]


def test_classes_must_be_the_models() -> None:
    gestures = takes(1)
    fine = ev.align(["wave", "push", "swipe"], gestures)
    assert [fine.classes[k] for k in fine.labels] == [gestures.classes[k] for k in gestures.labels]
    coarse = ev.align(["aside", "away"], gestures)
    assert coarse.labels.tolist() == (1 - gestures.coarse_labels).tolist()
    some = ev.align(["pinch", "wave", "swipe", "push"], gestures)
    assert [some.classes[k] for k in some.labels] == [gestures.classes[k] for k in gestures.labels]
    with pytest.raises(ModelError, match="does not know 'swipe'"):
        ev.align(["wave", "push", "pinch"], gestures)


def test_classes_that_do_not_occur_are_named() -> None:
    gestures = ev.align(["pinch", "wave", "swipe", "push"], takes(1))
    found = np.zeros((12, 1, 4))
    found[np.arange(12), 0, gestures.labels] = 1
    found[0, 0] = [2, 0, 0, 0]  # told, though nobody performed it
    told = ev.report(gestures, found)
    assert sorted(told.per_class) == ["push", "swipe", "wave"]
    assert told.accuracy == pytest.approx(11 / 12)
    assert told.notes == ["not in the data: pinch"]


def test_the_interval_of_other_people_is_wider_where_they_differ() -> None:
    gestures = takes(repeats=6)
    people = np.array(gestures.subjects)
    found = np.zeros((72, 1, 3))
    found[np.arange(72), 0, gestures.labels] = 1
    found[people == "1"] = found[people == "1"][..., [1, 2, 0]]  # of one person nothing is right
    told = ev.report(gestures, found)
    low, high = told.by_people
    assert low < told.low < told.accuracy < told.high < high
    alone = np.flatnonzero(people == "0")
    assert ev.report(gestures.take(alone), found[alone]).by_people == []


def test_no_temperature_is_fitted_to_whom_it_is_told_of() -> None:
    """Whatever one person's scores are, hers are scaled by what the others' want."""
    gestures = takes(repeats=6)
    rng = np.random.default_rng(0)
    logits = 3.0 * np.eye(3)[gestures.labels] + rng.normal(0, 1.5, (72, 3))
    logits[np.array(gestures.subjects) == "0"] *= 4  # far too sure

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    parts = [gestures.take(range(36)), gestures.take(range(36, 72))]
    scores = [softmax(logits[:36, None] / 0.5), softmax(logits[36:, None] / 2)]
    found = np.concatenate(ev.calibrated_apart(list(zip(parts, scores, strict=True)), [0.5, 2.0]))[
        :, 0
    ]
    others = np.array(gestures.subjects) != "0"
    own = calibrated(torch.from_numpy(logits[others]), torch.from_numpy(gestures.labels[others]))
    assert found[~others] == pytest.approx(softmax(logits[~others] / own))
    assert (found.argmax(1) == logits.argmax(1)).all()
    with pytest.raises(DatasetError, match="one person alone"):
        ev.calibrated_apart([(parts[0].take(range(18)), scores[0][:18])], [1.0])


def test_what_was_chosen_on_the_held_out_is_told(data: Path, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=1, patience=1)
    train_isolated(load_recordings(data), recipe, tmp_path / "r", held_out=["2", "3"], device="cpu")
    options = ["--dataset", "recordings", "--root", str(data), "--split", "held-out"]
    done = CliRunner().invoke(evaluate_command, [str(tmp_path / "r"), *options])
    assert done.exit_code == 0, done.output
    assert "--patience chose the epoch on these people" in done.output
    assert "each person's temperature was fitted to the other" in done.output
    assert "95 % interval of other people, 2" in done.output


def test_overlap_is_by_data_set() -> None:
    gestures = takes(1)
    ev.refuse_overlap({"data": "elsewhere", "subjects": ["0"]}, gestures)
    ev.refuse_overlap({"data": "made-up", "subjects": ["7"]}, gestures)
    with pytest.raises(OverlapError, match=r"trained on 1 of the 4 subjects .*\(2\)"):
        ev.refuse_overlap({"data": "made-up", "subjects": ["2", "9"]}, gestures)
    with pytest.raises(OverlapError, match="does not tell on whom"):
        ev.refuse_overlap({"data": "made-up"}, gestures)


def test_dhg_is_judged_whole(tmp_path: Path) -> None:
    """It has no official lists, and its people 1 and 2 are not those who were trained on."""
    done = CliRunner().invoke(evaluate_command, ["--root", str(dhg(tmp_path))])
    assert done.exit_code == 0, done.output
    assert "of 3 gestures" in done.output


@pytest.mark.parametrize("name", ["shrec17-14", "shrec17-28"])
def test_shipped_models(name: str) -> None:
    model = Model(name)
    metadata = model.bundle.metadata
    assert len(metadata.labels) == int(name[-2:])
    assert model.bundle.path.stat().st_size < 2_000_000
    assert len(metadata.training["subjects"]) == 20
    assert metadata.training["command"].startswith("hgr train --dataset shrec17")
    assert 0.9 < metadata.scores["evaluated"]["accuracy"] < 1
    assert msgspec.json.encode(metadata)
    hand = takes(1).joints(0)
    assert model.probabilities(hand).sum() == pytest.approx(1)
