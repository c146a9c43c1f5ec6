"""The compiled step against TorchScript, the reference, and against itself in other groupings."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hands import hand_joints
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hgr_stream.recognition
from hgr_stream.datasets.shrec21 import load_shrec21
from hgr_stream.recognition import bundle, features, flagship, flagship_stream, segments, steppers
from hgr_stream.recognition.bundle import Bundle
from hgr_stream.recognition.engine import Engine
from hgr_stream.recognition.options import FORMAT, Metadata
from hgr_stream.recognition.recogniser import Recogniser
from hgr_stream.skeleton import Float32, with_palm
from hgr_stream.training.streams import on_grid, to_streams

pytest.importorskip("numba", reason="the compiled step needs numba")

SHIPPED = ("leap", "hololens", "shrec17-14", "shrec17-28")


def hands(batch: int, frames: int, seed: int = 0) -> Float32:
    """Made-up people's hands that move smoothly: (batch, frames, 22, 3)."""
    rng = np.random.default_rng(seed)
    shape = hand_joints() * rng.uniform(0.8, 1.2, (batch, 1, 1, 1)) + rng.normal(
        0, 0.006, (batch, 1, 22, 3)
    )
    path = rng.normal(0, 0.005, (batch, frames, 1, 3)).cumsum(1)
    fingers = rng.normal(0, 0.0005, (batch, frames, 22, 3)).cumsum(1)
    return with_palm((shape + path + fingers).astype(np.float32))


def fresh(model: Bundle, batch: int) -> Float32:
    return np.array(model.module.initial_state(batch).numpy(), np.float32)


@pytest.fixture(scope="module", params=SHIPPED)
def model(request: pytest.FixtureRequest) -> Bundle:
    return bundle.load(request.param)


@pytest.fixture(scope="module")
def step(model: Bundle) -> steppers.Compiled:
    chosen = steppers.stepper(model)
    assert isinstance(chosen, steppers.Compiled), "a shipped model runs compiled"
    return chosen


def agree(got: steppers.Outputs, wanted: steppers.Outputs) -> None:
    assert np.allclose(got.probs, wanted.probs, rtol=0, atol=1e-5)
    assert np.allclose(got.boundary, wanted.boundary, rtol=0, atol=1e-5)
    assert np.allclose(got.embedding, wanted.embedding, rtol=1e-4, atol=1e-4)
    assert np.allclose(got.state, wanted.state, rtol=1e-4, atol=1e-4)


# --- the same as TorchScript ---


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 17, 64])
def test_any_number_of_hands(model: Bundle, step: steppers.Compiled, batch: int) -> None:
    reference = steppers.Scripted(model)
    joints = hands(batch, 12, batch)
    state, wanted_state = fresh(model, batch), fresh(model, batch)
    for at, n in ((0, 1), (1, 1), (2, 2), (4, 3), (7, 5)):
        part = np.ascontiguousarray(joints[:, at : at + n])
        got, wanted = step(part, state), reference(part, wanted_state)
        agree(got, wanted)
        state, wanted_state = got.state, wanted.state


def test_a_long_run(model: Bundle, step: steppers.Compiled) -> None:
    """Rings go round many times; ages go on."""
    joints = hands(1, 700, 5)
    state, reference = fresh(model, 1), steppers.Scripted(model)
    wanted = reference(joints, fresh(model, 1))
    for k in range(joints.shape[1]):
        out = step(joints[:, k : k + 1], state)
        state = out.state
        assert np.allclose(out.probs[0, 0], wanted.probs[0, k], rtol=0, atol=1e-5), k
    assert np.allclose(state, wanted.state, rtol=1e-3, atol=1e-3)


def test_glitches_and_points(model: Bundle, step: steppers.Compiled) -> None:
    joints = hands(2, 40, 6)
    joints[0, 10] += 15.0  # metres away for one frame
    joints[1, 20] = joints[1, 20, :1]  # all joints in one point
    got = step(joints, fresh(model, 2))
    assert np.isfinite(got.probs).all()
    agree(got, steppers.Scripted(model)(joints, fresh(model, 2)))


def test_real_gestures(step: steppers.Compiled, model: Bundle, shared_data: Path) -> None:
    sequences = load_shrec21(shared_data / "shrec21_online_train")[:3]
    reference = steppers.Scripted(model)
    for stream in to_streams(sequences, ["LEFT"]):
        joints = np.ascontiguousarray(on_grid(stream, model.metadata.rate_hz)[None, :400], "<f4")
        got, wanted = step(joints, fresh(model, 1)), reference(joints, fresh(model, 1))
        assert np.allclose(got.probs, wanted.probs, rtol=0, atol=1e-5)
        assert np.allclose(got.boundary, wanted.boundary, rtol=0, atol=1e-5)
        assert got.probs.argmax(-1).tolist() == wanted.probs.argmax(-1).tolist()


def test_the_verifier(model: Bundle, step: steppers.Compiled) -> None:
    if not model.has_verifier:
        assert "verifier" not in step.segments
        return
    joints = hands(1, 200, 7)[0]
    joints[50] += 4.0
    reference = steppers.Scripted(model)
    for first, last in ((0, 1), (0, 2), (3, 6), (0, 31), (5, 37), (0, 33), (20, 90), (0, 200)):
        got, wanted = step.verify(joints[first:last]), reference.verify(joints[first:last])
        assert np.allclose(got, wanted, rtol=0, atol=1e-5), (first, last)
        assert got.sum() == pytest.approx(1.0, abs=1e-5)


def test_the_dater() -> None:
    torch.manual_seed(1)
    dater = segments.SegmentDater(25.0)
    for module in dater.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    dater.eval()
    weights = {k: v.detach().numpy() for k, v in segments.folded(dater).weights().items()}
    dates = steppers.CompiledSegment(weights, features.projection_matrix().numpy(), 25.0, 1.0)
    joints = hands(1, 120, 8)[0]
    said = []
    for frames in (13, 15, 32, 33, 120):
        with torch.inference_mode():
            wanted = dater(torch.from_numpy(joints[:frames])[None])[0].numpy()
        assert np.allclose(dates(joints[:frames]), wanted, rtol=0, atol=1e-5)
        said.append(wanted)
    assert np.std(said) > 1e-4


# --- the same in any grouping, to the last digit ---


@settings(max_examples=8, deadline=None)
@given(parts=st.lists(st.sampled_from([1, 1, 2, 3, 4, 7, 16]), min_size=2, max_size=6))
def test_grouping_does_not_show(model: Bundle, step: steppers.Compiled, parts: list[int]) -> None:
    joints = hands(5, sum(parts), 9)
    whole = step(joints, fresh(model, 5))
    states, at = fresh(model, 5), 0
    for n in parts:
        part = np.ascontiguousarray(joints[:, at : at + n])
        for row in range(5):  # each hand alone
            out = step(part[row : row + 1], states[row : row + 1])
            assert np.array_equal(out.probs[0], whole.probs[row, at : at + n])
            assert np.array_equal(out.boundary[0], whole.boundary[row, at : at + n])
            assert np.array_equal(out.embedding[0], whole.embedding[row, at : at + n])
        at += n
    assert np.array_equal(states, whole.state)


def test_hands_of_different_ages(model: Bundle, step: steppers.Compiled) -> None:
    joints = hands(2, 40, 10)
    alone = step(joints[:1], fresh(model, 1))
    older = step(joints[1:, :7], fresh(model, 1)).state
    state = np.concatenate([fresh(model, 1), older])
    for k in range(33):
        pair = np.stack([joints[0, k], joints[1, 7 + k]])[:, None]
        out = step(pair, state)
        assert np.array_equal(out.probs[0, 0], alone.probs[0, k])
    assert not np.array_equal(out.probs[0], out.probs[1])


def test_a_new_track_starts_from_nothing(model: Bundle) -> None:
    from test_recognition import windows

    recogniser = Recogniser(model)
    joints = hands(1, 30, 11)[0]
    first = recogniser.push(windows(joints, "a"))
    again = recogniser.push(windows(joints, "b"))
    assert all(np.array_equal(a.probs, b.probs) for a, b in zip(first, again, strict=True))


# --- other networks ---


def tiny_flagship(**shape: object) -> Bundle:
    torch.manual_seed(0)
    net = flagship.FlagshipNet(6, **shape)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    labels = [f"G{i}" for i in range(6)]
    metadata = Metadata(FORMAT, "tiny", "streaming", labels, 30.0, 1, 1)
    none = nn.Linear(4 * net.width * len(net.branches), 1)
    return Bundle(metadata, flagship_stream.export(net, none), Path("tiny.pt"))


@pytest.mark.parametrize(
    "shape",
    [
        {"width": 24, "branches": 3, "dilations": (1, 2, 4), "coarse_of": (0, 0, 1, 1, 2, 2)},
        {"width": 32, "branches": 2, "dilations": (1, 2, 4, 8, 1), "attention": 2},
        {"width": 8, "branches": 1, "dilations": (3,), "attention": 1},
    ],
)
def test_flagships_of_other_shapes(shape: dict[str, object]) -> None:
    model = tiny_flagship(**shape)
    step = steppers.stepper(model)
    assert isinstance(step, steppers.Compiled)
    joints = hands(3, 50, 12)
    agree(step(joints, fresh(model, 3)), steppers.Scripted(model)(joints, fresh(model, 3)))


def test_the_flagship_runs_for_days() -> None:
    """Its age goes back by whole periods, as TorchScript's does."""
    model = tiny_flagship(width=24, branches=1, dilations=(1, 2))
    step, reference = steppers.stepper(model), steppers.Scripted(model)
    wrap = int(model.module.weights()["counting"][2])
    joints = hands(1, 40, 13)
    state = step(joints[:, :20], fresh(model, 1)).state
    state[:, 0] += 2 * wrap - 28
    before = state.copy()
    agree(step(joints[:, 20:], state), reference(joints[:, 20:], before))
    assert state[0, 0] < 2 * wrap


def test_a_width_that_does_not_fit_runs_as_torchscript(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_flagship(width=12, branches=1, dilations=(1,))
    assert isinstance(steppers.stepper(model), steppers.Scripted)
    assert "no compiled step (ValueError: width 12" in caplog.text
    out = steppers.stepper(model)(hands(2, 3), fresh(model, 2))
    assert out.probs.shape == (2, 3, 7)


class Strange(nn.Module):
    """Has weights by our names and does something else with them."""

    def __init__(self, inside: flagship_stream.StreamingFlagship) -> None:
        super().__init__()
        self.inside = inside

    def forward(
        self, joints: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, boundary, embedding, after = self.inside(joints * 2.0, state)
        return logits, boundary, embedding, after

    @torch.jit.export
    def initial_state(self, batch: int) -> torch.Tensor:
        return self.inside.initial_state(batch)

    @torch.jit.export
    def weights(self) -> dict[str, torch.Tensor]:
        return self.inside.weights()


def test_a_network_that_does_something_else_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = flagship.FlagshipNet(6, width=16, branches=1, dilations=(1, 2)).eval()
    with torch.no_grad():
        net.opinions()[0].head.weight *= 12
    module = torch.jit.script(Strange(flagship_stream.StreamingFlagship(net)).eval())
    metadata = Metadata(FORMAT, "odd", "streaming", [f"G{i}" for i in range(6)], 30.0, 1, 1)
    model = Bundle(metadata, module, Path("odd.pt"))
    with caplog.at_level(logging.WARNING):
        assert isinstance(steppers.stepper(model), steppers.Scripted)
    assert "model odd: the compiled step differs from TorchScript by" in caplog.text


def test_without_numba_torchscript_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "numba" or name.endswith("recognition.kernels"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delattr(hgr_stream.recognition, "kernels")
    model = bundle.load("leap")
    assert isinstance(model.stepper, steppers.Scripted)
    assert Recogniser(model).step is model.stepper


# --- the same events ---


@pytest.mark.parametrize("name", ["leap", "hololens"])
def test_events_are_torchscripts(name: str, shared_data: Path) -> None:
    from test_recognition import windows

    sequences = load_shrec21(shared_data / "shrec21_online_train")[:6]
    compiled, scripted = bundle.load(name), bundle.load(name)
    scripted.stepper = steppers.Scripted(scripted)
    told: dict[str, list[dict[str, object]]] = {"compiled": [], "scripted": []}
    for stream in to_streams(sequences, ["LEFT"]):
        for which, model in (("compiled", compiled), ("scripted", scripted)):
            engine = Engine(model)
            events = engine.push(windows(on_grid(stream, 25.0), stream.name))
            for event in events + engine.close(0, "end"):
                told[which].append(
                    {
                        k: v
                        for k, v in msgspec.structs.asdict(event).items()
                        if k not in ("confidence",)
                    }
                )
    assert isinstance(compiled.stepper, steppers.Compiled)
    assert len(told["scripted"]) > 20
    assert told["compiled"] == told["scripted"]
