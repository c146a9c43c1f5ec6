"""What a model file of an isolated training needs besides its weights: the temperature of its
scores, and an output for none, fitted on the finished network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..recognition import flagship
from .batches import Batches


def calibrated(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature that makes held-out scores most likely; a search, so it cannot diverge."""
    temperatures = torch.logspace(-1, 1, 201)
    losses = [F.cross_entropy(log_probabilities / t, labels).item() for t in temperatures]
    return round(float(temperatures[int(np.argmin(losses))]), 4)


def fit_none(
    net: flagship.FlagshipNet, batches: Batches, index: NDArray[np.int64], seed: int
) -> nn.Linear:
    """Output 0 for the stream: fitted on the trained network, whose weights stay as they are.

    Isolated gestures hold no idle hand. What they do hold is beginnings in which nothing can be
    told yet: none is learnt on the first 3 to 15 % of gestures, against 70 to 100 % of them.
    """
    g = torch.Generator().manual_seed(seed)
    rows, given, none = [], [], []
    net.eval()
    with torch.no_grad():
        for part in torch.from_numpy(index).split(128):
            for low, high in ((0.03, 0.15), (0.03, 0.15), (0.7, 1.0)):
                frames, lengths = batches.plain(part)
                cut = torch.rand(len(part), generator=g) * (high - low) + low
                n = (lengths * cut.to(lengths.device)).round().clamp_min(1).long()
                place = torch.cat([torch.arange(int(k)) for k in lengths]).to(n.device)
                x = net.embed(frames[place < n.repeat_interleave(lengths)], n)
                rows.append(x)
                given.append(net.agree(net.classify(x))[1])
                none.append(torch.full((len(part),), low < 0.5))
    x, scores = torch.cat(rows).cpu(), torch.cat(given).cpu().exp().amax(1).log()
    is_none = torch.cat(none).float()
    head = nn.Linear(x.shape[1], 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    spread, mean = x.std(0).clamp_min(1e-3), x.mean(0)
    z = (x - mean) / spread
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02, weight_decay=1e-4)
    for _ in range(150):
        # None against the best gesture: its log-probability is the logit to beat.
        loss = F.binary_cross_entropy_with_logits(head(z).squeeze(1) - scores, is_none)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        head.weight /= spread
        head.bias.sub_(head.weight @ mean)
    return head
