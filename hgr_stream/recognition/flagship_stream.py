"""The flagship as it is shipped: its weights as a step with a state.

A gesture as a whole (``flagship.FlagshipNet``) and the last of its steps give the same logits to
1e-5 (tested).
"""

import math

import torch
from torch import Tensor, nn

from .causal import ring_slots
from .features import PALM_LAGS, lag_scales, statistics
from .features import projection_matrix as projection
from .flagship import (
    ATTENTION_LIMIT,
    HISTORY,
    STRIDE,
    FlagshipNet,
    agree,
    describe,
)


class StreamingFlagship(nn.Module):
    """Shipped form: the trained weights as a step with a state, scriptable.

    forward: joints (B, n, 22, 3) metres, state (B, S) -> logits (B, n, 1+C), boundary (B, n, 2),
    embedding (B, n, G*W), state (B, S): the gesture so far, as if it ended at each frame. Output 0
    is none, from ``none_head`` (see ``training.isolated_outputs``). Boundaries are not told (-10
    throughout). ``initial_state(batch)`` begins a gesture. ``classify`` takes a whole one, (1, T,
    22, 3) -> (1, C), and is the last of its steps. With ``coarse`` the C are the coarse classes.

    State: age, palm at the start, metres travelled, ring of past frames, ring of past inputs of
    each layer, then the running statistics (steps, sum, weights, weighted sum; maximum; last)
    and the latest verdict. The G branches lie side by side; their products are batched.
    """

    projection: Tensor
    scales: Tensor
    lags: Tensor
    stem_weight: Tensor
    stem_bias: Tensor
    past_weight: Tensor
    past_bias: Tensor
    now_weight: Tensor
    mix_weight: Tensor
    score_weight: Tensor
    score_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor
    none_weight: Tensor
    none_bias: Tensor
    coarse_of: Tensor
    tap_slots: Tensor
    write_slots: Tensor
    frame_slots: Tensor

    def __init__(
        self, net: FlagshipNet, none_head: nn.Linear | None = None, coarse: bool = False
    ) -> None:
        super().__init__()
        if coarse and not net.coarse:
            raise ValueError("the network has no coarse classes")
        self.coarse, self.give_coarse = net.coarse, coarse
        self.outputs = net.coarse if coarse else net.classes
        self.branches, self.layers = len(net.branches), len(net.dilations)
        self.width, self.attention = net.width, net.attention
        self.wide, self.scores = self.branches * net.width, self.branches * net.attention
        self.history, self.stride, self.limit = HISTORY, STRIDE, ATTENTION_LIMIT
        self.n_slots = 2 * sum(net.dilations)
        #: All rings' lengths divide it, in steps.
        self.period = math.lcm(*(2 * d for d in net.dilations))
        self.wrap = float(self.period * HISTORY * STRIDE << 8)
        self.frame_size = 63
        self.frames_at = 5
        self.layers_at = self.frames_at + HISTORY * self.frame_size
        self.pool_at = self.layers_at + self.n_slots * self.wide
        self.out_at = self.pool_at + 1 + 4 * self.wide + self.scores
        self.size = self.out_at + 1 + self.outputs
        with torch.no_grad():
            self._fold(net, none_head)
        self._index(net.dilations)

    def _fold(self, net: FlagshipNet, none_head: nn.Linear | None) -> None:
        def buffer(name: str, value: Tensor) -> None:
            self.register_buffer(name, value.detach().clone().contiguous())

        buffer("projection", projection())
        buffer("scales", lag_scales())
        buffer("lags", torch.tensor([[float(lag)] for lag in PALM_LAGS]))
        mean, gain = statistics(net.norm_in)
        branches = net.opinions()
        stem = torch.cat([b.stem.weight * gain for b in branches])
        buffer("stem_weight", stem.T)
        buffer("stem_bias", torch.cat([b.stem.bias for b in branches]) - stem @ mean)
        past, bias, now, mixes = [], [], [], []
        for layer in range(self.layers):
            for branch in branches:
                taps, norm, mix = branch.taps[layer], branch.norms[layer], branch.mixes[layer]
                assert isinstance(taps, nn.Linear)
                assert isinstance(mix, nn.Linear)
                assert isinstance(norm, nn.BatchNorm1d)
                mean, gain = statistics(norm)
                gain = norm.weight * gain
                weight = (taps.weight * gain[:, None]).T
                past.append(weight[: 2 * self.width])
                now.append(weight[2 * self.width :])
                bias.append((norm.bias - mean * gain)[None])
                mixes.append(mix.weight.T)

        def layered(parts: list[Tensor]) -> Tensor:
            return torch.stack(parts).view(self.layers, self.branches, *parts[0].shape)

        buffer("past_weight", torch.stack(past))
        buffer("past_bias", torch.stack(bias))
        buffer("now_weight", layered(now))
        buffer("mix_weight", layered(mixes))
        buffer("score_weight", torch.stack([b.score.weight.T for b in branches]))
        buffer("score_bias", torch.stack([b.score.bias[None] for b in branches]))
        buffer("head_weight", torch.stack([b.head.weight.T for b in branches]))
        buffer("head_bias", torch.stack([b.head.bias[None] for b in branches]))
        none = nn.Linear(4 * self.wide, 1)
        nn.init.zeros_(none.weight)
        nn.init.constant_(none.bias, -10.0)
        none = none if none_head is None else none_head
        buffer("none_weight", none.weight.T)
        buffer("none_bias", none.bias)
        buffer("coarse_of", torch.tensor(net.coarse_of, dtype=torch.long))

    def _index(self, dilations: tuple[int, ...]) -> None:
        """Tables phase -> slots: where each layer's two taps lie, and where its input goes."""
        taps, writes = ring_slots(dilations, self.period)
        self.register_buffer("tap_slots", taps)
        self.register_buffer("write_slots", writes)
        frames = [[(phase - lag) % HISTORY for lag in PALM_LAGS] for phase in range(HISTORY)]
        self.register_buffer("frame_slots", torch.tensor(frames))

    @torch.jit.export
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self.size)

    @torch.jit.export
    def weights(self) -> dict[str, Tensor]:
        """By name, for ``steppers``: freezing makes nameless constants of them."""
        return {
            "projection": self.projection,
            "scales": self.scales,
            "stem_weight": self.stem_weight,
            "stem_bias": self.stem_bias,
            "past_weight": self.past_weight,
            "past_bias": self.past_bias,
            "now_weight": self.now_weight,
            "mix_weight": self.mix_weight,
            "score_weight": self.score_weight,
            "score_bias": self.score_bias,
            "head_weight": self.head_weight,
            "head_bias": self.head_bias,
            "none_weight": self.none_weight,
            "none_bias": self.none_bias,
            "coarse_of": self.coarse_of,
            "tap_slots": self.tap_slots,
            "write_slots": self.write_slots,
            "counting": torch.tensor(
                [self.period, self.stride, int(self.wrap), int(self.give_coarse)]
            ),
        }

    @torch.jit.export
    def classify(self, joints: Tensor) -> Tensor:
        state = self.initial_state(joints.shape[0])
        flat = joints.flatten(2)
        for i in range(flat.shape[1]):
            self.step(flat[:, i], state)
        return state[:, self.out_at + 1 :].clone()

    def forward(self, joints: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = state.clone()
        flat = joints.flatten(2)
        outs: list[Tensor] = []
        embeddings: list[Tensor] = []
        for i in range(flat.shape[1]):
            self.step(flat[:, i], state)
            outs.append(state[:, self.out_at :].clone())
            embeddings.append(state[:, self.out_at - self.wide : self.out_at].clone())
        boundary = torch.full((flat.shape[0], flat.shape[1], 2), -10.0)
        return torch.stack(outs, 1), boundary, torch.stack(embeddings, 1), state

    def verdict(self, state: Tensor) -> Tensor:
        """Running statistics -> none's logit and the classes' log-probabilities, (B, 1+C)."""
        w, batch = self.wide, state.shape[0]
        steps, total, weight, weighted, highest, last = state[:, self.pool_at : self.out_at].split(
            [1, w, self.scores, w, w, w], 1
        )
        weighted = weighted.view(batch, self.scores, -1) / weight.unsqueeze(2)
        stats = torch.stack([total / steps, highest, weighted.flatten(1), last], 1)
        # Each branch's four statistics side by side, as in training.
        stats = stats.view(batch, 4, self.branches, self.width).permute(2, 0, 1, 3)
        stats = stats.reshape(self.branches, batch, 4 * self.width)
        out = torch.baddbmm(self.head_bias, stats, self.head_weight).transpose(0, 1)
        coarse, fine = agree(out, self.coarse_of, self.coarse)
        flat = stats.transpose(0, 1).reshape(batch, 4 * w)
        none = torch.addmm(self.none_bias, flat, self.none_weight)
        return torch.cat([none, coarse if self.give_coarse else fine], 1)

    def step(self, frame: Tensor, state: Tensor) -> None:
        """One frame (B, 66) of every hand; ``state`` is advanced in place."""
        batch = frame.shape[0]
        age = state[:, 0:1]
        frames = state[:, self.frames_at : self.layers_at].view(
            batch, self.history, self.frame_size
        )
        projected = frame @ self.projection
        now = projected[:, :63]
        phase = state[:, 0].to(torch.long) % self.history
        at = self.frame_slots[phase].unsqueeze(-1).expand(-1, -1, self.frame_size)
        # What was never written counts as no movement.
        moved = (now.unsqueeze(1) - frames.gather(1, at)) * (age.unsqueeze(-1) >= self.lags)
        state[:, 1:4] = torch.where(age > 0, state[:, 1:4], now[:, 60:])
        state[:, 4] += torch.linalg.vector_norm(moved[:, 0, 60:], dim=1)

        rows = (age[:, 0] % self.stride == 0).nonzero().squeeze(1)
        if rows.shape[0] == batch:
            self.advance(projected, moved, state)
        elif rows.shape[0] > 0:
            part = state[rows]
            self.advance(projected[rows], moved[rows], part)
            state[rows] = part
        at = phase.view(-1, 1, 1).expand(-1, -1, self.frame_size)
        frames.scatter_(1, at, now.unsqueeze(1))
        age = age + 1.0
        # A float counts exactly to 2^24 only; going back by whole periods changes no phase.
        state[:, 0:1] = torch.where(age >= 2.0 * self.wrap, age - self.wrap, age)

    def advance(self, projected: Tensor, moved: Tensor, state: Tensor) -> None:
        """Run the convolutions on a frame and add what they give to the running statistics."""
        batch, w, g = projected.shape[0], self.wide, self.branches
        slots = state[:, self.layers_at : self.pool_at].view(batch, self.n_slots, w)
        # Palm over every lag, joints over lags 1 and 4 (rows 0 and 2 of the lags).
        moves = torch.cat([moved[:, :, 60:].flatten(1), moved[:, 0, :60], moved[:, 2, :60]], 1)
        features = describe(
            projected, moves * self.scales, state[:, 1:4], state[:, 4:5], state[:, 0:1]
        )
        x = torch.addmm(self.stem_bias, features, self.stem_weight).relu()
        x = x.view(batch, g, self.width).transpose(0, 1)

        # The two taps of all layers depend on the past alone: one gather, one batched product.
        phase = state[:, 0].to(torch.long) // self.stride % self.period
        at = self.tap_slots[phase].unsqueeze(-1).expand(-1, -1, w)
        taps = slots.gather(1, at).view(batch, self.layers, 2, g, self.width)
        taps = taps.permute(1, 3, 0, 2, 4).reshape(self.layers * g, batch, 2 * self.width)
        past = torch.baddbmm(self.past_bias, taps, self.past_weight)
        past = past.view(self.layers, g, batch, self.width)
        inputs: list[Tensor] = []
        for layer in range(self.layers):
            inputs.append(x)
            h = torch.baddbmm(past[layer], x, self.now_weight[layer]).relu()
            x = torch.baddbmm(x, h, self.mix_weight[layer])
        x = x.relu()
        at = self.write_slots[phase].unsqueeze(-1).expand(-1, -1, w)
        new = torch.stack(inputs, 0).permute(2, 0, 1, 3).reshape(batch, self.layers, w)
        slots.scatter_(1, at, new)

        pool = state[:, self.pool_at : self.out_at]
        weight = torch.baddbmm(self.score_bias, x, self.score_weight)
        weight = weight.clamp(-self.limit, self.limit).exp().transpose(0, 1).reshape(batch, -1)
        x = x.transpose(0, 1).reshape(batch, w)
        each = x.view(batch, self.scores, -1) * weight.unsqueeze(2)
        sums, highest, last = pool.split([1 + 2 * w + self.scores, w, w], 1)
        sums.add_(torch.cat([torch.ones_like(x[:, :1]), x, weight, each.flatten(1)], 1))
        torch.maximum(highest, x, out=highest)
        last.copy_(x)
        state[:, self.out_at :] = self.verdict(state)


def export(
    net: FlagshipNet, none_head: nn.Linear | None = None, coarse: bool = False
) -> torch.jit.ScriptModule:
    """The trained network as one frozen TorchScript module that keeps the streaming contract."""
    module = StreamingFlagship(net.eval(), none_head, coarse).eval()
    frozen: torch.jit.ScriptModule = torch.jit.freeze(
        torch.jit.script(module), preserved_attrs=["initial_state", "classify", "weights"]
    )
    return frozen
