"""Training on isolated gestures: what ``hgr train`` runs without ``--online``.

``train_isolated`` is one training: a run folder with its settings, a checkpoint after every epoch
(an interrupted run goes on where it was, to the same weights), TensorBoard curves and the network
that is kept. ``train_folds`` is one run for each group of held-out subjects.
``export_run`` makes the model file. The same loop trains the flagship and the reference network;
they differ in how a batch of packed gestures becomes their input.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .. import __version__
from ..datasets.base import DatasetError
from ..datasets.gestures import Gestures, divide, fold_subjects
from ..recognition import bundle, devineau, flagship
from ..recognition.options import FORMAT, Metadata
from ..skeleton import N_JOINTS
from .distort import Distortion, Packed, another_hand, draw, resampled

RUN, LAST, BEST, SCORES = "run.json", "last.pt", "best.pt", "scores.json"


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
    decay: float = 0.02
    clip: float = 2.0  #: of the gradient's norm; 0: none
    keep: float = 0.99  #: of the weights' moving average; 0: none is kept
    smoothing: float = 0.1
    mixup: float = 0.4  #: of what is classified, in every second step
    dropout: float = 0.2
    width: int = 128  #: of each of the flagship's branches
    branches: int = 1
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)
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


#: (epoch, epochs, figures of the epoch by name) after each epoch; raise to stop.
Watch = Callable[[int, int, dict[str, float]], None]


def _quiet(_epoch: int, _epochs: int, _figures: dict[str, float]) -> None:
    return


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


# ---- data on its way to the network -------------------------------------------------------------


class _Batches:
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
            # Channels whose meaning is not known: size and noise in the data's own units.
            owner = torch.arange(len(lengths)).repeat_interleave(lengths)
            size = 1 + spread.size * torch.randn(len(lengths), 1, generator=g)
            noise = 0.02 * frames.std(0) * torch.randn(frames.shape, generator=g)
            frames = frames * size[owner] + noise
        return frames.to(self.device), lengths.to(self.device)

    def plain(self, index: Tensor) -> tuple[Tensor, Tensor]:
        frames, lengths = self.data.take(index)
        if self.canonical:
            frames = frames.view(-1, N_JOINTS, 3)
        return frames.to(self.device), lengths.to(self.device)


@torch.no_grad()
def predict(net: Net, batches: _Batches, index: NDArray[np.int64]) -> Tensor:
    """Logits of gestures ``index``, undistorted."""
    net.eval()
    parts = torch.from_numpy(index).split(128)
    return torch.cat([net.classify(net.embed(*batches.plain(i))).float().cpu() for i in parts])


# ---- the loop -----------------------------------------------------------------------------------


class _Average:
    """Exponential moving average of weights and batch-norm statistics."""

    def __init__(self, net: Net, keep: float) -> None:
        self.net, self.keep = copy.deepcopy(net).eval(), keep

    @torch.no_grad()
    def update(self, net: Net, step: int) -> None:
        keep = min(self.keep, (1 + step) / (10 + step)) if self.keep else 0.0
        for mine, new in zip(
            self.net.state_dict().values(), net.state_dict().values(), strict=True
        ):
            if mine.dtype.is_floating_point:
                mine.lerp_(new, 1 - keep)
            else:
                mine.copy_(new)


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one; raises TrainingError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r}: {str(error).splitlines()[0]}") from None
    return device


def _has_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 here."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and amx is not None and bool(amx())


@dataclass
class Outcome:
    """A finished run. ``figures`` are of the epoch kept; ``held_out`` the subjects left out."""

    folder: Path
    net: Net
    figures: dict[str, float]
    held_out: list[str]
    epochs: int


def train_isolated(
    gestures: Gestures,
    recipe: Recipe,
    out: str | Path,
    *,
    held_out: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    watch: Watch = _quiet,
    command: str = "",
) -> Outcome:
    """One training into the folder ``out``; raises TrainingError or DatasetError.

    held_out: subjects that are validated on and never trained on. The last epoch is kept, so that
    their score is an honest one; with ``patience`` the best, which flatters a little. resume: go
    on from the folder's last finished epoch, with the folder's own recipe.
    """
    gestures.check()
    inside, outside = divide(gestures.subjects, held_out)
    seen = set(gestures.labels[inside].tolist())
    if len(seen) < len(gestures.classes):
        empty = gestures.classes[min(set(range(len(gestures.classes))) - seen)]
        raise DatasetError(f"class {empty!r} has no gesture of the subjects trained on")
    if recipe.model == "flagship" and not gestures.canonical:
        raise DatasetError(
            f"{gestures.data}: {gestures.channels} channels are no hand of 20, 21, 22 or 26 "
            "joints in 3 dimensions, which the flagship takes; use the model devineau"
        )
    folder = Path(out)
    told = _settings(gestures, recipe, inside, held_out, command)
    if resume:
        recipe = _resumable(folder, told)
    elif (folder / LAST).exists():
        raise TrainingError(f"{folder}: holds a run already; resume it, or name another folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).write_text(json.dumps(told, indent=1))
    return _Loop(gestures, recipe, folder, inside, outside, pick_device(device)).run(
        resume, watch, list(held_out)
    )


class _Loop:
    def __init__(
        self,
        gestures: Gestures,
        recipe: Recipe,
        folder: Path,
        inside: NDArray[np.int64],
        outside: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        self.gestures, self.recipe, self.folder, self.device = gestures, recipe, folder, device
        self.inside, self.outside = torch.from_numpy(inside), outside
        self.batches = _Batches(gestures, recipe, device)
        self.coarse_of = torch.tensor(gestures.coarse_of, dtype=torch.long)
        self.net = build(recipe, len(gestures.classes), gestures.coarse_of, gestures.channels).to(
            device
        )
        self.average = _Average(self.net, recipe.keep)
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": recipe.decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.rate,
        )
        self.draw = torch.Generator().manual_seed(recipe.seed)
        self.step, self.epoch, self.spent_s = 0, 0, 0.0
        self.best: dict[str, float] = {}
        self.since_best = 0
        self.bf16 = _has_bf16(device)
        held_out = {gestures.subjects[i] for i in outside}
        self.teachers = [
            _teacher(t, gestures, held_out).to(device).requires_grad_(False)
            for folder in recipe.teachers
            for t in runs_in(folder)
        ]

    def run(self, resume: bool, watch: Watch, held_out: list[str]) -> Outcome:
        recipe = self.recipe
        if resume:
            self._load()
        with _curves(self.folder) as curve:
            while self.epoch < recipe.epochs and self._share() < 1:
                begun = time.monotonic()
                figures = self._epoch(begun)
                self.spent_s += time.monotonic() - begun
                self.epoch += 1
                figures |= self._validate()
                for name, value in figures.items():
                    curve(name, value, self.epoch)
                better = not (recipe.patience and len(self.outside)) or (
                    figures["accuracy/validation"], -figures["loss/validation"],
                ) > (
                    self.best.get("accuracy/validation", -1.0),
                    -self.best.get("loss/validation", math.inf),
                )  # fmt: skip
                self.since_best = 0 if better else self.since_best + 1
                if better:
                    self.best = {**figures, "epoch": float(self.epoch)}
                    _write(self.folder / BEST, self.average.net.state_dict())
                self._save()
                watch(self.epoch, recipe.epochs, figures)
                if recipe.patience and self.since_best >= recipe.patience:
                    break
        self.average.net.load_state_dict(_read(self.folder / BEST))
        self._finish()
        return Outcome(self.folder, self.average.net, self.best, held_out, self.epoch)

    def _share(self, begun: float | None = None) -> float:
        """Share of the schedule that is done: by steps, or by time where that runs out first."""
        recipe = self.recipe
        share = self.step / (recipe.epochs * self._steps())
        if recipe.minutes:
            spent = self.spent_s + (time.monotonic() - begun if begun is not None else 0.0)
            share = max(share, spent / (60 * recipe.minutes))
        return min(share, 1.0)

    def _steps(self) -> int:
        return max(len(self.inside) // self.recipe.batch, 1)

    def _rate(self, share: float) -> float:
        recipe = self.recipe
        warm = min(share / recipe.warmup + 0.02, 1.0) if recipe.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * share)) if recipe.schedule == "cosine" else 1.0
        return recipe.rate * warm * fall

    def _epoch(self, begun: float) -> dict[str, float]:
        recipe = self.recipe
        self.net.train()
        order = self.inside[torch.randperm(len(self.inside), generator=self.draw)]
        loss_sum, right, plain, rate = 0.0, 0, 0, recipe.rate
        for k in range(self._steps()):
            index = order[k * recipe.batch : (k + 1) * recipe.batch]
            rate = self._rate(self._share(begun))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            mixed = bool(recipe.mixup) and self.step % 2 == 0
            loss, logits = self._loss(index, mixed)
            if not math.isfinite(loss.item()):
                raise TrainingError(f"epoch {self.epoch + 1}: the loss is {loss.item()}")
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
            self.optimiser.step()
            self.step += 1
            self.average.update(self.net, self.step)
            loss_sum += loss.item()
            if not mixed:
                found = log_scores(self.net, logits.detach().float().cpu())[1].argmax(1)
                right += int((found == self.batches.labels[index]).sum())
                plain += len(index)
        return {
            "loss/train": loss_sum / self._steps(),
            "accuracy/train": right / max(plain, 1),
            "learning rate": rate,
        }

    def _loss(self, index: Tensor, mixed: bool) -> tuple[Tensor, Tensor]:
        recipe, classes = self.recipe, len(self.gestures.classes)
        frames, lengths = self.batches.distorted(index, self.draw)
        labels = self.batches.labels[index]
        wanted = [F.one_hot(labels, classes).float()]
        if self.net.coarse:
            wanted.insert(0, F.one_hot(self.coarse_of[labels], self.net.coarse).float())
        smoothing = recipe.smoothing
        if self.teachers:
            w = recipe.distil
            told = self._told(frames, lengths)[-len(wanted) :]
            wanted = [(1 - w) * t + w * s for t, s in zip(wanted, told, strict=True)]
            smoothing *= 1 - w  # the teachers were smoothed
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            x = self.net.embed(frames, lengths).float()
            if mixed:
                alpha = torch.full((2,), recipe.mixup)
                parts = torch._standard_gamma(alpha, generator=self.draw)
                w = float(parts[0] / parts.sum())
                other = torch.randperm(len(index), generator=self.draw)
                x = w * x + (1 - w) * x[other.to(self.device)]
                wanted = [w * t + (1 - w) * t[other] for t in wanted]
            logits = self.net.classify(x)
        loss = torch.zeros((), device=self.device)
        at = 0
        for target in wanted:
            n = target.shape[1]
            soft = target.to(self.device) * (1 - smoothing) + smoothing / n
            given = logits[:, :, at : at + n].float().log_softmax(2)
            loss = loss - (soft[:, None] * given).sum(2).sum(1).mean()
            at += n
        return loss, logits

    @torch.no_grad()
    def _told(self, frames: Tensor, lengths: Tensor) -> list[Tensor]:
        """What some teachers say of a batch together: probabilities (B, K) and (B, C)."""
        sums = [torch.zeros(()), torch.zeros(())]
        n = min(self.recipe.teachers_each, len(self.teachers))
        for i in torch.randperm(len(self.teachers), generator=self.draw)[:n].tolist():
            teacher = self.teachers[i]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                logits = teacher.classify(teacher.embed(frames, lengths).float())
            scores = log_scores(teacher, logits.float().cpu())
            sums = [a + b.exp() / n for a, b in zip(sums, scores, strict=True)]
        return sums

    def _validate(self) -> dict[str, float]:
        if not len(self.outside):
            return {}
        labels = self.batches.labels[torch.from_numpy(self.outside)]
        logits = predict(self.average.net, self.batches, self.outside)
        coarse, fine = log_scores(self.average.net, logits)
        figures = {
            "loss/validation": F.nll_loss(fine, labels).item(),
            "accuracy/validation": (fine.argmax(1) == labels).float().mean().item(),
        }
        if coarse.shape[1]:
            right = coarse.argmax(1) == self.coarse_of[labels]
            figures["accuracy/validation coarse"] = right.float().mean().item()
        return figures

    def _finish(self) -> None:
        """What the model file needs besides the weights: temperature, and the none output."""
        temperature = self.recipe.temperature
        net = self.average.net
        if not temperature and len(self.outside):
            logits = predict(net, self.batches, self.outside)
            labels = self.batches.labels[torch.from_numpy(self.outside)]
            temperature = calibrated(log_scores(net, logits)[1], labels)
        extra: dict[str, Any] = {"temperature": temperature or 1.0}
        if isinstance(net, flagship.FlagshipNet):
            none = fit_none(net, self.batches, self.inside.numpy(), self.recipe.seed)
            extra["none"] = {k: v.tolist() for k, v in none.state_dict().items()}
        (self.folder / SCORES).write_text(
            json.dumps({"best": self.best, "epochs": self.epoch, "seconds": self.spent_s, **extra})
        )

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "draw": self.draw.get_state(),
            "dropout": torch.get_rng_state(),
            "step": self.step,
            "epoch": self.epoch,
            "spent_s": self.spent_s,
            "best": self.best,
            "since_best": self.since_best,
        }
        _write(self.folder / LAST, state)

    def _load(self) -> None:
        state = _read(self.folder / LAST)
        self.net.load_state_dict(state["net"])
        self.average.net.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.draw.set_state(state["draw"].cpu())
        torch.set_rng_state(state["dropout"].cpu())
        self.step, self.epoch, self.spent_s = state["step"], state["epoch"], state["spent_s"]
        self.best, self.since_best = state["best"], state["since_best"]


def runs_in(folder: str | Path) -> list[Path]:
    """The run in a folder, or the folds' runs; raises TrainingError when there is none."""
    folder = Path(folder)
    if (folder / RUN).is_file():
        return [folder]
    runs = sorted((f.parent for f in folder.glob(f"fold-*/{RUN}")), key=lambda f: (len(f.name), f))
    if not runs:
        raise TrainingError(f"{folder}: not the folder of a training (no {RUN} to read)")
    return runs


def _teacher(folder: Path, gestures: Gestures, held_out: set[str]) -> Net:
    """A finished run's network; raises TrainingError where it cannot teach these gestures."""
    net, settings, _ = load_run(folder)
    if settings["classes"] != gestures.classes or settings["canonical"] != gestures.canonical:
        raise TrainingError(f"{folder}: a teacher of other classes or channels")
    seen = sorted(held_out & set(settings["subjects"]), key=lambda s: (len(s), s))
    if settings["data"] == gestures.data and seen:
        raise TrainingError(f"{folder}: this teacher was trained on the held-out {seen[0]!r}")
    return net


def train_folds(
    gestures: Gestures,
    recipe: Recipe,
    out: str | Path,
    folds: int,
    *,
    device: str = "auto",
    resume: bool = False,
    watch: Watch = _quiet,
    command: str = "",
) -> Iterator[Outcome]:
    """A run ``out/fold-K`` for each group of subjects; as many folds as subjects leave one out."""
    for k, group in enumerate(fold_subjects(gestures.subjects, folds)):
        folder = Path(out) / f"fold-{k + 1}"
        yield train_isolated(
            gestures, recipe, folder, held_out=group, device=device,
            resume=resume and (folder / LAST).exists(), watch=watch, command=command,
        )  # fmt: skip


def calibrated(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature that makes held-out scores most likely; a search, so it cannot diverge."""
    temperatures = torch.logspace(-1, 1, 201)
    losses = [F.cross_entropy(log_probabilities / t, labels).item() for t in temperatures]
    return round(float(temperatures[int(np.argmin(losses))]), 4)


def fit_none(
    net: flagship.FlagshipNet, batches: _Batches, index: NDArray[np.int64], seed: int
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


# ---- the run folder -----------------------------------------------------------------------------


def _settings(
    gestures: Gestures,
    recipe: Recipe,
    inside: NDArray[np.int64],
    held_out: Sequence[str],
    command: str,
) -> dict[str, Any]:
    return {
        "data": gestures.data,
        "gestures": len(gestures),
        "classes": gestures.classes,
        "coarse_of": list(gestures.coarse_of),
        "coarse_classes": gestures.coarse_classes,
        "channels": gestures.channels,
        "canonical": gestures.canonical,
        "rate_hz": gestures.rate_hz,
        "subjects": sorted({gestures.subjects[i] for i in inside}, key=lambda s: (len(s), s)),
        "held_out": list(held_out),
        "recipe": asdict(recipe),
        "command": command,
        "versions": {
            "hgr-stream": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def read_run(folder: str | Path) -> dict[str, Any]:
    """A run folder's settings; raises TrainingError."""
    path = Path(folder) / RUN
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise TrainingError(f"{folder}: not the folder of a training (no {RUN} to read)") from None
    return settings


def recipe_of(settings: dict[str, Any]) -> Recipe:
    """The recipe in a run's settings; raises TrainingError."""
    try:
        return msgspec.convert(settings["recipe"], Recipe)
    except (msgspec.ValidationError, KeyError) as error:
        raise TrainingError(f"{RUN}: not a recipe of this version ({error})") from None


def _resumable(folder: Path, told: dict[str, Any]) -> Recipe:
    before = read_run(folder)
    if not (folder / LAST).exists():
        raise TrainingError(f"{folder}: no epoch was finished; nothing to resume")
    for name in ("data", "gestures", "classes", "channels", "held_out"):
        if before.get(name) != told[name]:
            raise TrainingError(f"{folder}: trained with other {name}; resume wants the same")
    return recipe_of(before)


def _write(path: Path, state: Any) -> None:
    """Whole or not at all: a run may be killed at any moment."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise TrainingError(f"{path}: not a checkpoint ({str(error).splitlines()[0]})") from None
    except Exception as error:  # weights_only refuses by pickle's own error
        raise TrainingError(f"{path}: refused: {str(error).splitlines()[0]}") from None


class _curves:  # noqa: N801
    """TensorBoard's curves, if it is installed: ``with _curves(folder) as curve: curve(...)``."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer: Any = SummaryWriter(str(folder))
        except ImportError:
            self.writer = None

    def __enter__(self) -> Callable[[str, float, int], None]:
        return lambda name, value, epoch: (
            self.writer.add_scalar(name, value, epoch) if self.writer is not None else None
        )

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()


def load_run(folder: str | Path) -> tuple[Net, dict[str, Any], dict[str, Any]]:
    """A run's best network, its settings and its scores; raises TrainingError."""
    folder = Path(folder)
    settings = read_run(folder)
    net = build(
        recipe_of(settings),
        len(settings["classes"]),
        tuple(settings["coarse_of"]),
        settings["channels"],
    )
    try:
        net.load_state_dict(_read(folder / BEST))
        scores = json.loads((folder / SCORES).read_text())
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{folder}: not a finished training; resume it first") from None
    return net.eval(), settings, scores


def export_run(
    folder: str | Path,
    output: str | Path,
    *,
    name: str = "",
    coarse: bool = False,
    temperature: float = 0.0,
    scores: dict[str, Any] | None = None,
    int8: bool = False,
    command: str = "",
) -> Metadata:
    """Write a run's network as a model file; raises TrainingError or ModelError.

    coarse: give the coarse classes (SHREC'17: the 14). scores: what the file shall say of itself
    besides the run's own. temperature: 0 takes the run's. int8: the reference network's first
    layer in 8 bits.
    """
    net, settings, found = load_run(folder)
    output = Path(output)
    recipe = recipe_of(settings)
    if coarse and not settings["coarse_classes"]:
        raise TrainingError(f"{folder}: its classes have no coarse ones")
    streaming = isinstance(net, flagship.FlagshipNet)
    size = 1 if streaming else devineau.DURATION
    metadata = Metadata(
        format=FORMAT,
        name=name or output.stem,
        kind="streaming" if streaming else "windowed",
        labels=settings["coarse_classes"] if coarse else settings["classes"],
        rate_hz=settings["rate_hz"],
        size=size,
        hop=size if streaming else 4,
        temperature=temperature or found["temperature"],
        training={
            "data": settings["data"],
            "gestures": settings["gestures"],
            "subjects": settings["subjects"],
            "held_out": settings["held_out"],
            "isolated": True,
            "recipe": asdict(recipe),
            "seed": recipe.seed,
            "epochs": found["epochs"],
            "seconds": round(found["seconds"], 1),
            "command": settings["command"],
            "export": command,
            "versions": settings["versions"],
        },
        scores={**_own_scores(found["best"]), **(scores or {})},
    )
    if isinstance(net, flagship.FlagshipNet):
        none = nn.Linear(4 * net.width * len(net.branches), 1)
        none.load_state_dict({k: torch.tensor(v) for k, v in found["none"].items()})
        bundle.save(flagship.export(net, none, coarse), metadata, output)
    else:
        devineau.export_devineau(net.net, metadata, output, int8)
    return metadata


def _own_scores(best: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 4) for k, v in best.items() if "validation" in k}


def scaled(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with those of ``changes`` that are not None."""
    return replace(recipe, **{k: v for k, v in changes.items() if v is not None})
