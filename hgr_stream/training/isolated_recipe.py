"""What decides an isolated training's outcome: its recipe, and the network that it trains.

The flagship and the reference network are seen alike here: ``embed`` makes a packed batch of
gestures into what is classified, ``classify`` gives logits of every branch and head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.gestures import Gestures
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
    sharpness: float = 0.0  #: how far about the weights the loss shall be low; twice the work
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
#: The reference network as its authors trained it: hands not normalised, nothing distorted.
ORIGINAL: Final = Recipe(
    model="devineau",
    epochs=25,
    batch=32,
    rate=1e-3,
    schedule="constant",
    warmup=0.0,
    decay=0.0,
    clip=0.0,
    keep=0.0,
    smoothing=0.0,
    mixup=0.0,
    distortion=None,
    cubic=True,
)
#: The same network as one would train it now.
MODERN: Final = Recipe(model="devineau", rate=1e-3, decay=0.02, mixup=0.0)


def scaled(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with those of ``changes`` that are not None."""
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})


# ---- the two networks, seen alike ---------------------------------------------------------------


class Units(NamedTuple):
    """Channels that are no hand are seen from their ``mean``, (C,), and ``scale`` times smaller:
    rates and first weights are for numbers about 1, whether pixels or millimetres were given."""

    mean: list[float]
    scale: float

    def of(self, x: Tensor) -> Tensor:
        """(..., C) as the network takes them."""
        return (x - x.new_tensor(self.mean)) / self.scale


def units_of(gestures: Gestures) -> Units | None:
    """Of the gestures that are trained on; None of hands, which are in metres."""
    if gestures.canonical:
        return None
    frames = np.concatenate(gestures.sequences).astype(np.float64)
    mean = frames.mean(0)
    return Units(mean.tolist(), float((frames - mean).std()) or 1.0)


class _Whole(nn.Module):
    """The reference network on packed gestures, which are resampled to its duration."""

    coarse = 0  # it has no outputs for the coarse classes of ``coarse_of``
    pooled = devineau.HIDDEN

    def __init__(
        self,
        channels: int,
        classes: int,
        coarse_of: tuple[int, ...],
        dropout: float,
        seed: int,
        units: Units | None,
    ) -> None:
        super().__init__()
        self.units, self.coarse_of = units, coarse_of
        self.net = devineau.Devineau(
            devineau.DURATION, channels, classes, dropout=dropout, seed=seed
        )

    def embed(self, frames: Tensor, lengths: Tensor) -> Tensor:
        x = resampled(frames.flatten(1), lengths, devineau.DURATION)
        return self.net.embed(self.units.of(x) if self.units else x)

    def classify(self, x: Tensor) -> Tensor:
        return self.net.output(x).unsqueeze(1)  # type: ignore[no-any-return]


Net = flagship.FlagshipNet | _Whole


def build(
    recipe: Recipe,
    classes: int,
    coarse_of: tuple[int, ...],
    channels: int,
    units: Units | None = None,
) -> Net:
    """An untrained network of the recipe's kind and seed."""
    torch.manual_seed(recipe.seed)
    if recipe.model == "devineau":
        return _Whole(channels, classes, coarse_of, recipe.dropout, recipe.seed, units)
    return flagship.FlagshipNet(
        classes, coarse_of, recipe.width, recipe.branches, recipe.dilations, dropout=recipe.dropout
    )


def log_scores(net: Net, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits -> log-probabilities of the coarse classes (B, K), K may be 0, and of all (B, C)."""
    if isinstance(net, flagship.FlagshipNet):
        return net.agree(logits)
    fine = logits[:, 0].log_softmax(1)
    if not net.coarse_of:
        return fine[:, :0], fine
    # As the reference network's model file tells them.
    coarse_of = torch.tensor(net.coarse_of, device=fine.device)
    summed = fine.new_zeros(len(fine), max(net.coarse_of) + 1)
    return summed.index_add(1, coarse_of, fine.exp()).clamp_min(1e-12).log(), fine
