"""The reference network: equal to the released loop, to itself at any size, and as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hgr_stream.recognition import bundle
from hgr_stream.recognition.bundle import ModelError
from hgr_stream.recognition.devineau import (
    DROPOUT,
    Devineau,
    FastDevineau,
    export_devineau,
    resample_zoom,
)
from hgr_stream.recognition.options import Metadata
from hgr_stream.training.distort import resampled
from tools.bench.devineau import ReleasedNet


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@pytest.fixture(scope="module")
def net() -> Devineau:
    return Devineau(seed=3).eval()


@pytest.fixture(scope="module")
def released(net: Devineau) -> ReleasedNet:
    peer = ReleasedNet().eval()
    peer.load_state_dict(net.released_state_dict())  # strict: names and shapes are the release's
    return peer


@torch.inference_mode()
def test_equals_the_released_loop(net: Devineau, released: ReleasedNet) -> None:
    x = noise(5, 100, 66)
    assert gap(net(x), released(x)) < 1e-5
    assert gap(FastDevineau(net)(x), released(x)) < 1e-5
    assert gap(FastDevineau(net)(x[:1]), released(x[:1])) < 1e-5


@torch.inference_mode()
def test_what_is_zero_is_passed_over_and_what_is_no_number_is_not() -> None:
    net = Devineau(seed=0).eval()
    for conv in (*net.high, *net.low):
        conv.bias.fill_(-1.0)
    fast, still = FastDevineau(net), torch.zeros(1, 100, 66)
    assert gap(fast(still), net(still)) < 1e-5  # no input of the linear layer is left
    still[0, 50, 3] = torch.nan
    assert fast(still).isnan().all()


def test_has_the_released_size(net: Devineau) -> None:
    assert sum(p.numel() for p in net.parameters()) == 13_867_934


@torch.inference_mode()
@settings(max_examples=12, deadline=None)
@given(
    duration=st.integers(8, 131),
    channels=st.integers(1, 7),
    classes=st.integers(1, 5),
    batch=st.integers(1, 4),
)
def test_equals_it_at_any_size(duration: int, channels: int, classes: int, batch: int) -> None:
    torch.manual_seed(duration)
    peer = ReleasedNet(duration, channels, classes).eval()
    net = Devineau.from_released(peer.state_dict(), duration).eval()
    assert (net.channels, net.classes) == (channels, classes)
    x = noise(batch, duration, channels)
    assert gap(net(x), peer(x)) < 1e-5
    assert gap(FastDevineau(net)(x), peer(x)) < 1e-5


def test_released_weights_come_back_as_they_went() -> None:
    own = ReleasedNet(32, 4, 3).state_dict()
    back = Devineau(32, 4, 3).load_released(own).released_state_dict()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[k], own[k]) for k in own)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s: s.pop("all_conv_low.2.3.bias"), r"all_conv_low\.2\.3\.bias is missing"),
        (lambda s: s.update({"all_conv_low.4.0.bias": torch.zeros(8)}), "is unknown for 32 frames"),
        (lambda s: s.update({"fc.2.bias": torch.zeros(9)}), r"fc\.2\.bias has shape \(9,\)"),
    ],
)
def test_other_weights_are_refused_and_nothing_changes(change, fault: str) -> None:
    state = ReleasedNet(32, 4, 3).state_dict()
    change(state)
    net = Devineau(32, 4, 3, seed=1)
    before = net.released_state_dict()
    with pytest.raises(ValueError, match=fault):
        net.load_released(state)
    assert all(torch.equal(before[k], v) for k, v in net.released_state_dict().items())
    with pytest.raises(ValueError, match=r"no fc\.0\.weight"):
        Devineau.from_released({})


def test_initialisation_is_the_releases_and_follows_the_seed() -> None:
    one, same, other = (Devineau(40, 6, 3, seed=s).released_state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["fc.0.weight"], other["fc.0.weight"])
    for key, value in one.items():
        if key.endswith("bias"):
            assert bool((value == 0.1).all())
        else:
            # The bound of Xavier-uniform with gain sqrt 2, of the channel's own convolution.
            fans = torch.nn.init._calculate_fan_in_and_fan_out(value)
            bound = (2 * 6 / sum(fans)) ** 0.5
            assert 0.5 * bound < float(value.abs().max()) <= bound


def test_trains_with_dropout_and_a_gradient_everywhere() -> None:
    net = Devineau(24, 4, 3, seed=0).train()
    x = noise(16, 24, 4)
    assert net.dropout.p == DROPOUT
    assert not torch.equal(net(x), net(x))
    net(x).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


@pytest.mark.parametrize("shape", [(2, 99, 66), (2, 100, 65), (100, 66)])
def test_other_shapes_are_refused(net: Devineau, shape: tuple[int, ...]) -> None:
    for form in (net, FastDevineau(net)):
        with pytest.raises(ValueError, match=r"wants \(batch, 100, 66\)"):
            form(torch.zeros(shape))
    with pytest.raises(ValueError, match="at least 8 frames"):
        Devineau(duration=7)


@pytest.mark.parametrize("frames", [1, 2, 17, 100, 163])
def test_zoom_is_scipys_channel_by_channel(frames: int) -> None:
    joints = np.random.default_rng(0).normal(size=(frames, 22, 3)).cumsum(axis=0)
    wanted = [
        ndimage.zoom(channel, 100 / frames, mode="reflect")
        for channel in joints.reshape(frames, 66).T
    ]
    got = resample_zoom(joints)
    assert got.shape == (100, 22, 3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.reshape(100, 66), np.transpose(wanted), atol=1e-5)


def test_zoom_needs_a_frame() -> None:
    with pytest.raises(ValueError, match="no frame"):
        resample_zoom(np.zeros((0, 22, 3)))


def metadata(size: int, classes: int = 14, **more: object) -> Metadata:
    labels = [f"G{i}" for i in range(classes)]
    return Metadata(1, "devineau", "windowed", labels, 50.0, size, 10, **more)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("size", [100, 60])
def test_exported_file_gives_the_networks_scores(net: Devineau, tmp_path: Path, size: int) -> None:
    joints = noise(3, size, 22, 3)
    zoomed = torch.from_numpy(np.stack([resample_zoom(j) for j in joints.numpy()]))
    wanted = net(zoomed.flatten(2))
    exact, small = tmp_path / "fp32.pt", tmp_path / "int8.pt"
    export_devineau(net, metadata(size), exact)
    export_devineau(net, metadata(size), small, int8=True)
    loaded = bundle.load(exact)
    assert not loaded.has_none
    assert gap(loaded.module(joints), wanted) < 1e-5
    # A whole segment is stretched linearly to the window.
    assert loaded.has_verifier
    every_second = torch.cat([joints[:1, 0:-1:2], joints[:1, -1:]], 1)
    [linear] = resampled(every_second[0].flatten(1), torch.tensor([size // 2 + 1]), size)
    said = loaded.module.verify(every_second)
    assert gap(said[:, 1:], loaded.module(linear.view(1, size, 22, 3))) < 1e-5
    assert float(said[0, 0]) < float(said[0, 1:].min()) - 100
    assert gap(bundle.load(small).module(joints), wanted) < 0.2 * float(wanted.std())
    assert small.stat().st_size < 0.3 * exact.stat().st_size


def test_export_refuses_what_clashes(net: Devineau, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with pytest.raises(ModelError, match="12 channels"):
        export_devineau(Devineau(16, 12, 3), metadata(16, classes=3), path)
    with pytest.raises(ModelError, match="windowed network, metadata says streaming"):
        export_devineau(net, Metadata(1, "d", "streaming", ["A"], 50.0, 1, 1), path)
    with pytest.raises(ModelError, match="output has shape"):
        export_devineau(net, metadata(100, classes=9), path)
    assert not path.exists()


@torch.inference_mode()
def test_int8_decides_as_the_network_does(net: Devineau) -> None:
    x = noise(128, 100, 66, seed=4)
    wanted, got = net(x), FastDevineau(net, int8=True)(x)
    assert gap(got, wanted) < 0.2 * float(wanted.std())
    # Where two classes are closer than the error, either may win; elsewhere none may change.
    first, second = wanted.topk(2).values.T
    clear = first - second > 0.2 * wanted.std()
    assert int(clear.sum()) > 64
    assert torch.equal(got.argmax(1)[clear], wanted.argmax(1)[clear])
