"""A trained model brought to another sensor: unfolded, trained on, judged on what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hgr_stream.cli import cli
from hgr_stream.cli.train_online import train
from hgr_stream.datasets.convert import open_recordings
from hgr_stream.recognition import bundle
from hgr_stream.recognition.bundle import ModelError
from hgr_stream.recognition.causal import CausalNet, export
from hgr_stream.recognition.options import ClassOptions, DecoderOptions
from hgr_stream.recognition.segments import SegmentDater, SegmentVerifier
from hgr_stream.recognition.unfold import unfolded
from hgr_stream.training.adapt import adapt, gentle, mixed, widened
from hgr_stream.training.draw import ChunkRule
from hgr_stream.training.learnt import Learnt, unlearnt
from hgr_stream.training.online import Schedule, train_network
from hgr_stream.training.streams import Mark, labels_of, to_streams
from tests.models import save_palm_model
from tests.test_online_folds import stream
from tests.test_training import sequence, write_shrec21


def hands(frames: int = 60) -> torch.Tensor:
    return 0.02 * torch.randn(2, frames, 22, 3, generator=torch.Generator().manual_seed(1)).cumsum(
        1
    )


# --- unfolding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["leap", "hololens", "any"])
def test_what_was_folded_computes_the_same_again(name: str) -> None:
    file = bundle.load(name)
    found = unfolded(file)
    again = export(found.net, found.verifier, found.dater)
    joints = hands()
    state = file.module.initial_state(2)
    for a, b in zip(again(joints, state), file.module(joints, state), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again.verify(joints), file.module.verify(joints))
    torch.testing.assert_close(again.refine(joints), file.module.refine(joints))


def test_what_was_unfolded_keeps_its_statistics_and_learns() -> None:
    net = unfolded(bundle.load("leap")).net
    own = [sequence(str(i), i, 12.0) for i in range(2)]
    streams = to_streams(own, labels_of(own))
    few = Schedule(steps=3, batch=4, frames=64)
    after, steps = train_network(streams, net.classes, ChunkRule(25.0, 64, 0.24), few, 0, start=net)
    assert steps == 3
    before_weights, after_weights = net.state_dict(), after.state_dict()
    changed = {k for k, w in after_weights.items() if not torch.equal(w, before_weights[k])}
    assert {"stem.weight", "convs.0.weight", "norms.0.bias", "head.weight"} <= changed
    assert not {k for k in changed if "running" in k}


def test_only_what_was_made_here_can_be_unfolded(tmp_path: Path) -> None:
    for other in ("shrec17-14", str(save_palm_model(tmp_path / "palm.pt"))):
        with pytest.raises(ModelError, match="cannot be trained on"):
            unfolded(bundle.load(other))
    strange = CausalNet(17, dilations=(1, 1, 2, 4, 4, 16))  # its weights do not tell them
    metadata = bundle.read_metadata("leap")
    module = export(strange, SegmentVerifier(17, 25.0), SegmentDater(25.0))
    bundle.save(module, metadata, tmp_path / "strange.pt")
    with pytest.raises(ModelError, match="built otherwise"):
        unfolded(bundle.load(tmp_path / "strange.pt"))


# --- the parts of the recipe --------------------------------------------------------------------


def test_a_mixture_lies_between() -> None:
    torch.manual_seed(0)
    a, b = SegmentDater(25.0), SegmentDater(25.0)
    for share in (0.0, 0.25, 1.0):
        for x, y, z in zip(
            a.parameters(), b.parameters(), mixed(a, b, share).parameters(), strict=True
        ):
            torch.testing.assert_close(z, x + share * (y - x))


def test_limits_of_duration_only_widen() -> None:
    options = DecoderOptions(
        per_class={"A": ClassOptions(min_duration_s=0.3, max_duration_s=2.0, accept=0.5)}
    )
    marks = (Mark(1, 1.0, 1.2), Mark(2, 2.0, 7.0))
    found = widened(options, [stream("s", marks=marks)], ["A", "B", "C"])
    assert found.of("A", "min_duration_s") == pytest.approx(0.12)  # 0.6 of the shortest
    assert found.of("A", "max_duration_s") == 2.0
    assert found.of("A", "accept") == 0.5
    assert found.of("B", "min_duration_s") == options.min_duration_s
    assert found.of("B", "max_duration_s") > 7.0
    assert found.of("C", "max_duration_s") == options.max_duration_s


def test_it_is_trained_for_what_the_model_tells() -> None:
    metadata = bundle.read_metadata("leap")
    recipe = gentle(metadata, "mine")
    assert recipe.boundary_delay_s == metadata.decoder.boundary_delay_s > 0
    assert recipe.release_s == metadata.decoder.release_s > 0
    assert recipe.rate_hz == metadata.rate_hz


def test_brought_to_flat_hands_it_does_without_depth() -> None:
    own = [sequence(str(i), i, 12.0) for i in range(2)]
    for q in own:
        q.lacks = ("depth",)
    one, base = Schedule(steps=1, batch=4), bundle.load("leap")
    recipe = replace(gentle(base.metadata, "flat"), network=one, verifier=one, dater=one)
    assert base.metadata.needs == ["depth", "fingers"]
    assert adapt(base, own, recipe).metadata.needs == ["fingers"]


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight recordings."""
    folder = tmp_path_factory.mktemp("base")
    root = write_shrec21(folder / "data", 8, 16.0)
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(folder / "base.pt")]
    args += ["--minutes", "0.2", "--threads", "1", "--all"]
    assert CliRunner().invoke(train, args, catch_exceptions=False).exit_code == 0
    return folder / "base.pt"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other recordings, of a sensor whose hands are half as large again."""
    root = write_shrec21(tmp_path_factory.mktemp("place") / "data", 12, 16.0)
    arrays = dict(np.load(root / "positions.npz"))
    kept = {f"seq_{i:03d}": 1.5 * arrays[f"seq_{i + 8:03d}"] for i in range(1, 5)}
    np.savez(root / "positions.npz", **kept)
    annotations = root / "annotations_revised_training.txt"
    lines = annotations.read_text().splitlines()[8:]
    moved = [f"{i};{line.partition(';')[2]}" for i, line in enumerate(lines, 1)]
    annotations.write_text("\n".join(moved) + "\n")
    return root


def invoke(base: Path | str, root: Path, out: Path, *more: str) -> tuple[int, str, str]:
    args = ["--online", "--dataset", "shrec21", "--root", str(root), "-o", str(out)]
    args += ["--from", str(base), "--threads", "1", *more]
    result = CliRunner().invoke(train, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_brings_a_model_to_another_sensor(
    base: Path, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.pt"
    code, told, noted = invoke(base, place, out, "--minutes", "0.5", "--json")
    assert code == 0, noted
    before, m = bundle.read_metadata(base), bundle.read_metadata(out)
    assert (m.name, m.labels, m.rate_hz) == ("mine", before.labels, before.rate_hz)
    assert m.training["from"]["name"] == "base"
    assert m.training["data"] == "shrec21, 4 sequences"
    learnt = Learnt.from_metadata(m.training)
    assert Learnt.from_metadata(before.training).recordings < learnt.recordings
    assert len(learnt.recordings) == 12
    assert "learnt" not in m.training["from"]
    assert m.scores == json.loads(told)["scores"]
    assert m.scores["left_out"]["f1"] >= m.scores["before"]["f1"] - 0.05
    assert m.scores["left_out"]["f1"] > 0.4  # half a minute is little on a busy machine
    assert "verifier 2/3" in noted
    assert "network (all)" in noted
    # Neither what it was trained on now nor what it was before may judge it.
    for known in (place, base.parent / "data"):
        with pytest.raises(ValueError, match="trained on all of these"):
            unlearnt(m.training, list(open_recordings([known], "shrec21")))
    shown = CliRunner().invoke(cli, ["model", "show", str(out)]).output
    assert "before that" in shown
    assert "base: hgr " in " ".join(shown.split())
    # It can be trained on again, by others.
    assert unfolded(bundle.load(out)).net.classes == 2
    code, _, noted = invoke(out, place, tmp_path / "again.pt")
    assert (code, (tmp_path / "again.pt").exists()) == (1, False)
    assert "trained on all of these recordings already" in noted


def test_gestures_that_it_does_not_know_are_told(base: Path, place: Path, tmp_path: Path) -> None:
    other = ["--same", "OPEN=HELLO", "--minutes", "0.1"]
    code, _, noted = invoke(base, place, tmp_path / "mine.pt", *other)
    assert code == 0, noted
    assert "no gestures of base, learnt as none of them: HELLO" in noted
    assert bundle.read_metadata(tmp_path / "mine.pt").labels == ["LEFT", "OPEN"]
    other += ["--same", "LEFT=BYE"]
    code, _, noted = invoke(base, place, tmp_path / "none.pt", *other)
    assert (code, (tmp_path / "none.pt").exists()) == (1, False)
    assert "no gesture that base knows" in noted


def test_too_few_recordings_to_leave_some_out(base: Path, place: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(place / "positions.npz"))
    root = tmp_path / "two"
    root.mkdir()
    np.savez(root / "positions.npz", **{k: arrays[k] for k in ("seq_001", "seq_002")})
    lines = (place / "annotations_revised_training.txt").read_text().splitlines()[:2]
    (root / "annotations_revised_training.txt").write_text("\n".join(lines) + "\n")
    code, _, noted = invoke(base, root, tmp_path / "mine.pt", "--minutes", "0.1")
    assert code == 0, noted
    scores = bundle.read_metadata(tmp_path / "mine.pt").scores
    assert scores == {"of": "nothing: too few recordings to leave some out"}


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["--epochs", "3"], 2, "--epochs cannot be used with --from"),
        (["--all"], 2, "--all cannot be used with --from"),
        (["--margin", "0.1"], 2, "--margin cannot be used with --from"),
        (["--held-out", "0.2"], 2, "--held-out cannot be used with --from"),
        (["--from", "nowhere.pt"], 1, "nowhere.pt: no such model file"),
        (["--from", "shrec17-28"], 1, "Error: shrec17-28 cannot be trained on"),
    ],
)
def test_wrong_uses(place: Path, tmp_path: Path, more: list[str], code: int, told: str) -> None:
    result, _, noted = invoke("leap", place, tmp_path / "mine.pt", *more)
    assert result == code
    assert told in noted
    assert not (tmp_path / "mine.pt").exists()
