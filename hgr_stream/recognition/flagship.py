"""The flagship: a small causal network for whole gestures that also runs frame by frame.

In the order in which data passes through it: ``describe`` (pose in gravity's axes and in the
palm's own, bone directions, fingertip distances, movements over several lags, where the palm is,
how far it came) and ``FlagshipNet`` (a few narrow dilated residual causal convolutions, averaged,
whose pooling over time is a *running* statistic: mean, maximum and a softmax-weighted mean). The
form that is shipped is in ``flagship_stream``.

A gesture begins where its state begins: the distance from the start, the age and the running
statistics count from there. The convolutions run on every second frame (frames 0, 2, 4, ... of
the gesture); features look at all of them.

Unlike ``causal`` this network sees where the palm is: in SHREC'17 that is worth a point, and the
sensor stands before the user in all of its recordings.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .features import JOINT_LAGS, PALM_LAGS, lag_scales, shape_features
from .features import projection_matrix as projection

LAGS: Final = tuple(sorted({*PALM_LAGS, *JOINT_LAGS}))
HISTORY: Final = max(LAGS)
STRIDE: Final = 2  # frames from one run of the convolutions to the next
N_POSE: Final = 117 + 57 + 6
N_MOVES: Final = 3 * len(PALM_LAGS) + 60 * len(JOINT_LAGS)
N_PLACE: Final = 3 + 3 + 1 + 1
N_FEATURES: Final = N_POSE + N_MOVES + N_PLACE
ATTENTION_LIMIT: Final = 8.0  # exp of it still sums well in float32


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
        self.pooled = 4 * width * branches  #: what is classified, of each gesture
        self.register_buffer("projection", projection(), persistent=False)
        self.register_buffer("scales", lag_scales(), persistent=False)
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
