"""Weights between others: the moving average of a training, which is what is kept of it."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """Exponential moving average of weights and batch-norm statistics, as ``module``, in eval mode.

    keep: how much of it a step leaves, less in the first; 0: it is what was last trained.
    """

    def __init__(self, module: M, keep: float) -> None:
        self.module, self.keep = copy.deepcopy(module).eval(), keep

    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps."""
        keep = min(self.keep, (1 + step) / (10 + step)) if self.keep else 0.0
        draw_towards(self.module, module, 1 - keep)


@torch.no_grad()
def draw_towards(module: nn.Module, other: nn.Module, share: float) -> None:
    """Move weights and statistics by ``share`` of the way to another's; counts are taken over."""
    for mine, new in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(new, share)
        else:
            mine.copy_(new)
