"""Training of the streaming network, its verifier and its dater on continuous recordings.

``train_network``, ``train_verifier`` and ``train_dater`` are plain loops over freshly drawn data
(``draw``); progress is told through a callback and a time limit shortens the schedule rather than
cutting it off. What is validated, and on what, is in ``validate``; the whole recipe from a data
set to a file is ``recipe.train_online``.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..recognition.causal import CausalNet
from ..recognition.segments import SegmentDater, SegmentVerifier, stretched
from ..skeleton import Float32
from .average import Average
from .draw import (
    IGNORE,
    NO_SHARES,
    Chunk,
    ChunkRule,
    Pool,
    Shares,
    draw_chunk,
    draw_roughly,
    draw_segment,
)
from .online_beside import WEIGHT, BesideSet, WithHeads, draw_beside, entropy
from .optimiser import adamw
from .streams import Stream

#: (share done 0..1, what to show); return nothing. Raise to stop.
Progress = Callable[[float, str], None]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """How long and how a network is trained. ``seconds`` caps it; 0 means no cap."""

    steps: int = 1500
    batch: int = 32
    frames: int = 224
    rate: float = 2e-3
    decay: float = 0.02
    seconds: float = 0.0


class _Clock:
    """Share of a schedule that is done: by steps, or by time where that runs out first."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.begun = schedule, time.monotonic()

    def share(self, step: int) -> float:
        share = step / self.schedule.steps
        if self.schedule.seconds:
            share = max(share, (time.monotonic() - self.begun) / self.schedule.seconds)
        return min(share, 1.0)

    def rate(self, share: float) -> float:
        """Warm-up over 5 %, then a cosine to nothing."""
        warm = min(share / 0.05 + 0.02, 1.0)
        return self.schedule.rate * warm * 0.5 * (1 + math.cos(math.pi * share))


def _half_is_fast() -> bool:
    """Whether this processor multiplies matrices of 16-bit numbers (twice as fast, as good)."""
    told: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16") or told.get("avx512_bf16"))


def _fit(
    module: M,
    loss_of_batch: Callable[[], Tensor],
    schedule: Schedule,
    progress: Progress | None,
    memory: float = 0.97,
    digits: int = 3,
) -> tuple[M, int]:
    """Train ``module`` on the loss of one batch after another; its averaged weights in eval mode,
    and the steps made. The loss that is shown remembers ``memory`` of the one before."""
    optimiser = adamw(module.parameters(), schedule.rate, schedule.decay)
    average = Average(module, 0.995)
    clock = _Clock(schedule)
    step, shown = 0, 0.0
    while (share := clock.share(step)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = clock.rate(share)
        loss = loss_of_batch()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 2.0)
        optimiser.step()
        average.update(module, step)
        shown = loss.item() if step == 0 else memory * shown + (1 - memory) * loss.item()
        step += 1
        if progress:
            progress(clock.share(step), f"step {step} loss {shown:.{digits}f}")
    return average.module, step


#: What an idle tick weighs: they are many and alike.
IDLE = 0.6


def network_loss(
    net: WithHeads[CausalNet], chunks: Sequence[Chunk], beside: Sequence[Sequence[Chunk]]
) -> Tensor:
    """Class cross-entropy a tick, and the two boundaries' binary cross-entropy; what is learnt
    ``beside`` by each set's own head, and by its boundaries."""
    joints, label, boundary = _tensors([*chunks, *(c for group in beside for c in group)])
    n = len(chunks)
    with torch.autocast("cpu", torch.bfloat16, enabled=_half_is_fast()):
        logits, bounds, common = net.module(joints)
    logits, bounds, common = logits.float(), bounds.float(), common.float()
    total = entropy(logits[:n], label[:n], IDLE) + _edges(bounds[:n], boundary[:n], label[:n])
    if beside:
        dropped = F.dropout1d(common[n:].transpose(1, 2), net.module.dropout).transpose(1, 2)
        labels = label[n:].split([len(group) for group in beside])
        total = total + net.loss(dropped, labels, IDLE)
        total = total + WEIGHT * _edges(bounds[n:], boundary[n:], label[n:])
    return total


def _edges(bounds: Tensor, boundary: Tensor, label: Tensor) -> Tensor:
    known = (label != IGNORE).float().unsqueeze(-1)
    return F.binary_cross_entropy_with_logits(
        bounds, boundary, weight=known.expand_as(bounds), pos_weight=torch.full((2,), 4.0)
    )


def train_network(
    streams: Sequence[Stream],
    classes: int,
    rule: ChunkRule,
    schedule: Schedule,
    seed: int,
    progress: Progress | None = None,
    start: CausalNet | None = None,
    beside: Sequence[BesideSet] = (),
) -> tuple[CausalNet, int]:
    """Train the causal network; returns the averaged weights in eval mode, and the steps made.

    start: go on from these weights instead of random ones. beside: what else is learnt, with heads
    that are left behind.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = copy.deepcopy(start) if start else CausalNet(classes)
    headed = WithHeads(net, beside, "network", net.width).train()
    pool = Pool.of(streams, classes)

    def draw(pool: Pool) -> Chunk:
        return draw_chunk(pool, rule, rng)

    def loss() -> Tensor:
        chunks = [draw(pool) for _ in range(schedule.batch)]
        return network_loss(headed, chunks, draw_beside(beside, schedule.batch, draw))

    fitted, steps = _fit(headed, loss, schedule, progress, memory=0.95)
    return fitted.keep(beside, "network"), steps


def _tensors(chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([c.joints for c in chunks])),
        torch.from_numpy(np.stack([c.label for c in chunks])),
        torch.from_numpy(np.stack([c.boundary for c in chunks])),
    )


# --- the verifier -------------------------------------------------------------------------------


def train_verifier(
    streams: Sequence[Stream],
    classes: int,
    rate_hz: float,
    schedule: Schedule,
    seed: int,
    progress: Progress | None = None,
    start: SegmentVerifier | None = None,
    beside: Sequence[BesideSet] = (),
    shares: Shares = NO_SHARES,
) -> tuple[SegmentVerifier, int]:
    """Train the segment verifier; as ``train_network``. shares: of what is drawn."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 1)
    verifier = copy.deepcopy(start) if start else SegmentVerifier(classes, rate_hz)
    headed = WithHeads(verifier, beside, "verifier", verifier.head.in_features).train()
    pool = Pool.of(streams, classes)

    def draw(pool: Pool) -> tuple[Float32, int]:
        return draw_segment(pool, rate_hz, rng, shares)

    def loss() -> Tensor:
        drawn = [draw(pool) for _ in range(schedule.batch)]
        groups = draw_beside(beside, schedule.batch, draw)
        drawn += [d for group in groups for d in group]
        # The network resamples anyway: bringing them to its length here makes them one batch,
        # and the true durations go in beside.
        joints = torch.stack([verifier.resampled(torch.from_numpy(j)[None])[0] for j, _ in drawn])
        frames = torch.tensor([float(len(j)) for j, _ in drawn])
        label = torch.tensor([label for _, label in drawn])
        common, n = verifier.pooled(joints, frames), schedule.batch
        total = entropy(verifier.head(common[:n]), label[:n])
        if groups:
            labels = label[n:].split([len(group) for group in groups])
            total = total + headed.loss(common[n:], labels)
        return total

    fitted, steps = _fit(headed, loss, schedule, progress)
    return fitted.keep(beside, "verifier"), steps


# --- the dater ----------------------------------------------------------------------------------


def train_dater(
    streams: Sequence[Stream],
    classes: int,
    rate_hz: float,
    schedule: Schedule,
    seed: int,
    progress: Progress | None = None,
    start: SegmentDater | None = None,
) -> tuple[SegmentDater, int]:
    """Train the segment dater; as ``train_network``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 2)
    dater = (copy.deepcopy(start) if start else SegmentDater(rate_hz)).train()
    pool = Pool.of(streams, classes)

    def loss() -> Tensor:
        drawn = [draw_roughly(pool, rate_hz, rng) for _ in range(schedule.batch)]
        joints = torch.cat([stretched(torch.from_numpy(j)[None], dater.length) for j, *_ in drawn])
        frames = torch.tensor([float(len(j)) for j, *_ in drawn])
        wanted = torch.tensor([shifts for _, shifts, _ in drawn])
        length = torch.tensor([[length] for *_, length in drawn])
        # What an error costs is its share of the gesture.
        error = (dater.shifts(joints, frames) - wanted) / (length + 0.1)
        return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)

    return _fit(dater, loss, schedule, progress, digits=4)
