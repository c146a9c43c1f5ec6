"""The causal network: joints in, class, boundaries and embedding out, one frame at a time.

In the order in which data passes through it: ``Features`` (palm-relative joints, bone directions,
fingertip distances, movements over several lags), ``CausalNet`` (the form that is trained: a
dilated residual causal convolution over whole sequences) and ``StreamingNet`` (the same weights
as a step with a state, the form that is shipped). Step and sequence agree to 1e-5 (tested). Once
a gesture is over, ``SegmentVerifier`` judges it as a whole and ``SegmentDater`` dates its ends.

Nothing here sees where the hand is, only how it is shaped, turned and moved: the origin of one
sensor's coordinates means nothing to another (SHREC'21's hands float 2.3 m above theirs). Axes
stay aligned with gravity. Joints 1 (palm, derived) and 2 (thumb base, which some sensors invent)
are not looked at.

The state of a hand is one flat vector, so that it can be kept, sent and restored by anyone:
``[age, phase, ring of past frames, ring of past inputs of each layer]``. Each layer of dilation d
reads its input d and 2d steps ago; those two reads of *all* layers depend on the past alone, so
one gather and one batched product do them before the layers run: that is what keeps a step at
some tens of microseconds.
"""

import copy
import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..skeleton import MIDDLE_BASE, N_JOINTS, WRIST

USED_JOINTS: Final = (0, *range(3, 22))  # 20: neither palm (1) nor thumb base (2)
FINGER_BONES: Final = (
    (3, 4),
    (4, 5),
    *((base + i, base + i + 1) for base in (6, 10, 14, 18) for i in range(3)),
)
TIPS: Final = (5, 9, 13, 17, 21)
TIP_PAIRS: Final = tuple((a, b) for i, a in enumerate(TIPS) for b in TIPS[i + 1 :])
#: Frames back over which movement is measured (of the palm; of the joints relative to it).
PALM_LAGS: Final = (1, 2, 4, 8, 16)
JOINT_LAGS: Final = (1, 4)
HISTORY: Final = 16  # frames of past that the features need: the longest lag
N_LOCAL: Final = 3 * len(USED_JOINTS)
N_FEATURES: Final = (
    N_LOCAL
    + 3 * len(FINGER_BONES)
    + len(TIP_PAIRS)
    + len(TIPS)
    + 3 * len(PALM_LAGS)
    + N_LOCAL * len(JOINT_LAGS)
)


def projection_matrix() -> Tensor:
    """(66, K): flat joints -> palm-relative joints, palm, bone vectors, tip pairs, tip-palm.

    All are linear in the joints, so that one product makes them all.
    """
    palm = {WRIST: 0.5, MIDDLE_BASE: 0.5}
    rows: list[dict[int, float]] = []
    for joint in USED_JOINTS:
        row = {joint: 1.0}
        for j, w in palm.items():
            row[j] = row.get(j, 0.0) - w
        rows.append(row)
    rows.append(palm)
    rows += [{child: 1.0, parent: -1.0} for parent, child in FINGER_BONES]
    rows += [{a: 1.0, b: -1.0} for a, b in TIP_PAIRS]
    rows += [{tip: 1.0, **{j: -w for j, w in palm.items()}} for tip in TIPS]
    matrix = torch.zeros(N_JOINTS * 3, len(rows) * 3)
    for i, row in enumerate(rows):
        for joint, weight in row.items():
            for axis in range(3):
                matrix[3 * joint + axis, 3 * i + axis] = weight
    return matrix


def _lag_scales() -> Tensor:
    """Brings movements of every lag to about unit size: typical speeds are below 1 m/s."""
    palm = [20.0 / math.sqrt(lag) for lag in PALM_LAGS for _ in range(3)]
    joints = [40.0 / math.sqrt(lag) for lag in JOINT_LAGS for _ in range(N_LOCAL)]
    return torch.tensor(palm + joints)


def shape_features(projected: Tensor) -> Tensor:
    """(..., K) of the projection -> (..., n) features of one frame: pose, bones, distances."""
    n_bones, n_pairs = 14, 15
    vectors = projected[..., 63:].unflatten(-1, [n_bones + n_pairs, 3])
    norms = torch.linalg.vector_norm(vectors, dim=-1)
    bones = vectors[..., :n_bones, :] / norms[..., :n_bones, None].clamp_min(1e-3)
    return torch.cat(
        [projected[..., :60] * 15.0, bones.flatten(-2) * 1.5, norms[..., n_bones:] * 15.0], -1
    )


def statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm to be folded: its mean, and what to multiply by (without its own weight)."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, (norm.running_var + norm.eps).rsqrt()


class Features(nn.Module):
    """(B, T, 22, 3) metres -> (B, T, N_FEATURES), causal; movements are zero before their lag."""

    projection: Tensor
    lag_scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", projection_matrix(), persistent=False)
        self.register_buffer("lag_scales", _lag_scales(), persistent=False)

    def forward(self, joints: Tensor) -> Tensor:
        projected = joints.flatten(-2) @ self.projection
        palm, local = projected[..., 60:63], projected[..., :60]
        moves = [self._moved(palm, lag) for lag in PALM_LAGS]
        moves += [self._moved(local, lag) for lag in JOINT_LAGS]
        moved = torch.cat(moves, -1) * self.lag_scales
        # A glitch (a hand metres away for one frame) must not drown everything else.
        return torch.cat([shape_features(projected), moved], -1).clamp(-5.0, 5.0)

    @staticmethod
    def _moved(x: Tensor, lag: int) -> Tensor:
        return F.pad(x[:, lag:] - x[:, :-lag], (0, 0, min(lag, x.shape[1]), 0))


class CausalNet(nn.Module):
    """Training form. (B, T, 22, 3) -> logits (B, T, 1+C), boundary (B, T, 2), embedding (B, T, W).

    classes: C gestures, class 0 being none. Receptive field: 1 + 2 * sum(dilations) frames.
    Batch norm takes its statistics over batch *and* time, so it stays shift-equivariant, and
    folds into the products when the network is shipped.
    """

    def __init__(
        self,
        classes: int,
        width: int = 112,
        dilations: tuple[int, ...] = (1, 1, 2, 4, 8, 16),
        dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.classes, self.width, self.dilations, self.dropout = classes, width, dilations, dropout
        self.features = Features()
        self.norm_in = nn.BatchNorm1d(N_FEATURES, affine=False)
        self.stem = nn.Linear(N_FEATURES, width)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=d, bias=False) for d in dilations
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in dilations)
        # No bias: a past that has not been is zero in the step form, and must be zero here too.
        self.mixes = nn.ModuleList(nn.Conv1d(width, width, 1, bias=False) for _ in dilations)
        self.head = nn.Linear(width, 1 + classes + 2)

    def forward(self, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Whole channels are dropped: it regularises no worse than single values, and drawing
        # a number for each of those took a fifth of the training time.
        x = self.norm_in(self.features(joints).transpose(1, 2))
        x = F.dropout1d(x, 0.5 * self.dropout, self.training).transpose(1, 2)
        x = F.relu(self.stem(x)).transpose(1, 2)
        for conv, norm, mix, d in zip(
            self.convs, self.norms, self.mixes, self.dilations, strict=True
        ):
            h = F.relu(norm(conv(F.pad(x, (2 * d, 0)))))
            x = x + mix(F.dropout1d(h, self.dropout, self.training))
        x = F.relu(x)
        out = self.head(F.dropout1d(x, self.dropout, self.training).transpose(1, 2))
        return out[..., : 1 + self.classes], out[..., 1 + self.classes :], x.transpose(1, 2)


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


class SegmentVerifier(nn.Module):
    """Looks once more at a whole segment: (B, T, 22, 3), any T >= 2 -> logits (B, 1+C).

    Not causal, and not shared with the stream's network: an independent second opinion, trained
    on idle stretches, halves and wrong boundaries too (class 0: none of the gestures). It
    resamples the segment to ``LENGTH`` frames itself and is told the duration.
    """

    LENGTH: Final = 32
    projection: Tensor

    def __init__(self, classes: int, rate_hz: float, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.rate_hz, self.length = rate_hz, self.LENGTH
        self.register_buffer("projection", projection_matrix(), persistent=False)
        n_in = 60 + 42 + 15 + 3 + 3 + 1
        self.norm_in = nn.BatchNorm1d(n_in, affine=False)
        self.conv1 = nn.Conv1d(n_in, width, 5, padding=2)
        self.norm1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm1d(width)
        self.conv3 = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.norm3 = nn.BatchNorm1d(2 * width)
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
        x = segment_features(x, frames, self.projection, self.rate_hz)
        x = self.norm_in(x.transpose(1, 2))
        x = F.max_pool1d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.norm2(self.conv2(self.dropout(x)))), 2)
        x = F.relu(self.norm3(self.conv3(self.dropout(x))))
        return self.head(self.dropout(torch.cat([x.mean(-1), x.amax(-1)], -1)))  # type: ignore[no-any-return]

    def weights(self) -> dict[str, Tensor]:
        """By name, with the batch norms folded, see ``folded``."""
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
            "head.weight": self.head.weight,
            "head.bias": self.head.bias,
        }


class SegmentDater(nn.Module):
    """Dates a segment's ends: (B, T, 22, 3), the segment and ``MARGIN_S`` on either side of it
    -> (B, 2) seconds by which its start and its end should be moved.

    It sees what came before and after, and the gesture as a whole, neither of which the stream's
    network does when it tells a boundary.
    """

    LENGTH: Final = 32
    MARGIN_S: Final = 0.24
    projection: Tensor

    def __init__(self, rate_hz: float, width: int = 40, dropout: float = 0.1) -> None:
        super().__init__()
        self.rate_hz, self.length = rate_hz, self.LENGTH
        #: Frames on either side of the segment.
        self.margin = round(self.MARGIN_S * rate_hz)
        self.register_buffer("projection", projection_matrix(), persistent=False)
        self.norm_in = nn.BatchNorm1d(125, affine=False)
        self.conv1 = nn.Conv1d(125, width, 5, padding=2)
        self.norm1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm1d(width)
        self.conv3 = nn.Conv1d(width, width, 3, padding=1)
        self.norm3 = nn.BatchNorm1d(width)
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
            "head.weight": self.head.weight,
            "head.bias": self.head.bias,
            "mix.weight": self.mix.weight,
            "mix.bias": self.mix.bias,
            "margin": torch.tensor([self.margin]),
        }


def folded(net: SegmentVerifier | SegmentDater) -> Any:
    """A copy with its batch norms folded into the convolutions, as freezing would do."""
    net = copy.deepcopy(net).eval()
    for i in (1, 2, 3):
        conv, norm = getattr(net, f"conv{i}"), getattr(net, f"norm{i}")
        setattr(net, f"conv{i}", fuse_conv_bn_eval(conv, norm))
        setattr(net, f"norm{i}", nn.Identity())
    return net


class StreamingNet(nn.Module):
    """Shipped form: the trained weights as a step with a state, scriptable.

    forward: joints (B, n, 22, 3) metres, state (B, S) -> logits (B, n, 1+C), boundary (B, n, 2),
    embedding (B, n, W), state (B, S). ``initial_state(batch)`` gives a new track's state.
    ``verify`` is the segment verifier's verdict; ``refine`` are the dater's shifts (none: zeros).
    """

    projection: Tensor
    lag_scales: Tensor
    lags: Tensor
    stem_weight: Tensor
    stem_bias: Tensor
    past_weight: Tensor
    past_bias: Tensor
    now_weight: Tensor
    mix_weight: Tensor
    head_weight: Tensor
    head_bias: Tensor
    tap_slots: Tensor
    write_slots: Tensor
    frame_slots: Tensor
    frame_write: Tensor

    def __init__(
        self, net: CausalNet, verifier: SegmentVerifier, dater: SegmentDater | None = None
    ) -> None:
        super().__init__()
        self.verifier = folded(verifier)
        self.dater = None if dater is None else folded(dater)
        self.outputs = 1 + net.classes
        self.width, self.layers = net.width, len(net.dilations)
        self.n_slots = 2 * sum(net.dilations)
        self.dilations = list(net.dilations)
        self.palm_lags, self.joint_lags = list(PALM_LAGS), list(JOINT_LAGS)
        #: All rings' lengths divide it.
        self.period = math.lcm(HISTORY, *(2 * d for d in net.dilations))
        self.history, self.frames_at, self.frame_size = HISTORY, 2, 63
        self.layers_at = self.frames_at + HISTORY * self.frame_size
        self.size = self.layers_at + self.n_slots * self.width
        with torch.no_grad():
            self._fold(net)
        self._index(net.dilations)

    def _fold(self, net: CausalNet) -> None:
        def buffer(name: str, value: Tensor) -> None:
            self.register_buffer(name, value.detach().clone().contiguous())

        buffer("projection", projection_matrix())
        buffer("lag_scales", _lag_scales())
        buffer("lags", torch.tensor([[float(lag)] for lag in PALM_LAGS]))
        mean, gain = statistics(net.norm_in)
        stem = net.stem.weight * gain
        buffer("stem_weight", stem.T)
        buffer("stem_bias", net.stem.bias - stem @ mean)
        past, bias, now, mixes = [], [], [], []
        for conv, norm, mix in zip(net.convs, net.norms, net.mixes, strict=True):
            assert isinstance(conv, nn.Conv1d)
            assert isinstance(mix, nn.Conv1d)
            assert isinstance(norm, nn.BatchNorm1d)
            mean, gain = statistics(norm)
            gain = norm.weight * gain
            weight = conv.weight * gain[:, None, None]
            # Taps of a conv kernel are ordered oldest first: 2d ago, d ago, now.
            past.append(torch.cat([weight[:, :, 0].T, weight[:, :, 1].T]))
            now.append(weight[:, :, 2].T)
            bias.append((norm.bias - mean * gain)[None])
            mixes.append(mix.weight[:, :, 0].T)
        buffer("past_weight", torch.stack(past))
        buffer("past_bias", torch.stack(bias))
        buffer("now_weight", torch.stack(now))
        buffer("mix_weight", torch.stack(mixes))
        buffer("head_weight", net.head.weight.T)
        buffer("head_bias", net.head.bias)

    def _index(self, dilations: tuple[int, ...]) -> None:
        """Tables phase -> slots: where each layer's two taps lie, and where its input goes."""
        taps, writes, frames = [], [], []
        for phase in range(self.period):
            row, write, at = [], [], 0
            for d in dilations:
                row += [at + phase % (2 * d), at + (phase + d) % (2 * d)]
                write.append(at + phase % (2 * d))
                at += 2 * d
            taps.append(row)
            writes.append(write)
            frames.append([(phase - lag) % HISTORY for lag in PALM_LAGS])
        self.register_buffer("tap_slots", torch.tensor(taps))
        self.register_buffer("write_slots", torch.tensor(writes))
        self.register_buffer("frame_slots", torch.tensor(frames))
        self.register_buffer("frame_write", torch.arange(self.period) % HISTORY)

    @torch.jit.export
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.size)

    @torch.jit.export
    def verify(self, joints: Tensor) -> Tensor:
        return self.verifier(joints)  # type: ignore[no-any-return]

    @torch.jit.export
    def refine(self, joints: Tensor) -> Tensor:
        if self.dater is None:
            return torch.zeros(joints.shape[0], 2)
        return self.dater(joints)  # type: ignore[no-any-return]

    @torch.jit.export
    def weights(self) -> dict[str, Tensor]:
        """By name, for ``steppers``: freezing makes nameless constants of them."""
        named = {
            "projection": self.projection,
            "lag_scales": self.lag_scales,
            "stem_weight": self.stem_weight,
            "stem_bias": self.stem_bias,
            "past_weight": self.past_weight,
            "past_bias": self.past_bias,
            "now_weight": self.now_weight,
            "mix_weight": self.mix_weight,
            "head_weight": self.head_weight,
            "head_bias": self.head_bias,
            "tap_slots": self.tap_slots,
            "write_slots": self.write_slots,
        }
        for name, value in self.verifier.weights().items():
            named["verifier." + name] = value
        if self.dater is not None:
            for name, value in self.dater.weights().items():
                named["dater." + name] = value
        return named

    def forward(self, joints: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if joints.shape[1] >= 4:
            return self.block(joints.flatten(2), state)
        outs: list[Tensor] = []
        embeddings: list[Tensor] = []
        state = state.clone()
        flat = joints.flatten(2)
        for i in range(flat.shape[1]):
            out, embedding = self.step(flat[:, i], state)
            outs.append(out)
            embeddings.append(embedding)
        out = torch.stack(outs, 1)
        return (
            out[..., : self.outputs],
            out[..., self.outputs :],
            torch.stack(embeddings, 1),
            state,
        )

    def step(self, frame: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame (B, 66) of every hand; ``state`` is advanced in place."""
        batch = frame.shape[0]
        age = state[:, 0:1]
        phase = state[:, 1].to(torch.long)
        frames = state[:, self.frames_at : self.layers_at].view(
            batch, self.history, self.frame_size
        )
        slots = state[:, self.layers_at :].view(batch, self.n_slots, self.width)

        projected = frame @ self.projection
        now = projected[:, :63]
        at = self.frame_slots[phase].unsqueeze(-1).expand(-1, -1, self.frame_size)
        before = frames.gather(1, at)
        moved = (now.unsqueeze(1) - before) * (age.unsqueeze(-1) >= self.lags)
        # Palm over every lag, joints over lags 1 and 4 (rows 0 and 2 of the lags).
        moves = torch.cat([moved[:, :, 60:].flatten(1), moved[:, 0, :60], moved[:, 2, :60]], 1)
        features = torch.cat([shape_features(projected), moves * self.lag_scales], 1)
        x = torch.addmm(self.stem_bias, features.clamp(-5.0, 5.0), self.stem_weight).relu()

        at = self.tap_slots[phase].unsqueeze(-1).expand(-1, -1, self.width)
        taps = slots.gather(1, at).view(batch, self.layers, 2 * self.width).transpose(0, 1)
        past = torch.baddbmm(self.past_bias, taps, self.past_weight)
        inputs: list[Tensor] = []
        for layer in range(self.layers):
            inputs.append(x)
            h = torch.addmm(past[layer], x, self.now_weight[layer]).relu()
            x = torch.addmm(x, h, self.mix_weight[layer])
        x = x.relu()
        out = torch.addmm(self.head_bias, x, self.head_weight)

        at = self.write_slots[phase].unsqueeze(-1).expand(-1, -1, self.width)
        slots.scatter_(1, at, torch.stack(inputs, 1))
        at = self.frame_write[phase].view(-1, 1, 1).expand(-1, -1, self.frame_size)
        frames.scatter_(1, at, now.unsqueeze(1))
        state[:, 0:1] = (age + 1.0).clamp_max(float(self.history))
        state[:, 1] = ((phase + 1) % self.period).to(state.dtype)
        return out, x

    def block(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Many frames (B, n, 66) at once: each layer runs over all of them. For files and bursts.

        The same sums as ``step`` in another order, at a tenth of the cost.
        """
        batch, n = frames.shape[0], frames.shape[1]
        age = state[:, 0]
        phase = state[:, 1].to(torch.long)
        phase_after = (phase + n) % self.period
        age_after = (age + n).clamp_max(float(self.history))
        parts: list[Tensor] = [torch.stack([age_after, phase_after.to(state.dtype)], 1)]

        projected = frames @ self.projection
        ring = state[:, self.frames_at : self.layers_at].view(batch, self.history, self.frame_size)
        past = ring.gather(1, self.ordered(phase, self.history, self.frame_size))
        seen = torch.cat([past, projected[:, :, :63]], 1)
        parts.append(self.rolled(seen, phase_after, self.history))
        ages = age.unsqueeze(1) + torch.arange(n)
        palm_moves: list[Tensor] = []
        joint_moves: list[Tensor] = []
        for lag in self.palm_lags:
            at = self.history - lag
            moved = seen[:, self.history :] - seen[:, at : at + n]
            moved = moved * (ages >= lag).unsqueeze(-1)
            palm_moves.append(moved[:, :, 60:])
            if lag in self.joint_lags:
                joint_moves.append(moved[:, :, :60])
        moves = torch.cat(palm_moves + joint_moves, 2) * self.lag_scales
        features = torch.cat([shape_features(projected), moves], 2).clamp(-5.0, 5.0)
        x = (features @ self.stem_weight + self.stem_bias).relu()

        at = self.layers_at
        for layer, d in enumerate(self.dilations):
            ring = state[:, at : at + 2 * d * self.width].view(batch, 2 * d, self.width)
            at += 2 * d * self.width
            past = ring.gather(1, self.ordered(phase, 2 * d, self.width))
            seen = torch.cat([past, x], 1)
            parts.append(self.rolled(seen, phase_after, 2 * d))
            taps = torch.cat([seen[:, :n], seen[:, d : d + n]], 2)
            h = taps @ self.past_weight[layer] + self.past_bias[layer] + x @ self.now_weight[layer]
            x = x + h.relu() @ self.mix_weight[layer]
        x = x.relu()
        out = x @ self.head_weight + self.head_bias
        return (
            out[..., : self.outputs],
            out[..., self.outputs :],
            x,
            torch.cat(parts, 1),
        )

    def ordered(self, phase: Tensor, length: int, width: int) -> Tensor:
        """Gather index that reads a ring from its oldest entry on: (B, length, width)."""
        at = (phase.unsqueeze(1) + torch.arange(length)) % length
        return at.unsqueeze(-1).expand(-1, -1, width)

    def rolled(self, seen: Tensor, phase: Tensor, length: int) -> Tensor:
        """The last ``length`` entries as a ring at ``phase``, flat: (B, length * width)."""
        last = seen[:, seen.shape[1] - length :]
        ring = torch.empty_like(last)
        ring.scatter_(1, self.ordered(phase, length, last.shape[2]), last)
        return ring.flatten(1)


def export(
    net: CausalNet, verifier: SegmentVerifier, dater: SegmentDater | None = None
) -> torch.jit.ScriptModule:
    """What was trained as one frozen TorchScript module that keeps the streaming contract."""
    module = StreamingNet(net.eval(), verifier.eval(), dater.eval() if dater else None).eval()
    scripted = torch.jit.script(module)
    frozen: torch.jit.ScriptModule = torch.jit.freeze(
        scripted, preserved_attrs=["initial_state", "verify", "refine", "weights"]
    )
    return frozen
