"""Streams learnt beside the wanted ones: other people and sensors, with label sets of their own.

Each set has a head of its own on what network and verifier see. These heads are not in the model
file; what they taught the common layers stays. The model's own head is told nothing: one name
stands for different movements in different recordings, and to be told that their idle time is none
of its gestures cost it gestures of sensors that it had not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..datasets.base import HandSequence
from .draw import IGNORE, Pool
from .streams import labels_of, to_streams

#: What joins a batch, as a share of it, all sets together; what that weighs beside the batch.
SHARE: Final = 0.3
WEIGHT: Final = 0.3
SMOOTHING: Final = 0.05

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass
class BesideSet:
    """What is drawn from, with marks that count the labels of their own."""

    name: str
    pool: Pool
    labels: Sequence[str]
    heads: dict[str, nn.Module] = field(default_factory=dict)  #: of the trainings so far, by name

    @classmethod
    def of(cls, name: str, sequences: Sequence[HandSequence]) -> BesideSet:
        """All of these sequences; raises ValueError where they hold no gesture."""
        labels = labels_of(sequences)
        if not labels:
            raise ValueError(f"{name}: no gesture to be learnt beside")
        return cls(name, Pool.of(to_streams(sequences, labels), len(labels)), labels)


class WithHeads(nn.Module, Generic[M]):
    """A module that is wanted, and the heads of the sets that it learns beside.

    kind: under which name the sets remember their heads; inputs: how many numbers these are given.
    """

    def __init__(self, module: M, beside: Sequence[BesideSet], kind: str, inputs: int) -> None:
        super().__init__()
        self.module = module
        self.heads = nn.ModuleList(
            s.heads.get(kind) or nn.Linear(inputs, 1 + len(s.labels)) for s in beside
        )

    def keep(self, beside: Sequence[BesideSet], kind: str) -> M:
        """The module alone; the sets remember their heads."""
        for s, head in zip(beside, self.heads, strict=True):
            s.heads[kind] = head
        return self.module

    def loss(self, common: Tensor, labels: Sequence[Tensor], none: float = 1.0) -> Tensor:
        """What the sets' part of a batch costs.

        common: what the heads are given, (N, ..., inputs), set after set; labels: of each set
        (n, ...). none: what an idle one weighs.
        """
        total = common.new_zeros(())
        parts = common.split([len(label) for label in labels])
        for head, x, label in zip(self.heads, parts, labels, strict=True):
            total = total + entropy(head(x).float(), label, none)
        return WEIGHT * total


def entropy(logits: Tensor, label: Tensor, none: float = 1.0) -> Tensor:
    """Cross-entropy of logits (..., 1+C) and classes (...); none: what an idle one weighs."""
    weight = torch.ones(logits.shape[-1])
    weight[0] = none
    return F.cross_entropy(
        logits.flatten(0, -2),
        label.flatten(),
        weight=weight,
        ignore_index=IGNORE,
        label_smoothing=SMOOTHING,
    )


def draw_beside(
    beside: Sequence[BesideSet], batch: int, draw: Callable[[Pool], T]
) -> list[list[T]]:
    """As many of each set as join a batch of ``batch``."""
    each = math.ceil(SHARE * batch / max(len(beside), 1))
    return [[draw(s.pool) for _ in range(each)] for s in beside]
