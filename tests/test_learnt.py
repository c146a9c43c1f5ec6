"""What a model has learnt from is known again: it is not judged on it, nor learns it elsewhere."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_isolated import QUICK, takes, write_takes

from hgr_stream.cli.evaluate import evaluate as evaluate_command
from hgr_stream.cli.model import model_show
from hgr_stream.cli.train_isolated import load_others, train_isolated_command
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.gestures import Gestures, load_recordings, load_shrec17
from hgr_stream.datasets.takes import among, copies, fingerprints, packed, unpacked
from hgr_stream.recognition import bundle
from hgr_stream.recognition.bundle import ModelError
from hgr_stream.training.evaluate import OverlapError, refuse_overlap
from hgr_stream.training.isolated import Outcome, train_isolated
from hgr_stream.training.isolated_folds import train_folds
from hgr_stream.training.isolated_recipe import MODERN, TrainingError, scaled
from hgr_stream.training.learnt import Learnt, new_to, unlearnt
from hgr_stream.training.material import recording_of
from hgr_stream.training.runs import LAST, RUN, SCORES, export_run, read_run
from hgr_stream.training.splice import SpliceRule, splice

BRIEF = scaled(QUICK, epochs=1)


@pytest.fixture(scope="module")
def gestures() -> Gestures:
    return takes()


@pytest.fixture(scope="module")
def data(gestures: Gestures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x") / "takes"
    folder.mkdir()
    write_takes(folder, gestures, "npy")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "one"
    return train_isolated(load_recordings(data), BRIEF, folder, held_out=["3"], device="cpu")


def other_takes() -> Gestures:
    """Other recordings of subjects of the same names."""
    found = takes()
    shift = np.random.default_rng(5).normal(0, 0.05, (len(found), 66)).astype(np.float32)
    return replace(found, sequences=[s + d for s, d in zip(found.sequences, shift, strict=True)])


# ---- fingerprints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        lambda s: np.round(s.astype(np.float64), 4),
        lambda s: s.astype(np.float16),
        lambda s: s.astype(np.float64),
    ],
)
def test_a_take_is_known_rounded_and_nothing_else_is(gestures: Gestures, written) -> None:
    copies = replace(
        gestures, sequences=[written(s).astype(np.float32) for s in gestures.sequences]
    )
    known = unpacked(packed(fingerprints(gestures.take(range(40)))))
    assert among(fingerprints(copies), known).tolist() == [i < 40 for i in range(72)]
    assert not among(fingerprints(other_takes()), known).any()


def test_shrec17_is_known_with_and_without_its_shear(shared_data: Path, tmp_path: Path) -> None:
    """By the shipped models as well."""
    import tarfile

    with tarfile.open(shared_data / "shrec17_train.tar.xz") as archive:
        members = (m for m in archive if m.name.endswith("skeletons_world.txt"))
        for _, member in zip(range(12), members, strict=False):
            archive.extract(member, tmp_path, filter="data")
    known = load_shrec17(tmp_path)
    folder = tmp_path / "copies"
    folder.mkdir()
    lines = []
    for i, path in enumerate(sorted(tmp_path.rglob("skeletons_world.txt"))):
        np.save(folder / f"{i}.npy", np.loadtxt(path))
        lines.append(f"{i}.npy,a")
    (folder / "labels.csv").write_text("\n".join(lines))
    copies = load_recordings(folder)
    prints = fingerprints(known)
    assert among(fingerprints(copies), prints).all()
    for i in range(len(prints)):
        assert not among(prints[i : i + 1], np.delete(prints, i, 0)).any()
    for name in ("shrec17-14", "shrec17-28"):
        with pytest.raises(OverlapError, match="trained on 12 of the 12 gestures"):
            refuse_overlap(bundle.read_metadata(name).training, copies)


def test_flat_hands_and_other_channels_are_told_apart(gestures: Gestures) -> None:
    depth = np.tile(np.float32([1, 1, 0]), 22)
    flat = replace(gestures, sequences=[s * depth for s in gestures.sequences])
    pixels = [640 * s[:, [0, 1, 3, 4, 30, 31]] for s in gestures.sequences]
    for some in (flat, replace(gestures, sequences=pixels, canonical=False)):
        prints = fingerprints(some)
        for i in range(len(prints)):
            assert not among(prints[i : i + 1], np.delete(prints, i, 0)).any()


def test_they_are_small_and_a_broken_one_is_named(gestures: Gestures) -> None:
    text = packed(np.concatenate([fingerprints(gestures), fingerprints(gestures)]))
    assert len(text) == 16 * len(gestures)
    told = Learnt.from_gestures(gestures).metadata()
    assert Learnt.from_metadata({"learnt": told}).count == len(gestures)
    (set_,) = told["takes"]
    for broken in ("AAAA", "not base64 at all", 7):
        with pytest.raises(ModelError, match="cannot be read"):
            Learnt.from_metadata({"learnt": {"takes": [set_ | {"prints": broken}]}})
    with pytest.raises(ModelError, match="cannot be read"):
        Learnt.from_metadata({"learnt": told | {"streams": []}})


def twice(gestures: Gestures, who: str) -> Gestures:
    """Subject 3's takes once more, rounded, as somebody else's."""
    again = gestures.take([i for i, s in enumerate(gestures.subjects) if s == "3"])
    return replace(
        gestures,
        sequences=gestures.sequences + [np.round(s, 4) for s in again.sequences],
        labels=np.concatenate([gestures.labels, again.labels]),
        subjects=gestures.subjects + [who] * len(again),
        names=gestures.names + [f"copy of {name}" for name in again.names],
    )


def test_copies_are_found(gestures: Gestures) -> None:
    assert not copies(gestures)
    assert copies(twice(gestures, "4")) == [(72 + i, 54 + i) for i in range(18)]
    still = replace(gestures, sequences=[0 * s[:9] for s in gestures.sequences])
    assert copies(still) == [(i, 0) for i in range(1, 72)]
    assert not copies(gestures.take([]))


def test_a_take_under_two_names_is_not_learnt_and_judged(
    gestures: Gestures, tmp_path: Path
) -> None:
    both = twice(gestures, "4")
    told = r"copy of take54 \(4\) and take54 \(3\) are the same take"
    for held in ("3", "4"):
        with pytest.raises(DatasetError, match=told):
            train_isolated(both, BRIEF, tmp_path / "r", held_out=[held], device="cpu")
    with pytest.raises(DatasetError, match=told):
        next(train_folds(both, BRIEF, tmp_path / "r", 5, device="cpu"))
    assert not (tmp_path / "r").exists()
    run = train_isolated(both, BRIEF, tmp_path / "r", held_out=["3", "4"], device="cpu")
    line = "18 of the gestures are copies, the first being copy of take54 of take54"
    assert run.notes == [f"{line}: they count twice"]


def test_who_is_not_named_is_told_where_people_are_held_out(
    gestures: Gestures, tmp_path: Path
) -> None:
    some = replace(gestures, subjects=["" if s == "0" else s for s in gestures.subjects])
    run = train_isolated(some, BRIEF, tmp_path / "a", held_out=["3"], device="cpu")
    assert run.notes == ["18 gestures name no subject: learnt, even if of who is held out"]
    assert not train_isolated(some, BRIEF, tmp_path / "b", device="cpu").notes


def test_copies_that_are_judged_are_told(gestures: Gestures, run: Outcome, tmp_path: Path) -> None:
    part = twice(gestures, "3").take(range(54, 90))
    write_takes(tmp_path, part, "npy")
    done = judge(run, tmp_path)
    assert done.exit_code == 0, done.output
    assert "note: 18 of the gestures are copies" in done.output


# ---- evaluating ---------------------------------------------------------------------------------


def judge(run: Outcome, root: Path, *more: str):
    options = ["--dataset", "recordings", "--root", str(root), *more]
    return CliRunner().invoke(evaluate_command, [str(run.folder), *options])


@pytest.mark.parametrize("how", ["copied", "linked", "unnamed", "swapped", "csv"])
def test_takes_are_known_whatever_they_are_called(
    run: Outcome, gestures: Gestures, data: Path, tmp_path: Path, how: str
) -> None:
    root = tmp_path / "new_takes"
    if how == "linked":
        root.symlink_to(data)
    elif how == "csv":
        root.mkdir()
        write_takes(root, gestures.take(range(20)), "csv")
    else:
        shutil.copytree(data, root)
    table = root / "labels.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()]
    if how == "unnamed":
        table.write_text("\n".join(",".join(r[:2]) for r in rows))
    if how == "swapped":
        names = {"0": "3", "3": "0"}
        table.write_text("\n".join(",".join([*r[:2], names.get(r[2], r[2])]) for r in rows))
        assert "refused" in judge(run, root, "--split", "held-out").output
    done = judge(run, root)
    assert done.exit_code == 1
    assert "refused: trained on " in done.output


def test_other_people_of_the_same_names_are_judged(run: Outcome, tmp_path: Path) -> None:
    root = tmp_path / "takes"
    root.mkdir()
    write_takes(root, other_takes(), "npy")
    done = judge(run, root)
    assert done.exit_code == 0, done.output
    assert "called as they: 0, 1, 2" in " ".join(done.output.split())


def test_new_takes_of_whom_it_has_learnt_are_refused(gestures: Gestures) -> None:
    """A person is not held out by another take: in one folder a name is one person."""
    learnt = Learnt.from_gestures(replace(gestures, data="made-up").take(range(36)))
    training = {"learnt": learnt.metadata()}
    others = other_takes()
    both = replace(
        gestures,
        data="elsewhere",
        sequences=gestures.sequences + others.sequences,
        labels=np.concatenate([gestures.labels, others.labels]),
        subjects=gestures.subjects * 2,
        names=[f"{i}" for i in range(144)],
    )
    refuse_overlap(training, both.take(range(36, 72)), both)
    refuse_overlap(training, both.take(range(108, 144)), both)
    with pytest.raises(OverlapError, match="trained on 1 of the 3 subjects"):
        refuse_overlap(training, both.take([*range(90, 144)]), both)
    official = Learnt.from_gestures(replace(gestures, data="shrec17").take(range(36)))
    with pytest.raises(OverlapError, match="trained on 2 of the 4 subjects"):
        refuse_overlap({"learnt": official.metadata()}, replace(others, data="shrec17"))
    refuse_overlap(training, replace(others, data="made-up"))


def test_the_model_file_tells_how_many(run: Outcome, gestures: Gestures, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    export_run(run.folder, path)
    with pytest.raises(OverlapError, match="trained on 54 of the 72 gestures"):
        refuse_overlap(bundle.read_metadata(path).training, gestures)
    shown = CliRunner().invoke(model_show, [str(path)])
    assert "54 takes, which it is not judged on" in shown.output


# ---- learning beside and from teachers ----------------------------------------------------------


def test_the_held_out_are_not_learnt_beside(gestures: Gestures, tmp_path: Path) -> None:
    copy = replace(gestures, data="copy", subjects=[""] * 72).of_coarse()
    recipe = scaled(BRIEF, beside=6)
    run = train_isolated(
        gestures, recipe, tmp_path / "r", held_out=["1"], device="cpu", also=[copy]
    )
    assert run.notes == ["copy: 18 gestures of the held-out are not learnt beside"]
    assert Learnt.from_metadata(read_run(run.folder)).count == 54
    new = replace(other_takes(), data="copy").of_coarse()
    run = train_isolated(gestures, recipe, tmp_path / "n", held_out=["1"], device="cpu", also=[new])
    assert run.notes == ["copy: 1 learnt beside, though called as those held out are"]
    official, others = replace(gestures, data="shrec17"), replace(other_takes(), data="shrec17")
    held = Learnt.from_gestures(official.take(range(18, 36)))
    takes, people = held.of_gestures(others)
    assert not takes.any()
    assert people.tolist() == [18 <= i < 36 for i in range(72)]
    assert not np.any(held.of_gestures(replace(others, data="dhg")))  # other people
    held = Learnt.from_gestures(replace(gestures, data="dhg").take(range(18, 36)))
    assert held.of_gestures(replace(others, data="dhg"))[1].sum() == 18
    held = Learnt.from_gestures(replace(gestures, data="takes").take(range(18, 36)))
    assert not np.any(held.of_gestures(other_takes()))


def test_people_of_several_sets_are_not_mistaken_for_each_other(gestures: Gestures) -> None:
    """Person 3 of SHREC'17 was learnt beside two others that are called 0 and 1."""
    official = replace(other_takes(), data="shrec17")
    beside = official.take([i for i, s in enumerate(official.subjects) if s == "3"][::2])
    learnt = Learnt.from_gestures(gestures.take(range(36)), beside)
    given = official.take(range(1, 72, 2))
    takes, people = Learnt.from_metadata({"learnt": learnt.metadata()}).of_gestures(given, official)
    assert not takes.any()
    assert set(np.array(given.subjects)[people]) == {"3"}


def test_streams_spliced_of_what_was_learnt_are_known(gestures: Gestures, tmp_path: Path) -> None:
    people = splice(gestures, SpliceRule(rounds=1))
    streams = [recording_of(q, tmp_path, "takes") for q in splice(gestures, seed=1)]

    def kept(learnt: Learnt) -> set[str]:
        return {r.name[0] for r in unlearnt({"learnt": learnt.metadata()}, streams)}

    assert kept(Learnt.from_sequences(q for q in people if q.subject in "02")) == set("13")
    assert kept(Learnt.from_gestures(gestures.take([0]))) == set("123")
    assert kept(Learnt.from_gestures(other_takes())) == set("0123")
    with pytest.raises(DatasetError, match="trained on all"):
        kept(Learnt.from_gestures(gestures))
    # More of whom it knows may be learnt, though it does not judge.
    few = Learnt.from_sequences([people[0]])
    new = [q for q in people if q.subject == "0"][1:]
    assert few.of_sequences(people).sum() == len(new) + 1
    assert len(new_to({"learnt": few.metadata()}, people)) == len(people) - 1


def test_the_test_list_is_not_learnt_beside(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, subject in (("train", 1), ("test", 2)):
        lines = []
        for g in range(1, 15):
            folder = tmp_path / f"gesture_{g}/finger_1/subject_{subject}/essai_1"
            folder.mkdir(parents=True)
            np.savetxt(folder / "skeletons_world.txt", rng.normal(0, 0.1, (9, 66)))
            lines.append(f"{g} 1 {subject} 1 {g} {2 * g - 1} 9")
        (tmp_path / f"{split}_gestures.txt").write_text("\n".join(lines))
    (found,) = load_others((f"shrec17={tmp_path}",), 30.0)
    assert set(found.subjects) == {"1"}


def test_a_teacher_that_knows_the_held_out_by_another_name(
    gestures: Gestures, tmp_path: Path
) -> None:
    renamed = replace(gestures, data="copy", subjects=[f"p{s}" for s in gestures.subjects])
    teacher = train_isolated(renamed, BRIEF, tmp_path / "t", held_out=["p3"], device="cpu")
    taught = scaled(BRIEF, teachers=(str(teacher.folder),))
    with pytest.raises(TrainingError, match="this teacher was trained on the held-out '1'"):
        train_isolated(gestures, taught, tmp_path / "s", held_out=["1"], device="cpu")
    narrow = replace(gestures, sequences=[s[:, :9] for s in gestures.sequences], canonical=False)
    settings = (teacher.folder / RUN).read_text()
    (teacher.folder / RUN).write_text(json.dumps(json.loads(settings) | {"canonical": False}))
    with pytest.raises(TrainingError, match="teacher of other classes or channels"):
        train_isolated(narrow, scaled(MODERN, teachers=taught.teachers), tmp_path / "s")
    (teacher.folder / RUN).write_text(settings)
    few = gestures.take([i for i, s in enumerate(gestures.subjects) if s != "0"])
    student = train_isolated(few, taught, tmp_path / "s", held_out=["3"], device="cpu")
    learnt = Learnt.from_metadata(read_run(student.folder))
    assert learnt.count == 54  # what the teacher has seen came to the student, too


def test_all_have_one_rate(gestures: Gestures, run: Outcome, tmp_path: Path) -> None:
    fast = replace(gestures, rate_hz=60.0)
    with pytest.raises(DatasetError, match="copy: 30 frames a second, where made-up has 60"):
        train_isolated(fast, BRIEF, tmp_path / "r", also=[replace(gestures, data="copy")])
    taught = scaled(BRIEF, teachers=(str(run.folder),))
    slow = replace(gestures.take(range(54)), classes=sorted(gestures.classes), rate_hz=20.0)
    with pytest.raises(TrainingError, match="a teacher of 30 frames a second"):
        train_isolated(slow, taught, tmp_path / "r", device="cpu")


# ---- going on -----------------------------------------------------------------------------------


def test_a_run_that_has_ended_stays_as_it_is(gestures: Gestures, tmp_path: Path) -> None:
    recipe = scaled(QUICK, epochs=30, rate=0.0, patience=2)
    run = train_isolated(gestures, recipe, tmp_path / "r", held_out=["0"], device="cpu")
    before = {p.name: p.read_bytes() for p in run.folder.iterdir()}
    for _ in range(2):
        again = train_isolated(
            gestures, recipe, run.folder, held_out=["0"], device="cpu", resume=True
        )
        assert again.epochs == run.epochs
        assert again.notes == [f"{run.folder}: was finished already; nothing was done"]
    assert {p.name: p.read_bytes() for p in run.folder.iterdir()} == before
    (run.folder / SCORES).unlink()  # stopped between its last epoch and its end
    last = train_isolated(gestures, recipe, run.folder, held_out=["0"], device="cpu", resume=True)
    assert not last.notes
    assert (run.folder / SCORES).read_bytes() == before[SCORES]


def test_what_a_full_disk_cut_is_not_taken_for_whole(
    gestures: Gestures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        if (path.parent / LAST).exists():  # what is written last are the scores
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    write = Path.write_bytes
    wanted = {"recipe": BRIEF, "out": tmp_path / "r", "held_out": ["0"], "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(TrainingError, match=r"scores.json: cannot be written: No space left"):
            train_isolated(gestures, **wanted)
    assert not list(tmp_path.rglob("*.part"))
    assert not train_isolated(gestures, **wanted, resume=True).notes
    assert (tmp_path / "r" / SCORES).stat().st_size


def test_resume_wants_the_same_labels(gestures: Gestures, run: Outcome, data: Path) -> None:
    loaded = load_recordings(data)
    exchanged = replace(loaded, labels=np.array([1, 0, 2])[loaded.labels])
    with pytest.raises(TrainingError, match="other gestures, labels or subjects"):
        train_isolated(exchanged, BRIEF, run.folder, held_out=["3"], device="cpu", resume=True)
    moved = replace(loaded, data="moved")
    train_isolated(moved, BRIEF, run.folder, held_out=["3"], device="cpu", resume=True)


def test_the_command_goes_on_with_what_it_was_told(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    told = ["--dataset", "recordings", "--root", str(data), "--epochs", "1", "--augment", "0.5"]
    told += ["--held-out-subjects", "2,3", "--device", "cpu"]
    first = CliRunner().invoke(train_isolated_command, [*told, "--out", str(out)])
    assert first.exit_code == 0, first.output
    before = (out / RUN).read_text()
    again = CliRunner().invoke(train_isolated_command, ["--resume", str(out)])
    assert again.exit_code == 0, again.output
    assert "was finished already; nothing was done" in again.output
    assert "1 epochs" in again.output
    assert (out / RUN).read_text() == before
    for option, value, fault in (
        ("--epochs", "6", "told --epochs 1"),
        ("--seed", "7", "not told --seed"),
        ("--augment", "1", "told --augment 0.5"),
        ("--held-out-subjects", "2", "told --held-out-subjects 2,3"),
    ):
        other = CliRunner().invoke(train_isolated_command, ["--resume", str(out), option, value])
        assert other.exit_code == 2, other.output
        assert fault in other.output


def test_a_split_file_says_who_is_learnt(data: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.csv"
    split.write_text("what,part\n0,train\n2,train\n3,test\n")
    told = ["--dataset", "recordings", "--root", str(data), "--epochs", "1", "--device", "cpu"]
    told += ["--out", str(tmp_path / "r"), "--split", str(split)]
    done = CliRunner().invoke(train_isolated_command, told)
    assert done.exit_code == 0, done.output
    settings = read_run(tmp_path / "r")
    assert (settings["subjects"], settings["held_out"]) == (["0", "2"], ["3"])
    assert settings["gestures"] == 54
    split.write_text("0,train\n1,train\ntake60.npy,train\ntake70.npy,test\n")
    done = CliRunner().invoke(train_isolated_command, told)
    assert done.exit_code == 1
    assert "subject '3' is in both parts" in done.output
    rows = (data / "labels.csv").read_text().splitlines()
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(row.rpartition(",")[0] for row in rows))
    split.write_text("take60.npy,train\ntake70.npy,test\n")
    done = CliRunner().invoke(train_isolated_command, [*told, "--labels", str(bare)])
    assert done.exit_code == 1
    assert "name no subject are in both parts; name the subjects" in done.output


def test_stopped_before_there_is_anything_to_go_on_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    told = ["--dataset", "recordings", "--root", str(data), "--epochs", "3", "--device", "cpu"]
    monkeypatch.setattr("hgr_stream.training.isolated._Loop._epoch", stop)
    done = CliRunner().invoke(train_isolated_command, [*told, "--out", str(tmp_path / "r")])
    assert done.exit_code == 1
    assert "begin anew" in done.output
    monkeypatch.undo()
    begun = CliRunner().invoke(train_isolated_command, [*told, "--out", str(tmp_path / "r")])
    assert begun.exit_code == 0, begun.output


def test_every_subject_left_out_once_and_told_which(data: Path, tmp_path: Path) -> None:
    told = ["--dataset", "recordings", "--root", str(data), "--epochs", "1", "--device", "cpu"]
    told += ["--out", str(tmp_path / "r"), "--folds", "all", "--seeds", "2"]
    done = CliRunner().invoke(train_isolated_command, told)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert sorted(r["held_out"][0] for r in report["runs"]) == sorted("00112233")
    assert "fold 3/4, seed 1/2, epoch 1/1" in done.output
    assert "fold 4/4, seed 2/2, epoch 1/1" in done.output
    for wrong in ("1", "some"):
        done = CliRunner().invoke(train_isolated_command, [*told, "--folds", wrong])
        assert done.exit_code == 2
        assert "neither all nor a number of 2 or more" in done.output


def test_the_bar_runs_by_the_clock_where_that_ends_it(gestures: Gestures, tmp_path: Path) -> None:
    shares: list[float] = []
    recipe = scaled(QUICK, epochs=10_000, minutes=0.01)
    train_isolated(
        gestures,
        recipe,
        tmp_path / "r",
        device="cpu",
        watch=lambda _, __, f: shares.append(f["share"]),
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
