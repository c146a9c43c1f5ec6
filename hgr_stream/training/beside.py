"""Gestures that are learnt beside the wanted ones, with label sets and heads of their own.

Other data sets show other hands, other people and other movements; the wanted gestures played
backwards show movements that nobody performed. Neither is asked for in the end: their heads are
left behind, what they taught the common layers stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..datasets.gestures import Gestures
from ..skeleton import PALM
from .distort import Distortion, Packed, another_hand, draw


def backwards(gestures: Gestures) -> Gestures:
    """Each gesture from its last frame to its first: a label set of its own."""
    return replace(
        gestures,
        data=f"{gestures.data} backwards",
        sequences=[np.ascontiguousarray(s[::-1]) for s in gestures.sequences],
    )


def moved_to(gestures: Gestures, like: Gestures) -> Gestures:
    """The gestures where those of ``like`` are performed: sensors' origins mean nothing to others.

    Each gesture's mean palm comes to a place drawn from theirs.
    """
    palm = slice(3 * PALM, 3 * PALM + 3)
    places = np.stack([s[:, palm].mean(0) for s in like.sequences])
    drawn = np.random.default_rng(0).integers(len(places), size=len(gestures))
    joints = gestures.channels // 3
    moved = [
        s + np.tile(places[i] - s[:, palm].mean(0), joints)
        for s, i in zip(gestures.sequences, drawn, strict=True)
    ]
    return replace(gestures, sequences=[m.astype(np.float32) for m in moved])


class Beside(nn.Module):
    """Heads of the other sets: (B, pooled) -> their losses. ``draw`` gives what joins a batch."""

    def __init__(self, sets: Sequence[Gestures], pooled: int, count: int, dropout: float) -> None:
        super().__init__()
        self.data = [Packed.of(list(s.sequences)) for s in sets]
        self.labels = [torch.from_numpy(s.labels) for s in sets]
        self.count, self.dropout = count, dropout
        self.heads = nn.ModuleList(nn.Linear(pooled, len(s.classes)) for s in sets)

    def draw(self, spread: Distortion, g: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor]]:
        """``count`` distorted gestures of each set -> frames (N, 22, 3), lengths, labels a set."""
        frames, lengths, labels = [], [], []
        for data, own in zip(self.data, self.labels, strict=True):
            index = torch.randint(len(own), (self.count,), generator=g)
            drawn, n = draw(data, index, spread, g)
            frames.append(another_hand(drawn.view(len(drawn), -1, 3), n, spread, g))
            lengths.append(n)
            labels.append(own[index])
        return torch.cat(frames), torch.cat(lengths), labels

    def loss(self, pooled: Tensor, labels: Sequence[Tensor], smoothing: float) -> Tensor:
        """The sum over all these gestures' cross-entropies; pooled (S * count, P)."""
        total = pooled.new_zeros(())
        for head, x, own in zip(self.heads, pooled.split(self.count), labels, strict=True):
            given = head(F.dropout(x, 2 * self.dropout, self.training)).float()
            total = total + F.cross_entropy(
                given, own.to(given.device), label_smoothing=smoothing, reduction="sum"
            )
        return total
