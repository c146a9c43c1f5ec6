"""Once a gesture is over: ``SegmentVerifier`` judges it whole, ``SegmentDater`` dates its ends.

Both see the whole segment, stretched to one length.
"""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .features import projection_matrix, shape_features

N_FEATURES: Final = 60 + 42 + 15 + 3 + 3 + 1  #: of ``segment_features``


def stretched(joints: Tensor, length: int) -> Tensor:
    """(B, T, 22, 3) -> (B, length, 66), linear."""
    x = F.interpolate(
        joints.flatten(2).transpose(1, 2), size=[length], mode="linear", align_corners=True
    )
    return x.transpose(1, 2)


def segment_features(x: Tensor, frames: Tensor, projection: Tensor, rate_hz: float) -> Tensor:
    """Stretched (B, L, 66), and the frames (B,) that each had before -> (B, L, 124)."""
    projected = x @ projection
    palm = projected[..., 60:63]
    step = F.pad(palm[:, 1:] - palm[:, :-1], (0, 0, 1, 0)) * 60.0
    path = (palm - palm.mean(1, keepdim=True)) * 10.0
    duration = (frames / rate_hz).log().view(-1, 1, 1).expand(-1, x.shape[1], 1)
    return torch.cat([shape_features(projected), path, step, duration], -1).clamp(-5.0, 5.0)


class _SegmentNet(nn.Module):
    """What both are made of: three convolutions over the features of the stretched segment."""

    LENGTH: Final = 32
    projection: Tensor

    def __init__(self, rate_hz: float, n_in: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.rate_hz, self.length = rate_hz, self.LENGTH
        self.register_buffer("projection", projection_matrix(), persistent=False)
        self.norm_in = nn.BatchNorm1d(n_in, affine=False)
        self.conv1 = nn.Conv1d(n_in, widths[0], 5, padding=2)
        self.norm1 = nn.BatchNorm1d(widths[0])
        self.conv2 = nn.Conv1d(widths[0], widths[1], 3, padding=1)
        self.norm2 = nn.BatchNorm1d(widths[1])
        self.conv3 = nn.Conv1d(widths[1], widths[2], 3, padding=1)
        self.norm3 = nn.BatchNorm1d(widths[2])

    def trunk_weights(self) -> dict[str, Tensor]:
        """All before the heads by name, with the batch norms folded, see ``folded``."""
        mean, var = self.norm_in.running_mean, self.norm_in.running_var
        bias1, bias2, bias3 = self.conv1.bias, self.conv2.bias, self.conv3.bias
        assert mean is not None and var is not None  # noqa: PT018
        assert bias1 is not None and bias2 is not None and bias3 is not None  # noqa: PT018
        return {
            "mean": mean,
            "gain": (var + self.norm_in.eps).rsqrt(),
            "conv1.weight": self.conv1.weight,
            "conv1.bias": bias1,
            "conv2.weight": self.conv2.weight,
            "conv2.bias": bias2,
            "conv3.weight": self.conv3.weight,
            "conv3.bias": bias3,
        }


class SegmentVerifier(_SegmentNet):
    """Looks once more at a whole segment: (B, T, 22, 3), any T >= 2 -> logits (B, 1+C).

    Not causal, and not shared with the stream's network: an independent second opinion, trained
    on idle stretches, halves and wrong boundaries too (class 0: none of the gestures). It
    resamples the segment to ``LENGTH`` frames itself and is told the duration.
    """

    def __init__(self, classes: int, rate_hz: float, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__(rate_hz, N_FEATURES, (width, width, 2 * width))
        self.head = nn.Linear(4 * width, 1 + classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, joints: Tensor) -> Tensor:
        frames = torch.full((joints.shape[0],), float(joints.shape[1]))
        return self.classify(self.resampled(joints), frames)

    def resampled(self, joints: Tensor) -> Tensor:
        """(B, T, 22, 3) -> (B, LENGTH, 66), linear."""
        return stretched(joints, self.length)

    def classify(self, x: Tensor, frames: Tensor) -> Tensor:
        """Resampled (B, LENGTH, 66) and the frames (B,) that each had before -> logits."""
        return self.head(self.pooled(x, frames))  # type: ignore[no-any-return]

    def pooled(self, x: Tensor, frames: Tensor) -> Tensor:
        """What the head judges by: as ``classify`` -> (B, 4 * width)."""
        x = segment_features(x, frames, self.projection, self.rate_hz)
        x = self.norm_in(x.transpose(1, 2))
        x = F.max_pool1d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.norm2(self.conv2(self.dropout(x)))), 2)
        x = F.relu(self.norm3(self.conv3(self.dropout(x))))
        return self.dropout(torch.cat([x.mean(-1), x.amax(-1)], -1))  # type: ignore[no-any-return]

    def weights(self) -> dict[str, Tensor]:
        """By name, with the batch norms folded, see ``folded``."""
        w = self.trunk_weights()
        w["head.weight"], w["head.bias"] = self.head.weight, self.head.bias
        return w


class SegmentDater(_SegmentNet):
    """Dates a segment's ends: (B, T, 22, 3), the segment and ``MARGIN_S`` on either side of it
    -> (B, 2) seconds by which its start and its end should be moved.

    It sees what came before and after, and the gesture as a whole, neither of which the stream's
    network does when it tells a boundary.
    """

    MARGIN_S: Final = 0.24

    def __init__(self, rate_hz: float, width: int = 40, dropout: float = 0.1) -> None:
        # One feature more: whether a frame is of the segment or of its margins.
        super().__init__(rate_hz, N_FEATURES + 1, (width, width, width))
        #: Frames on either side of the segment.
        self.margin = round(self.MARGIN_S * rate_hz)
        self.mix = nn.Linear(self.LENGTH // 4 * width, width)
        self.head = nn.Linear(width, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, joints: Tensor) -> Tensor:
        frames = torch.full((joints.shape[0],), float(joints.shape[1]))
        return self.shifts(stretched(joints, self.length), frames)

    def shifts(self, x: Tensor, frames: Tensor) -> Tensor:
        """Stretched (B, LENGTH, 66) and the frames (B,) that each had before -> (B, 2) seconds."""
        place = torch.linspace(0.0, 1.0, x.shape[1]) * (frames.unsqueeze(1) - 1.0)
        inside = (place > self.margin - 0.5) & (place < frames.unsqueeze(1) - self.margin - 0.5)
        x = segment_features(x, frames, self.projection, self.rate_hz)
        x = self.norm_in(torch.cat([x, inside.unsqueeze(-1).to(x.dtype)], -1).transpose(1, 2))
        x = F.max_pool1d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.relu(self.norm3(self.conv3(x)))
        return self.head(F.relu(self.mix(self.dropout(x.flatten(1)))))  # type: ignore[no-any-return]

    def weights(self) -> dict[str, Tensor]:
        """By name, with the batch norms folded, see ``folded``."""
        w = self.trunk_weights()
        w["head.weight"], w["head.bias"] = self.head.weight, self.head.bias
        w["mix.weight"], w["mix.bias"] = self.mix.weight, self.mix.bias
        w["margin"] = torch.tensor([self.margin])
        return w


def folded(net: SegmentVerifier | SegmentDater) -> Any:
    """A copy with its batch norms folded into the convolutions, as freezing would do."""
    net = copy.deepcopy(net).eval()
    for i in (1, 2, 3):
        conv, norm = getattr(net, f"conv{i}"), getattr(net, f"norm{i}")
        setattr(net, f"conv{i}", fuse_conv_bn_eval(conv, norm))
        setattr(net, f"norm{i}", nn.Identity())
    return net
