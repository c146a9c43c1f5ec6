"""Online models that learn other sets beside their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from hgr_stream.cli.train_online import train
from hgr_stream.datasets.base import Segment
from hgr_stream.recognition import bundle
from hgr_stream.recognition.causal import CausalNet
from hgr_stream.recognition.segments import SegmentVerifier
from hgr_stream.training.draw import IGNORE, ChunkRule
from hgr_stream.training.material import load_beside
from hgr_stream.training.online import Schedule, train_network, train_verifier
from hgr_stream.training.online_beside import BesideSet, WithHeads, draw_beside
from hgr_stream.training.streams import labels_of, to_streams
from tests.test_splice import write_takes
from tests.test_training import RATE, sequence, write_shrec21


def beside_set() -> BesideSet:
    found = [sequence(str(i), 50 + i, 12.0) for i in range(3)]
    for q in found:
        q.segments = [s for s in q.segments if s.label == "OPEN"]
    return BesideSet.of("others", found)


def test_a_set_without_gestures_is_refused() -> None:
    assert beside_set().labels == ["OPEN"]
    assert {m.label for _, m in beside_set().pool.gestures} == {1}
    nothing = sequence("1", 1)
    nothing.segments = []
    with pytest.raises(ValueError, match="idle: no gesture"):
        BesideSet.of("idle", [nothing])


def test_recordings_that_are_all_gesture_are_refused() -> None:
    own = [sequence(str(i), i, 12.0) for i in range(2)]
    for q in own:
        q.segments = [Segment("LEFT", 0, len(q.joints) - 1)]
    few = Schedule(steps=20, batch=8)
    with pytest.raises(ValueError, match="no time without a gesture"):
        train_verifier(to_streams(own, ["LEFT"]), 1, RATE, few, 0)


def test_a_share_of_each_batch_is_drawn_from_every_set() -> None:
    sets = [beside_set(), beside_set()]
    drawn = draw_beside(sets, 32, lambda pool: pool)
    assert [len(group) for group in drawn] == [5, 5]
    assert all(d is s.pool for s, g in zip(sets, drawn, strict=True) for d in g)
    assert draw_beside([], 32, lambda *_: None) == []


def test_folders_of_one_kind_are_one_set(tmp_path: Path) -> None:
    """``--also recordings=A --also recordings=B``: B alone was learnt."""
    takes = [("recordings", write_takes(tmp_path / name, list(name))) for name in "ab"]
    both = load_beside(takes, [])
    alone = [load_beside([one], [])["recordings"] for one in takes]
    assert len(both["recordings"]) == sum(map(len, alone))


def test_each_set_is_learnt_by_its_own_head() -> None:
    sets = [beside_set(), beside_set()]
    headed = WithHeads(nn.Identity(), sets, "network", 4)
    common = torch.randn(2, 6, 4, requires_grad=True)
    label = torch.tensor([[0, 0, 1, 1, 0, IGNORE], [1, 1, 1, 0, 0, 0]])
    headed.loss(common, [label[:1], label[1:]]).backward()
    assert common.grad is not None
    assert ((common.grad != 0).any(-1) == (label != IGNORE)).all()
    for head, own in zip(headed.heads, common.detach(), strict=True):
        assert isinstance(head, nn.Linear)
        head.requires_grad_(False)
        head.bias += 100.0 * torch.eye(2)[1]  # now it is sure of the gesture, wherever it looks
        assert (head(own).argmax(-1) == 1).all()
    sure = headed.loss(common, [torch.ones(1, 6, dtype=torch.long)] * 2)
    wrong = headed.loss(common, [torch.ones(1, 6, dtype=torch.long), label[:1]])
    assert sure < wrong


def test_the_heads_are_left_behind_and_trained_on() -> None:
    own = [sequence(str(i), i, 12.0) for i in range(3)]
    labels = labels_of(own)
    streams, beside = to_streams(own, labels), [beside_set()]
    few = Schedule(steps=2, batch=4, frames=64)
    rule = ChunkRule(RATE, 64, 0.24)
    net, _ = train_network(streams, 2, rule, few, 0, beside=beside)
    verifier, _ = train_verifier(streams, 2, RATE, few, 0, beside=beside)
    assert type(net) is CausalNet
    assert net.head.out_features == 1 + 2 + 2
    assert type(verifier) is SegmentVerifier
    assert verifier.head.out_features == 1 + 2
    assert set(beside[0].heads) == {"network", "verifier"}
    before = beside[0].heads["network"]
    heads = WithHeads(net, beside, "network", net.width).heads
    assert heads[0] is before
    alone, _ = train_network(streams, 2, rule, few, 0)
    assert not torch.equal(alone.stem.weight, net.stem.weight)


def test_the_command_learns_takes_beside(tmp_path: Path) -> None:
    stream = write_shrec21(tmp_path / "s21", 4, 16.0)
    takes = write_takes(tmp_path / "takes", ["a", "b", "c"])
    out = tmp_path / "own.pt"
    args = ["--online", "--dataset", "shrec21", "--root", str(stream), "-o", str(out), "--json"]
    args += [
        "--also",
        f"recordings={takes}",
        "--minutes",
        "0.1",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(train, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["scores"]
    metadata = bundle.read_metadata(out)
    assert metadata.labels == ["LEFT", "OPEN"]
    assert metadata.training["data"] == "shrec21, 4 sequences"
    assert metadata.training["beside"].startswith("recordings: ")
    result = CliRunner().invoke(train, [*args, "--also", "streams=/nowhere"])
    assert result.exit_code == 1
    assert "/nowhere: no such file or folder" in result.output
