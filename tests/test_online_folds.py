"""Cross-validation of models for streams: who is left out, and who judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hgr_stream.cli.train_online import train
from hgr_stream.datasets.base import HandSequence
from hgr_stream.recognition import bundle
from hgr_stream.training import online_folds
from hgr_stream.training.online_folds import folds_of
from hgr_stream.training.streams import Mark, Stream
from tests.test_training import write_shrec21

FOLDS = 3


def stream(name: str, group: str = "", marks: tuple[Mark, ...] = ()) -> Stream:
    return Stream(name, np.zeros((2, 22, 3), np.float32), np.array([0.0, 9.0]), marks, group)


def test_folds_leave_whole_people_out() -> None:
    one = (Mark(1, 1.0, 2.0),)
    people = [stream(f"{p}.{i}", p, one) for p in "ABCDE" for i in range(2)]
    folds = folds_of(people, FOLDS, 0)
    assert sorted(len(fold) for fold in folds) == [2, 4, 4]
    assert sorted(s.name for fold in folds for s in fold) == sorted(s.name for s in people)
    groups = [{s.group for s in fold} for fold in folds]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5
    assert folds_of(people[:4], FOLDS, 0) == []
    alone = folds_of([stream(name, marks=one) for name in "abc"], FOLDS, 0)
    assert [len(fold) for fold in alone] == [1, 1, 1]
    # Each of them is trained on with gestures, and judged by some.
    mixed_in = folds_of(
        [stream(name, marks=one if name in "afh" else ()) for name in "abcdefgh"], FOLDS, 0
    )
    assert all(any(s.marks for s in fold) for fold in mixed_in)
    assert sum(map(len, mixed_in)) == 8
    assert (
        folds_of([stream(name, marks=one if name in "af" else ()) for name in "abcdefgh"], FOLDS, 0)
        == []
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shrec21(tmp_path_factory.mktemp("folds") / "data", 6, 16.0)


def invoke(root: Path, out: Path, *more: str) -> tuple[int, str, str]:
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(out), *more]
    result = CliRunner().invoke(train, [*args, "--threads", "1"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_judges_by_models_that_have_not_seen_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[set[str]] = []
    judged: list[set[str]] = []
    trained, add = online_folds.train_online, online_folds.Judged.add

    def train_and_note(sequences: list[HandSequence], *a: Any, **k: Any) -> Any:
        learnt.append({q.name for q in sequences})
        return trained(sequences, *a, **k)

    def judge_and_note(self: Any, model: Any, *a: Any) -> None:
        judged.append({s.name for s in a[2]})
        add(self, model, *a)

    monkeypatch.setattr(online_folds, "train_online", train_and_note)
    monkeypatch.setattr(online_folds.Judged, "add", judge_and_note)
    out = tmp_path / "mine.pt"
    options = ("--folds", "2", "--minutes", "0.1", "--all", "--margin", "0.04", "--json")
    code, told, noted = invoke(root, out, *options)
    assert code == 0, noted
    everyone = learnt[0] | judged[0]
    assert len(everyone) == 6
    assert judged[0] | judged[1] == everyone
    for seen, asked in zip(learnt, judged, strict=True):
        assert (seen & asked, seen | asked) == (set(), everyone)
    assert "network (all) 2/2" in noted
    m = bundle.read_metadata(out)
    assert m.scores == json.loads(told)["scores"]
    assert m.decoder.margin_s == 0.04
    for name in ("left_out", "left_out_early"):
        found = m.scores[name]
        low, high = found["intervals"]["f1"]
        assert low <= found["f1"] <= high
    assert "left_out: of 2 models made like it" in m.scores["of"]
    assert m.scores["held_out"] != m.scores["left_out"]


def test_more_folds_than_recordings(root: Path, tmp_path: Path) -> None:
    code, _, noted = invoke(root, tmp_path / "mine.pt", "--folds", "7")
    assert code == 1
    assert "too few recordings, or people, with gestures for 7 folds" in noted
    assert not (tmp_path / "mine.pt").exists()
