"""The flagship: gesture and steps agree, and the file keeps the contract."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hgr_stream.recognition import bundle, flagship, flagship_stream
from hgr_stream.recognition.options import FORMAT, Metadata
from hgr_stream.skeleton import with_palm
from hgr_stream.training.evaluate import Model

COARSE_OF = (0, 0, 1, 1)
LENGTHS = torch.tensor([57, 40, 11, 1])


def gestures(seed: int = 0, frames: int = 57) -> Tensor:
    """Made-up hands that move smoothly: (4, frames, 22, 3)."""
    rng = np.random.default_rng(seed)
    shape = rng.uniform(-0.08, 0.08, (4, 1, 22, 3))
    path = np.cumsum(rng.normal(0, 0.01, (4, frames, 1, 3)), 1) + np.array([0, 0.1, 0.4])
    fingers = np.cumsum(rng.normal(0, 0.002, (4, frames, 22, 3)), 1)
    return torch.from_numpy(with_palm((shape + path + fingers).astype(np.float32)))


@pytest.fixture(scope="module")
def net() -> flagship.FlagshipNet:
    """Untrained, but with batch norms that are not the identity and outputs that differ."""
    torch.manual_seed(0)
    net = flagship.FlagshipNet(4, COARSE_OF, width=24, branches=3, dilations=(1, 2, 4))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        for branch in net.opinions():
            branch.head.weight *= 12
    return net.eval()


@pytest.mark.parametrize("coarse", [True, False])
def test_gesture_and_steps_agree(net: flagship.FlagshipNet, coarse: bool) -> None:
    joints = gestures()
    with torch.inference_mode():
        expected = net(joints, LENGTHS)[0 if coarse else 1]
        module = flagship_stream.export(net, coarse=coarse)
        assert expected.exp().sum(1) == pytest.approx(1, abs=1e-5)
        assert expected.std() > 0.1
        for i, n in enumerate(LENGTHS.tolist()):
            whole = module.classify(joints[i : i + 1, :n])
            assert torch.allclose(whole, expected[i : i + 1], atol=1e-5)
            state = module.initial_state(1)
            for k in range(n):
                logits, _, _, state = module(joints[i : i + 1, k : k + 1], state)
            assert torch.allclose(logits[:, -1, 1:], expected[i : i + 1], atol=1e-5)


def test_beginnings_are_cut_gestures(net: flagship.FlagshipNet) -> None:
    joints = gestures(6)
    share = torch.tensor([0.5, 0.21, 1.0, 0.01])
    packed = torch.cat([joints[i, :n] for i, n in enumerate(LENGTHS.tolist())])
    with torch.inference_mode():
        whole, begun = net.embed_with_beginnings(packed, LENGTHS, share)
        assert torch.equal(whole, net.embed(packed, LENGTHS))
        for i, n in enumerate(LENGTHS.tolist()):
            steps = math.ceil(math.ceil(n / flagship.STRIDE) * share[i].item())
            frames = flagship.STRIDE * (steps - 1) + 1
            cut = net.embed(joints[i, :frames], torch.tensor([frames]))
            assert torch.allclose(begun[i : i + 1], cut, atol=1e-5)
    assert (begun[0] - whole[0]).abs().max() > 0.01


def test_each_frame_is_the_verdict_on_the_gesture_so_far(net: flagship.FlagshipNet) -> None:
    joints = gestures(1)
    module = flagship_stream.export(net)
    with torch.inference_mode():
        logits, _, embedding, _ = module(joints, module.initial_state(4))
        running = logits[..., 1:]
        assert embedding.shape == (4, 57, 72)
        assert embedding.std(1).mean() > 0.01  # of each frame, not of the last one
        for n in (1, 2, 17, 56):
            cut = net(joints[:, :n], torch.full((4,), n))[1]
            assert torch.allclose(running[:, n - 1], cut, atol=1e-5)


def test_hands_of_different_ages_share_a_batch(net: flagship.FlagshipNet) -> None:
    joints = gestures(2)
    module = flagship_stream.export(net)
    with torch.inference_mode():
        alone = module(joints[:1, :30], module.initial_state(1))[0][0, -1]
        other = module(joints[1:2, :29], module.initial_state(1))[0][0, -1]
        _, _, _, older = module(joints[:1, :1], module.initial_state(1))
        state = torch.cat([older, module.initial_state(1)])
        both = torch.cat([joints[:1, 1:30], joints[1:2, :29]])
        logits = module(both, state)[0][:, -1]
    assert torch.allclose(logits[0], alone, atol=1e-5)
    assert torch.allclose(logits[1], other, atol=1e-5)


def test_state_is_only_read(net: flagship.FlagshipNet) -> None:
    module = flagship_stream.export(net)
    state = module.initial_state(4)
    module(gestures(), state)
    assert not state.any()


def test_runs_for_days(net: flagship.FlagshipNet) -> None:
    """The age goes back by whole periods before a float stops counting."""
    plain = flagship_stream.StreamingFlagship(net)
    joints = gestures(3, 80)[:1]
    with torch.inference_mode():
        _, _, _, state = plain(joints[:, :60], plain.initial_state(1))
        late = state.clone()
        late[:, 0] += 2 * plain.wrap - 64  # 4 frames before it goes back, in the same phase
        assert (2 * plain.wrap - 64) % (plain.period * flagship.STRIDE) == 0
        logits, _, _, after = plain(joints[:, 60:], late)
        expected, _, _, _ = plain(joints[:, 60:], state)
    assert after[0, 0] < 2 * plain.wrap
    # The age itself is one of the features: all else must be as it was.
    assert torch.isfinite(logits).all()
    assert (logits - expected).abs().mean() < 0.5


def test_file_keeps_the_contract(net: flagship.FlagshipNet, tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    metadata = Metadata(FORMAT, "tiny", "streaming", ["A1", "A2", "B1", "B2"], 30.0, 1, 1)
    none = nn.Linear(4 * 24 * 3, 1)
    bundle.save(flagship_stream.export(net, none), metadata, path)
    model = Model(path)
    joints = gestures(4)
    with torch.inference_mode():
        expected = net(joints, LENGTHS)[1].exp()
        logits = model.bundle.module(joints, model.bundle.module.initial_state(4))[0]
        pooled = net.embed(joints.flatten(0, 1), torch.full((4,), 57))
        assert torch.allclose(logits[:, -1, 0], none(pooled).squeeze(1), atol=1e-5)
    for i, n in enumerate(LENGTHS.tolist()):
        given = model.probabilities(joints[i, :n].numpy())
        assert given == pytest.approx(expected[i].numpy(), abs=1e-5)


def test_a_glitch_stays_finite(net: flagship.FlagshipNet) -> None:
    joints = gestures(5)
    joints[:, 20] += 1e4
    joints[:, 30] = joints[:, 30, :1]  # all joints in one point
    logits = net(joints, torch.full((4,), 57))[1]
    assert torch.isfinite(logits).all()


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="25 is not divisible by 4"):
        flagship.FlagshipNet(3, width=25)
    with pytest.raises(ValueError, match="coarse_of names 2 of 3"):
        flagship.FlagshipNet(3, (0, 1))
    with pytest.raises(ValueError, match="no coarse classes"):
        flagship_stream.StreamingFlagship(flagship.FlagshipNet(3), coarse=True)
