"""The reference network: Devineau, Moutarde, Xi, Yang, "Deep Learning for Hand Gesture Recognition
on Skeletal Data", FG 2018, as its authors released it, and the form in which it runs here.

In the order of use: ``resample_zoom`` (a gesture to 100 frames), ``Devineau`` (the network that is
trained, see ``training.isolated_recipe``; reads and writes the released state dict) and
``FastDevineau`` (the same function for inference, what ``export_devineau`` writes).

Each channel (a joint's x, y or z) has its own two convolutional branches over time, *high* with 7
taps and *low* with 3, each three times convolution, ReLU and pooling by two, and a *residual* that
is pooled alone; 9 features x duration / 8 of every channel go to a perceptron. The release loops
over the channels; ``Devineau`` groups the convolutions. What ``FastDevineau`` adds is said there.
"""

import functools
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..skeleton import N_JOINTS, Float32
from .bundle import ModelError, save
from .options import Metadata

DURATION: Final = 100
DROPOUT: Final = 0.2
CHANNELS: Final = 3 * N_JOINTS
HIDDEN: Final = 1936
WIDTHS: Final = (1, 8, 4, 4)  # feature maps of a branch before and after each convolution
TAPS: Final = {"high": 7, "low": 3}
N_MAPS: Final = 2 * WIDTHS[-1] + 1  # of a channel: both branches and the residual
_RELEASED_LAYERS: Final = (0, 3, 6)  # the convolutions' places in the release's nn.Sequential


@functools.lru_cache(maxsize=1024)
def zoom_matrix(n_frames: int, duration: int = DURATION) -> NDArray[np.float64]:
    """The cubic-spline zoom from ``n_frames`` to ``duration`` frames: (duration, n_frames).

    A spline is linear in its samples, so that this matrix is ``scipy.ndimage.zoom`` itself (order
    3, mode "reflect", first and last frame kept, as in the release). Needs scipy. Read-only.
    """
    from scipy import ndimage

    if n_frames < 1 or duration < 1:
        raise ValueError(f"cannot zoom {n_frames} frames to {duration}: both must be at least 1")
    columns = [
        ndimage.zoom(unit, duration / n_frames, order=3, mode="reflect")
        for unit in np.eye(n_frames)
    ]
    matrix = np.stack(columns, axis=1)
    matrix.flags.writeable = False
    return matrix


def resample_zoom(joints: NDArray[np.floating], duration: int = DURATION) -> Float32:
    """A gesture (T, ...) to (duration, ...) frames by the paper's cubic-spline zoom, a channel by
    itself. Raises ValueError when there is no frame."""
    joints = np.asarray(joints)
    if joints.ndim < 1 or not len(joints):
        raise ValueError(f"cannot zoom joints of shape {joints.shape}: no frame in it")
    flat = zoom_matrix(len(joints), duration) @ joints.reshape(len(joints), -1).astype(np.float64)
    return flat.reshape(duration, *joints.shape[1:]).astype(np.float32)


# -- the network -----------------------------------------------------------------------------------


class Devineau(nn.Module):
    """(batch, duration, channels) -> logits (batch, classes), by grouped convolutions.

    ``duration`` is fixed by the perceptron, as in the release. ``seed`` draws the release's
    initialisation: Xavier-uniform with gain sqrt 2, biases 0.1.
    """

    def __init__(
        self,
        duration: int = DURATION,
        channels: int = CHANNELS,
        classes: int = 14,
        *,
        dropout: float = DROPOUT,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if duration < 8 or channels < 1 or classes < 1:
            raise ValueError(
                f"duration {duration}, channels {channels}, classes {classes}: "
                "wants at least 8 frames, 1 channel and 1 class"
            )
        self.duration, self.channels, self.classes = duration, channels, classes

        def branch(taps: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Conv1d(a * channels, b * channels, taps, padding=taps // 2, groups=channels)
                for a, b in itertools.pairwise(WIDTHS)
            )

        self.high = branch(TAPS["high"])
        self.low = branch(TAPS["low"])
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(N_MAPS * channels * (duration // 8), HIDDEN)
        self.output = nn.Linear(HIDDEN, classes)
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """The release's initialisation; ``seed`` None draws from torch's global generator."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                # Fans are those of one channel's own convolution, not of the whole group.
                groups = layer.groups if isinstance(layer, nn.Conv1d) else 1
                taps = math.prod(layer.weight.shape[2:])
                fans = (layer.weight.shape[0] // groups + layer.weight.shape[1]) * taps
                bound = math.sqrt(2) * math.sqrt(6 / fans)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.fill_(0.1)  # type: ignore[union-attr]

    def both_branches(self, layer: int) -> tuple[Tensor, Tensor]:
        """Weights (channels * 2 * maps out, maps in, 1, 7) and biases of a layer, *high* and *low*
        of a channel side by side; *low* is zero-padded from 3 to 7 taps."""
        weights, biases = [], []
        for branch, taps in ((self.high, TAPS["high"]), (self.low, TAPS["low"])):
            conv: Any = branch[layer]
            margin = (TAPS["high"] - taps) // 2
            weight = F.pad(conv.weight, (margin, margin))
            weights.append(weight.view(self.channels, WIDTHS[layer + 1], WIDTHS[layer], 1, -1))
            biases.append(conv.bias.view(self.channels, -1))
        return torch.stack(weights, 1).flatten(0, 2), torch.stack(biases, 1).flatten()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, duration, channels) -> (batch, classes)."""
        out: Tensor = self.output(self.embed(x))
        return out

    def embed(self, x: Tensor) -> Tensor:
        """(batch, duration, channels) -> what is classified, (batch, HIDDEN)."""
        if x.ndim != 3 or x.shape[1] != self.duration or x.shape[2] != self.channels:
            raise ValueError(
                f"wants (batch, {self.duration}, {self.channels}), got {tuple(x.shape)}"
            )
        # Convolutions in two dimensions, one of them 1: channels last, as the frames come, is
        # half again as fast to train as one dimension with time last.
        x = x.unsqueeze(1).permute(0, 3, 1, 2)
        y = x
        for layer in range(3):
            groups = self.channels if layer == 0 else 2 * self.channels
            weight, bias = self.both_branches(layer)
            y = F.conv2d(y, weight, bias, padding=(0, 3), groups=groups).relu()
            y = F.avg_pool2d(self.dropout(y) if layer == 2 else y, (1, 2))
        residual = F.avg_pool2d(x[..., : 8 * y.shape[-1]], (1, 8))
        maps = torch.cat([y.unflatten(1, (self.channels, -1)), residual.unsqueeze(2)], dim=2)
        return self.hidden(maps.flatten(1)).relu()  # type: ignore[no-any-return]

    def _released_names(self) -> dict[str, tuple[str, int | None]]:
        """The release's key -> (ours, the channel whose part it is; None: all of it)."""
        names: dict[str, tuple[str, int | None]] = {}
        for branch in TAPS:
            for channel in range(self.channels):
                for i, place in enumerate(_RELEASED_LAYERS):
                    for kind in ("weight", "bias"):
                        theirs = f"all_conv_{branch}.{channel}.{place}.{kind}"
                        names[theirs] = (f"{branch}.{i}.{kind}", channel)
        for ours, place in (("hidden", 0), ("output", 2)):
            for kind in ("weight", "bias"):
                names[f"fc.{place}.{kind}"] = (f"{ours}.{kind}", None)
        return names

    def released_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names and shapes of the released ``HandGestureNet``; copies."""
        own = self.state_dict()
        return {
            theirs: (
                own[ours] if channel is None else own[ours].chunk(self.channels)[channel]
            ).clone()
            for theirs, (ours, channel) in self._released_names().items()
        }

    def load_released(self, state_dict: Mapping[str, Tensor]) -> Self:
        """Take the weights of a released ``HandGestureNet``; returns self.

        Raises ValueError naming the first entry that is missing, unknown or of another shape;
        nothing is changed then.
        """
        expected = self.released_state_dict()
        for key in (*expected, *state_dict):
            if key not in state_dict or key not in expected:
                fault = "missing" if key in expected else "unknown"
                raise ValueError(f"released state dict: {key} is {fault} for {self._size()}")
            if state_dict[key].shape != expected[key].shape:
                raise ValueError(
                    f"released state dict: {key} has shape {tuple(state_dict[key].shape)}, "
                    f"{self._size()} wants {tuple(expected[key].shape)}"
                )
        own = self.state_dict()
        with torch.no_grad():
            for theirs, (ours, channel) in self._released_names().items():
                part = own[ours] if channel is None else own[ours].chunk(self.channels)[channel]
                part.copy_(state_dict[theirs])
        return self

    def _size(self) -> str:
        return f"{self.duration} frames, {self.channels} channels, {self.classes} classes"

    @classmethod
    def from_released(cls, state_dict: Mapping[str, Tensor], duration: int = DURATION) -> Self:
        """A network of the size that a released state dict tells; raises ValueError."""
        try:
            n_features = state_dict["fc.0.weight"].shape[1]
            classes = state_dict["fc.2.weight"].shape[0]
        except (KeyError, IndexError):
            raise ValueError("released state dict: no fc.0.weight and fc.2.weight in it") from None
        channels = max(1, n_features // (N_MAPS * max(1, duration // 8)))
        return cls(duration, channels, classes).load_released(state_dict)


# -- inference -------------------------------------------------------------------------------------

#: Outputs of a convolution that one row of a matrix product gives. Where TorchScript reads it is
#: written out as 4, half of the taps, which is the padding, as 3, and the inputs that a row's
#: outputs see, 4 + 2 * 3, as 10.
_STEP = 4


def _block_weights(weight: Tensor, step: int = _STEP) -> Tensor:
    """Taps (G, O, I, 7) -> (G, span * I, step * O), which gives ``step`` outputs of all maps from
    the inputs they see. Columns are ordered (even and odd steps, pairs, maps): pooling by two is
    then the sum of the two halves."""
    n_groups, n_out, n_in, taps = weight.shape
    blocks = weight.new_zeros(n_groups, step + taps - 1, n_in, 2, step // 2, n_out)
    for s in range(step):
        blocks[:, s : s + taps, :, s % 2, s // 2] = weight.permute(0, 3, 2, 1)
    return blocks.reshape(n_groups, -1, step * n_out).contiguous()


def _pooled_blocks(y: Tensor, steps: int, n_blocks: int) -> Tensor:
    """Sum even and odd outputs y (C, 2, B, n, 2, 2 * maps) to 2 n pooled steps, of which the first
    ``steps`` count; cut them, zero-padded, into (2 * C, B * n_blocks, 10 * maps)."""
    channels, batch, n, maps = y.shape[0], y.shape[2], y.shape[3], y.shape[5] // 2
    # narrow and select: an index with colons costs an operation for each of them.
    padded = torch.empty([channels, 2, batch, 4 * n_blocks + 6, maps])
    place = padded.narrow(3, 3, 2 * n).view(channels, 2, batch, n, 2 * maps)
    torch.add(y.select(4, 0), y.select(4, 1), out=place)
    padded.narrow(3, 0, 3).zero_()
    padded.narrow(3, 3 + steps, 4 * n_blocks + 3 - steps).zero_()
    blocks = padded.view(2 * channels, batch, -1).unfold(2, 10 * maps, 4 * maps).contiguous()
    return blocks.view(2 * channels, batch * n_blocks, 10 * maps)


class _Linear(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _SparseLinear(nn.Module):
    """A linear layer of which one gesture reads only the weights that count.

    Its time is that of reading 55 MB of weights. Its inputs come out of ReLU and average pooling,
    and two in five are exactly zero (trained on SHREC'17: 41 to 47 % of a gesture's); lying side by
    side, an input's weights need not be touched then. Several gestures share what is read, and
    between them need nearly all of it: they are a plain product.
    """

    weight: Tensor
    bias: Tensor
    first: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("bias", bias)
        self.register_buffer("first", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            return torch.addmm(self.bias, x, self.weight)
        row = x.select(0, 0)
        at = row.nonzero().squeeze(1)
        # The sum of the rows at ``at``, each times its input; 0 is the mode "sum".
        total = torch.embedding_bag(
            self.weight, at, self.first, False, 0, False, row.index_select(0, at)
        )
        return total[0] + self.bias


class _Int8Linear(nn.Module):
    """Weights in 8 bits with a scale a row; inputs are quantised at each call, to 7 bits, so that
    processors that add pairs of products in 16 bits (AVX2 without VNNI) do not saturate."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        scale = (weight.abs().amax(1).double() / 127).clamp_min(1e-12)
        zero = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantised tensors are announced to move to torchao
            quantised = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, True)
        return out


class FastDevineau(nn.Module):
    """``Devineau`` for inference: (batch, size, channels) -> (batch, classes); scriptable.

    Frames are brought from ``size`` to the network's duration first where they differ. Equal to
    ``Devineau`` to 1e-5; with ``int8`` the first linear layer (99 % of the weights) is held in
    8 bits a weight and the rest stays as it is.

    One gesture is so little arithmetic (2 M multiplications in all convolutions) that the calls
    and the memory touched are what costs. So: products with constant matrices resample the input
    and pool the residual. The frames are cut into overlapping blocks of 10, of which a batched
    product over channels gives 4 outputs each; *low* is zero-padded from 3 to 7 taps, so that both
    branches are batch entries of the same products. Pooling adds two halves of the product, written
    into the zero-padded place where the next layer cuts its blocks; the factor one half is in the
    next layer's weights (exact), and the features' order in the linear layer's columns.
    """

    zoom: Tensor
    eighths: Tensor
    weight1: Tensor
    weight2: Tensor
    weight3: Tensor
    bias1: Tensor
    bias2: Tensor
    bias3: Tensor

    def __init__(self, net: Devineau, size: int | None = None, int8: bool = False) -> None:
        super().__init__()
        size = net.duration if size is None else size
        self.size, self.duration, self.channels = size, net.duration, net.channels
        # Lengths after each pooling, and blocks that cover what each pooling needs.
        t1, t2, t3 = (net.duration >> i for i in (1, 2, 3))
        self.t1, self.t2, self.t3 = t1, t2, t3
        self.n1, self.n2, self.n3 = (-(-2 * t // _STEP) for t in (t1, t2, t3))

        with torch.no_grad():
            zoom = np.eye(1) if size == net.duration else zoom_matrix(size, net.duration).T
            self.register_buffer("zoom", torch.from_numpy(zoom.copy()).float())
            eighths = F.pad(torch.eye(t3).repeat_interleave(8, 0) / 8, (0, 0, 0, net.duration % 8))
            self.register_buffer("eighths", eighths)
            # Both branches see the same input: one product for the two.
            weight, bias = net.both_branches(0)
            maps = _block_weights(weight.view(net.channels, -1, 1, 7)).unflatten(
                2, (2, 2, 2, WIDTHS[1])
            )
            self.register_buffer("weight1", maps.permute(0, 1, 4, 2, 3, 5).flatten(2).contiguous())
            bias = bias.view(-1, 1, 2, 1, 1, WIDTHS[1]).expand(-1, -1, -1, 2, 2, -1)
            self.register_buffer("bias1", bias.flatten(2).contiguous())
            for i, n_blocks in ((1, self.n2), (2, self.n3)):
                weight, bias = net.both_branches(i)
                weight = weight.view(2 * net.channels, -1, WIDTHS[i], 7)
                blocks = _block_weights(0.5 * weight)
                bias = bias.view(2 * net.channels, 1, -1).repeat(1, 1, n_blocks * _STEP)
                self.register_buffer(f"weight{i + 1}", blocks)
                self.register_buffer(f"bias{i + 1}", bias)

            hidden = net.hidden.weight.unflatten(1, (net.channels, N_MAPS, t3))
            maps = 0.5 * hidden[:, :, :-1].unflatten(2, (2, WIDTHS[-1])).transpose(3, 4)
            weight = torch.cat([maps.flatten(1), hidden[:, :, -1].flatten(1)], dim=1).contiguous()
            kind = _Int8Linear if int8 else _SparseLinear
            self.hidden = kind(weight, net.hidden.bias.clone())
            self.output = _Linear(net.output.weight.clone(), net.output.bias.clone())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, size, channels) -> (batch, classes)."""
        if x.dim() != 3 or x.shape[1] != self.size or x.shape[2] != self.channels:
            raise ValueError(f"wants (batch, {self.size}, {self.channels}), got {x.shape}")
        batch, channels = x.shape[0], self.channels
        frames = x.permute(2, 0, 1).reshape(-1, self.size)
        if self.size != self.duration:
            frames = frames.mm(self.zoom)
        past = 4 * self.n1 + 3 - self.duration
        rows = F.pad(frames, [3, past]).unfold(1, 10, 4).contiguous().view(channels, -1, 10)
        y = torch.bmm(rows, self.weight1).add_(self.bias1).relu_()
        y = y.view(channels, batch, self.n1, 2, 2, 16).permute(0, 3, 1, 2, 4, 5)

        y = torch.bmm(_pooled_blocks(y, self.t1, self.n2), self.weight2)
        y = y.view(2 * channels, batch, -1).add_(self.bias2).relu_()
        y = y.view(channels, 2, batch, self.n2, 2, 8)

        y = torch.bmm(_pooled_blocks(y, self.t2, self.n3), self.weight3)
        y = y.view(2 * channels, batch, -1).add_(self.bias3).relu_()
        y = y.view(2 * channels, batch, self.n3, 2, 8)

        maps = (y.select(3, 0) + y.select(3, 1)).view(2 * channels, batch, -1)
        maps = maps.narrow(2, 0, 4 * self.t3).transpose(0, 1).reshape(batch, -1)
        residual = frames.mm(self.eighths).view(channels, batch, self.t3)
        features = torch.cat([maps, residual.transpose(0, 1).reshape(batch, -1)], dim=1)
        out: Tensor = self.output(self.hidden(features).relu_())
        return out


class _OnJoints(nn.Module):
    """The bundle's contract for windowed models: (B, size, 22, 3) -> (B, classes); of other
    channels (B, size, C). With ``coarse_of`` log-probabilities (B, K) of the coarse classes: each
    is the sum of its own."""

    coarse_of: Tensor

    def __init__(self, fast: FastDevineau, coarse_of: Sequence[int]) -> None:
        super().__init__()
        self.fast, self.coarse = fast, max(coarse_of, default=-1) + 1
        self.register_buffer("coarse_of", torch.tensor(coarse_of, dtype=torch.long))

    def forward(self, joints: Tensor) -> Tensor:
        out: Tensor = self.fast(joints.flatten(2))
        if self.coarse > 0:
            empty = torch.zeros(out.shape[0], self.coarse)
            out = empty.index_add(1, self.coarse_of, out.softmax(1)).clamp_min(1e-12).log()
        return out

    @torch.jit.export
    def verify(self, joints: Tensor) -> Tensor:
        """A whole segment (1, T, 22, 3), stretched as gestures are in training -> (1, 1 + classes).
        None is what it cannot say."""
        frames = joints.flatten(2).transpose(1, 2)
        frames = F.interpolate(frames, size=self.fast.size, mode="linear", align_corners=True)
        return F.pad(self(frames.transpose(1, 2).unsqueeze(3)), [1, 0], value=-1e4)


def script_devineau(
    net: Devineau, size: int | None = None, int8: bool = False, coarse_of: Sequence[int] = ()
) -> Any:
    """A frozen TorchScript module (B, size, 22, 3) canonical joints -> logits (B, classes).

    ``size`` frames (default: the network's duration) are zoomed inside to the duration.
    ``verify`` takes a whole segment of any length (see ``recognition``).
    ``coarse_of`` tells each class's coarse one, of which log-probabilities (B, K) are given then.
    Of a network of other channels it takes (B, size, C).
    """
    module = _OnJoints(FastDevineau(net, size, int8), list(coarse_of)).eval()
    return torch.jit.freeze(torch.jit.script(module), preserved_attrs=["verify"])


def export_devineau(
    net: Devineau,
    metadata: Metadata,
    path: str | Path,
    int8: bool = False,
    coarse_of: Sequence[int] = (),
) -> None:
    """Write the network as a windowed model file; ``metadata.size`` is the window.

    coarse_of: see ``script_devineau``. Raises ModelError if metadata and network clash.
    """
    if metadata.kind != "windowed":
        raise ModelError(f"{path}: devineau is a windowed network, metadata says {metadata.kind}")
    if net.channels != CHANNELS:
        raise ModelError(f"{path}: {net.channels} channels; canonical joints are {CHANNELS}")
    save(script_devineau(net, metadata.size, int8, coarse_of), metadata, path)
