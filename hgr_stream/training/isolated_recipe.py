"""What decides an isolated training's outcome: its recipe, and the network that it trains.

The flagship and the reference network are seen alike here: ``embed`` makes a packed batch of
gestures into what is classified, ``classify`` gives logits of every branch and head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from ..recognition import devineau, flagship
from .distort import Distortion, resampled


class TrainingError(ValueError):
    """A training that cannot be done or continued; the text names the reason in one line."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, besides the data. Rates are per step."""

    model: Literal["flagship", "devineau"] = "flagship"
    epochs: int = 40
    batch: int = 64
    rate: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05  #: share of the training
    decay: float = 0.1
    clip: float = 2.0  #: of the gradient's norm; 0: none
    keep: float = 0.99  #: of the weights' moving average; 0: none is kept
    smoothing: float = 0.1
    mixup: float = 0.4  #: of what is classified, in every second step
    beginnings: float = 0.5  #: weight of what is said of a random beginning of each gesture
    dropout: float = 0.2
    width: int = 128  #: of each of the flagship's branches
    branches: int = 1
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)
    beside: int = 16  #: gestures of each other data set, and played backwards, in every batch
    backwards: bool = False
    distortion: Distortion | None = field(default_factory=Distortion)
    teachers: tuple[str, ...] = ()  #: folders of finished runs, whose scores are learnt as well
    teachers_each: int = 2  #: how many of them, drawn anew, see a batch
    distil: float = 0.7  #: the teachers' share of what is to be learnt
    cubic: bool = False  #: resampling of the reference network, as in the paper
    patience: int = 0  #: epochs without a better held-out score before it stops; 0: never
    minutes: float = 0.0  #: shorten the schedule to this; 0: as many epochs as it says
    temperature: float = 0.0  #: of the model file; 0: calibrated on the held-out subjects, or 1
    seed: int = 0


FLAGSHIP: Final = Recipe()


def reference(original: bool) -> Recipe:
    """The reference network's recipe: as released, or a modern one."""
    theirs = devineau.ORIGINAL if original else devineau.MODERN
    distortion = Distortion(
        crop=theirs.crop,
        slowest=1.0,
        longest=1.0,
        local_speed=theirs.time_warp,
        bone=theirs.bones,
        size=theirs.scale,
        travel=1.0,
        drift_m=0.0,
        turn_rad=math.radians(theirs.rotation_deg),
        wobble_m=0.0,
        noise_m=2 * theirs.noise_m,
        shift_m=0.0,
        faults=0.0,
    )
    return Recipe(
        model="devineau",
        epochs=theirs.epochs,
        batch=theirs.batch,
        rate=theirs.learning_rate,
        schedule=theirs.schedule,
        warmup=theirs.warmup_epochs / theirs.epochs,
        decay=theirs.weight_decay,
        clip=theirs.clip_norm or 0.0,
        keep=theirs.ema or 0.0,
        smoothing=theirs.label_smoothing,
        mixup=0.0,
        dropout=theirs.dropout,
        distortion=distortion if theirs.augment else None,
        cubic=theirs.resampling == "cubic-zoom",
    )


def scaled(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with those of ``changes`` that are not None."""
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})


# ---- the two networks, seen alike ---------------------------------------------------------------


class _Whole(nn.Module):
    """The reference network on packed gestures: resampled to its duration, then classified."""

    coarse = 0

    def __init__(self, channels: int, classes: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.net = devineau.Devineau(
            devineau.DURATION, channels, classes, dropout=dropout, seed=seed
        )

    def embed(self, frames: Tensor, lengths: Tensor) -> Tensor:
        return resampled(frames.flatten(1), lengths, devineau.DURATION)

    def classify(self, x: Tensor) -> Tensor:
        return self.net(x).unsqueeze(1)  # type: ignore[no-any-return]


Net = flagship.FlagshipNet | _Whole


def build(recipe: Recipe, classes: int, coarse_of: tuple[int, ...], channels: int) -> Net:
    """An untrained network of the recipe's kind and seed."""
    torch.manual_seed(recipe.seed)
    if recipe.model == "devineau":
        return _Whole(channels, classes, recipe.dropout, recipe.seed)
    return flagship.FlagshipNet(
        classes, coarse_of, recipe.width, recipe.branches, recipe.dilations, dropout=recipe.dropout
    )


def log_scores(net: Net, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits -> log-probabilities of the coarse classes (B, K) and of all (B, C)."""
    if isinstance(net, flagship.FlagshipNet):
        return net.agree(logits)
    return logits[:, 0, :0], logits[:, 0].log_softmax(1)
