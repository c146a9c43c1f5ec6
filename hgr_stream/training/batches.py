"""Isolated gestures on their way to the network: batches, distorted or as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.gestures import Gestures
from ..recognition import devineau
from ..skeleton import N_JOINTS
from .distort import Packed, another_hand, draw
from .isolated_recipe import Net, Recipe


class Batches:
    """Draws distorted batches, and undistorted gestures in order, as the network takes them."""

    def __init__(self, gestures: Gestures, recipe: Recipe, device: torch.device) -> None:
        sequences: list[Any] = gestures.sequences
        if recipe.cubic:  # done once: the paper distorts nothing
            sequences = [devineau.resample_zoom(s) for s in sequences]
        self.data = Packed.of(sequences)
        self.recipe, self.device, self.canonical = recipe, device, gestures.canonical
        self.labels = torch.from_numpy(gestures.labels)

    def distorted(self, index: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        spread = self.recipe.distortion
        if spread is None:
            return self.plain(index)
        frames, lengths = draw(self.data, index, spread, g)
        if self.canonical:
            frames = another_hand(frames.view(-1, N_JOINTS, 3), lengths, spread, g)
        else:
            # Channels whose meaning is not known: size and noise in the data's own units, and from
            # where the data are; how far that is from the origin is no size.
            owner = torch.arange(len(lengths)).repeat_interleave(lengths)
            centre = frames.mean(0)
            size = 1 + spread.size * torch.randn(len(lengths), 1, generator=g)
            noise = 0.02 * frames.std(0) * torch.randn(frames.shape, generator=g)
            frames = centre + (frames - centre) * size[owner] + noise
        return frames.to(self.device), lengths.to(self.device)

    def plain(self, index: Tensor) -> tuple[Tensor, Tensor]:
        frames, lengths = self.data.take(index)
        if self.canonical:
            frames = frames.view(-1, N_JOINTS, 3)
        return frames.to(self.device), lengths.to(self.device)


@torch.no_grad()
def predict(net: Net, batches: Batches, index: NDArray[np.int64]) -> Tensor:
    """Logits of gestures ``index``, undistorted."""
    net.eval()
    parts = torch.from_numpy(index).split(128)
    return torch.cat([net.classify(net.embed(*batches.plain(i))).float().cpu() for i in parts])
