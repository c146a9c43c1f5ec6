"""The flagship: a small causal network for whole gestures that also runs frame by frame.

In the order in which data passes through it: ``describe`` (pose in gravity's axes and in the
palm's own, bone directions, fingertip distances, movements over several lags, where the palm is,
how far it came), ``FlagshipNet`` (a few narrow dilated residual causal convolutions, averaged,
whose pooling over time is a *running* statistic: mean, maximum and a softmax-weighted mean) and
``StreamingFlagship`` (the same weights as a step with a state, the form that is shipped). A
gesture as a whole and the last of its steps give the same logits to 1e-5 (tested).

A gesture begins where its state begins: the distance from the start, the age and the running
statistics count from there. The convolutions run on every second frame (frames 0, 2, 4, ... of
the gesture); features look at all of them.

Unlike ``causal`` this network sees where the palm is: in SHREC'17 that is worth a point, and the
sensor stands before the user in all of its recordings.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .causal import ring_slots
from .features import JOINT_LAGS, PALM_LAGS, shape_features, statistics
from .features import projection_matrix as projection

LAGS: Final = tuple(sorted({*PALM_LAGS, *JOINT_LAGS}))
HISTORY: Final = max(LAGS)
STRIDE: Final = 2  # frames from one run of the convolutions to the next
N_POSE: Final = 117 + 57 + 6
N_MOVES: Final = 3 * len(PALM_LAGS) + 60 * len(JOINT_LAGS)
N_PLACE: Final = 3 + 3 + 1 + 1
N_FEATURES: Final = N_POSE + N_MOVES + N_PLACE
ATTENTION_LIMIT: Final = 8.0  # exp of it still sums well in float32


def move_scales() -> Tensor:
    """Brings movements of every lag to about unit size: typical speeds are below 1 m/s."""
    palm = [20.0 / math.sqrt(lag) for lag in PALM_LAGS for _ in range(3)]
    joints = [40.0 / math.sqrt(lag) for lag in JOINT_LAGS for _ in range(60)]
    return torch.tensor(palm + joints)


def palm_frame(local: Tensor) -> Tensor:
    """(N, 20, 3) joints about the palm -> (N, 57 + 6): fingers in the palm's axes, two axes.

    Grab, pinch and expand are the same in these axes however the hand is held.
    """
    forward = F.normalize(local[:, 8] - local[:, 0], dim=-1, eps=1e-4)
    across = local[:, 4] - local[:, 16]  # pinky's knuckle to index finger's
    across = across - (across * forward).sum(-1, keepdim=True) * forward
    across = F.normalize(across, dim=-1, eps=1e-4)
    normal = torch.linalg.cross(forward, across, dim=-1)
    axes = torch.stack([forward, across, normal], -1)  # columns
    fingers = torch.bmm(local[:, 1:], axes)
    return torch.cat([fingers.flatten(1) * 15.0, forward * 1.5, normal * 1.5], 1)


def describe(projected: Tensor, moves: Tensor, start: Tensor, path: Tensor, age: Tensor) -> Tensor:
    """Everything about one frame: (N, K) of the projection, scaled moves (N, 135), the palm at
    the start (N, 3), metres travelled (N, 1) and frames seen before (N, 1) -> (N, N_FEATURES)."""
    palm = projected[:, 60:63]
    place = torch.cat(
        [palm * 5.0, (palm - start) * 8.0, path * 2.0 - 1.0, torch.log1p(age) - 3.0], 1
    )
    pose = palm_frame(projected[:, :60].unflatten(1, [20, 3]))
    # A glitch (a hand metres away for one frame) must not drown everything else.
    return torch.cat([shape_features(projected), pose, moves, place], 1).clamp(-5.0, 5.0)


def back(x: Tensor, position: Tensor, lag: int) -> Tensor:
    """Packed rows ``lag`` places earlier in the same sequence, zero before its beginning."""
    before = F.pad(x[: max(len(x) - lag, 0)], (0, 0, min(lag, len(x)), 0))
    return before * (position >= lag).unsqueeze(1).to(x.dtype)


def agree(logits: Tensor, coarse_of: Tensor, coarse: int) -> tuple[Tensor, Tensor]:
    """One verdict of all heads: (B, G, K + C) -> log-probabilities (B, K) and (B, C).

    Branches are averaged. The coarse verdict is the mean of what the coarse heads say and what
    the others' classes sum to; the fine heads divide it among its classes.
    """
    fine = logits[:, :, coarse:].softmax(2).mean(1)
    if coarse == 0:
        return fine[:, :0], fine.clamp_min(1e-12).log()
    head = logits[:, :, :coarse].softmax(2).mean(1)
    summed = torch.zeros_like(head).index_add(1, coarse_of, fine)
    mean = 0.5 * (head + summed)
    share = fine / summed.clamp_min(1e-12)[:, coarse_of]
    return mean.clamp_min(1e-12).log(), (share * mean[:, coarse_of]).clamp_min(1e-12).log()


def hold(x: Tensor, owner: Tensor, share: float, training: bool) -> Tensor:
    """Dropout of channels for a gesture's whole length: x (N, C), owner (N,) -> (N, C)."""
    if not training or share == 0:
        return x
    keep = torch.rand(int(owner[-1]) + 1, x.shape[1], device=x.device) >= share
    return x * (keep.to(x.dtype) / (1 - share))[owner]


class Branch(nn.Module):
    """One opinion: packed features (N, N_FEATURES) -> (N, width), ``pool`` -> (B, 4 * width),
    ``classify`` -> logits (B, out)."""

    def __init__(
        self, out: int, width: int, dilations: tuple[int, ...], dropout: float, attention: int
    ) -> None:
        super().__init__()
        self.dilations, self.dropout, self.attention = dilations, dropout, attention
        self.stem = nn.Linear(N_FEATURES, width)
        self.taps = nn.ModuleList(nn.Linear(3 * width, width, bias=False) for _ in dilations)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in dilations)
        # No bias: a past that has not been is zero in the step form, and must be zero here too.
        self.mixes = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in dilations)
        self.score = nn.Linear(width, attention)
        self.head = nn.Linear(4 * width, out)

    def forward(self, x: Tensor, place: Tensor, owner: Tensor) -> Tensor:
        """Packed features -> what is pooled, (N, width)."""
        x = F.relu(self.stem(hold(x, owner, 0.5 * self.dropout, self.training)))
        for taps, norm, mix, d in zip(
            self.taps, self.norms, self.mixes, self.dilations, strict=True
        ):
            # Oldest first: 2d ago, d ago, now.
            h = taps(torch.cat([back(x, place, 2 * d), back(x, place, d), x], 1))
            x = x + mix(hold(F.relu(norm(h)), owner, self.dropout, self.training))
        return F.relu(x).float()

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, 4 * width) -> logits (B, out)."""
        return self.head(F.dropout(pooled, 2 * self.dropout, self.training))  # type: ignore[no-any-return]

    def pool(self, x: Tensor, owner: Tensor, steps: Tensor) -> Tensor:
        """Mean, maximum, weighted mean and last value of each gesture's rows (N, W) -> (B, 4W)."""
        batch = len(steps)
        weight = self.score(x).float().clamp(-ATTENTION_LIMIT, ATTENTION_LIMIT).exp()
        each = x.unflatten(1, [self.attention, -1])

        def total(value: Tensor) -> Tensor:
            return value.new_zeros(batch, *value.shape[1:]).index_add(0, owner, value)

        mean = total(x) / steps[:, None]
        highest = torch.segment_reduce(x, "max", lengths=steps, axis=0)
        weighted = total(each * weight.unsqueeze(2)) / total(weight).unsqueeze(2)
        return torch.cat([mean, highest, weighted.flatten(1), x[steps.cumsum(0) - 1]], 1)


class FlagshipNet(nn.Module):
    """Training form, on whole gestures of any length.

    forward: joints (B, T, 22, 3) metres, lengths (B,) frames -> log-probabilities of K coarse
    (B, K) and of all classes (B, C). ``coarse_of`` tells each class's coarse one (SHREC'17's 14
    gestures of the 28 that tell one finger from the whole hand); K is 0 without.

    ``branches`` narrow networks look at the same features, each learns by itself, and their
    probabilities are averaged: an ensemble in the room of one network.

    Sequences are packed: no step is spent on padding, and batch norm sees real frames only (over
    batch *and* time, so that it folds into the products).
    """

    projection: Tensor
    scales: Tensor

    def __init__(
        self,
        classes: int = 28,
        coarse_of: tuple[int, ...] = (),
        width: int = 72,
        branches: int = 3,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 1),
        dropout: float = 0.2,
        attention: int = 4,
    ) -> None:
        super().__init__()
        if width % attention:
            raise ValueError(f"width {width} is not divisible by {attention} attention heads")
        if coarse_of and (len(coarse_of) != classes or min(coarse_of) < 0):
            raise ValueError(f"coarse_of names {len(coarse_of)} of {classes} classes")
        self.classes, self.coarse_of = classes, coarse_of
        self.coarse = max(coarse_of) + 1 if coarse_of else 0
        self.width, self.dilations, self.attention = width, dilations, attention
        self.register_buffer("projection", projection(), persistent=False)
        self.register_buffer("scales", move_scales(), persistent=False)
        self.norm_in = nn.BatchNorm1d(N_FEATURES, affine=False)
        self.branches = nn.ModuleList(
            Branch(self.coarse + classes, width, dilations, dropout, attention)
            for _ in range(branches)
        )

    def forward(self, joints: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.arange(joints.shape[1], device=joints.device) < lengths[:, None]
        return self.agree(self.classify(self.embed(joints[inside], lengths)))

    def embed(self, joints: Tensor, lengths: Tensor) -> Tensor:
        """Packed gestures (N, 22, 3) with their lengths (B,) -> pooled (B, G * 4 * width)."""
        return self.embed_with_beginnings(joints, lengths, None)[0]

    def embed_with_beginnings(
        self, joints: Tensor, lengths: Tensor, share: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``embed`` of whole gestures, and of the first ``share`` (S,) of the first S of them: one
        run for both, as nothing here looks ahead."""
        x, place, steps = self.features(joints, lengths)
        owner = torch.arange(len(steps), device=x.device).repeat_interleave(steps)
        x = self.norm_in(x)
        hidden = [branch(x, place, owner) for branch in self.opinions()]
        whole = self._pool(hidden, owner, steps)
        if share is None:
            return whole, whole[:0]
        cut = len(share)
        seen = (steps[:cut] * share).ceil().long().clamp_min(1)
        kept = torch.nonzero(place[: int(steps[:cut].sum())] < seen.repeat_interleave(steps[:cut]))
        kept = kept.squeeze(1)
        return whole, self._pool([h[kept] for h in hidden], owner[kept], seen)

    def _pool(self, hidden: list[Tensor], owner: Tensor, steps: Tensor) -> Tensor:
        parts = zip(self.opinions(), hidden, strict=True)
        return torch.cat([branch.pool(h, owner, steps) for branch, h in parts], 1)

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, G * 4 * width) running statistics at the end -> logits (B, G, K+C)."""
        parts = pooled.chunk(len(self.branches), 1)
        return torch.stack(
            [branch.classify(x) for branch, x in zip(self.opinions(), parts, strict=True)], 1
        )

    def opinions(self) -> list[Branch]:
        """The branches, typed."""
        return [b for b in self.branches if isinstance(b, Branch)]

    def agree(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, G, K+C) -> log-probabilities (B, K) and (B, C), see ``agree``."""
        return agree(logits, torch.tensor(self.coarse_of, device=logits.device), self.coarse)

    def features(self, joints: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Packed (N, 22, 3) -> features of every second frame, their places, lengths in steps."""
        n = len(joints)
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        position = torch.arange(n, device=joints.device) - first
        projected = joints.flatten(1) @ self.projection
        step = projected[:, 60:63] - back(projected[:, 60:63], position, 1)
        travelled = step.norm(dim=1) * (position > 0)
        # A running sum over all sequences loses digits; float64 keeps them.
        total = travelled.double().cumsum(0)
        path = (total - total[first]).to(joints.dtype)
        rows = torch.nonzero(position % STRIDE == 0).squeeze(1)
        place = position[rows]
        now = projected[rows]
        moves = []
        for lags, part in ((PALM_LAGS, slice(60, 63)), (JOINT_LAGS, slice(0, 60))):
            for lag in lags:
                moved = now[:, part] - projected[(rows - lag).clamp_min(0), part]
                moves.append(moved * (place >= lag).unsqueeze(1))
        described = describe(
            now,
            torch.cat(moves, 1) * self.scales,
            projected[first[rows], 60:63],
            path[rows, None],
            place[:, None].to(joints.dtype),
        )
        return described, place // STRIDE, (lengths + STRIDE - 1) // STRIDE


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
        buffer("scales", move_scales())
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
