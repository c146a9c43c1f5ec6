"""The causal network: joints in, class, boundaries and embedding out, one frame at a time.

In the order in which data passes through it: ``features``, ``CausalNet`` (the form that is trained:
a dilated residual causal convolution over whole sequences) and ``StreamingNet`` (the same weights
as a step with a state, the form that is shipped). Step and sequence agree to 1e-5 (tested). Once
a gesture is over, ``segments`` judges it as a whole and dates its ends.

The state of a hand is one flat vector, so that it can be kept, sent and restored by anyone:
``[age, phase, ring of past frames, ring of past inputs of each layer]``. Each layer of dilation d
reads its input d and 2d steps ago; those two reads of *all* layers depend on the past alone, so
one gather and one batched product do them before the layers run: that is what keeps a step at
some tens of microseconds.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .features import (
    HISTORY,
    JOINT_LAGS,
    N_FEATURES,
    PALM_LAGS,
    Features,
    lag_scales,
    projection_matrix,
    shape_features,
    statistics,
)
from .segments import SegmentDater, SegmentVerifier, folded


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


def ring_slots(dilations: tuple[int, ...], period: int) -> tuple[Tensor, Tensor]:
    """Tables phase -> slots of all layers' rings, side by side: (period, 2 L) where the two taps of
    each lie, (period, L) where its input goes. A layer of dilation d has a ring of 2d slots."""
    taps, writes = [], []
    for phase in range(period):
        row, write, at = [], [], 0
        for d in dilations:
            row += [at + phase % (2 * d), at + (phase + d) % (2 * d)]
            write.append(at + phase % (2 * d))
            at += 2 * d
        taps.append(row)
        writes.append(write)
    return torch.tensor(taps), torch.tensor(writes)


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
        buffer("lag_scales", lag_scales())
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
        taps, writes = ring_slots(dilations, self.period)
        self.register_buffer("tap_slots", taps)
        self.register_buffer("write_slots", writes)
        frames = [[(phase - lag) % HISTORY for lag in PALM_LAGS] for phase in range(self.period)]
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
