"""Training on isolated gestures: what ``hgr train`` runs without ``--online``.

``train_isolated`` is one training: a run folder with its settings, a checkpoint after every epoch
(an interrupted run goes on where it was, to the same weights), TensorBoard curves and the network
that is kept. The same loop trains the flagship and the reference network; they differ in how a
batch of packed gestures becomes their input (see ``isolated_recipe``). ``isolated_folds`` is one
run for each group of held-out subjects and each seed, ``runs`` the folder and the model file.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..datasets.base import DatasetError
from ..datasets.gestures import Gestures, divide
from ..datasets.takes import copies, copies_told
from ..faults import first_line
from ..recognition import flagship
from .average import Average
from .batches import Batches, predict
from .beside import Beside, backwards, moved_to
from .distort import Distortion
from .isolated_outputs import calibrated, fit_none
from .isolated_recipe import Net, Recipe, TrainingError, Units, build, log_scores, units_of
from .learnt import Learnt
from .optimiser import adamw
from .runs import (
    BEST,
    LAST,
    RUN,
    SCORES,
    Curves,
    Teacher,
    content,
    new_settings,
    read,
    read_run,
    refuse_among_others,
    resumable,
    teachers_for,
    units_in,
    write,
    write_json,
)

LEAST_SEEN: Final = 0.2  # share of a gesture of which something is asked already

#: (epoch, epochs, figures of the epoch by name, with the ``share`` of the schedule that is done)
#: after each epoch; raise to stop.
Watch = Callable[[int, int, dict[str, float]], None]


def quiet(_epoch: int, _epochs: int, _figures: dict[str, float]) -> None:
    return


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one; raises TrainingError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r}: {first_line(error)}") from None
    return device


def _has_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 here."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and amx is not None and bool(amx())


@dataclass
class Outcome:
    """A finished run. ``figures`` are of the epoch kept; ``held_out`` the subjects left out, of
    whom there are ``gestures``; ``notes`` what was left out or not done, a line each."""

    folder: Path
    net: Net
    figures: dict[str, float]
    held_out: list[str]
    epochs: int
    seed: int = 0
    gestures: int = 0
    notes: list[str] = field(default_factory=list)


def train_isolated(
    gestures: Gestures,
    recipe: Recipe,
    out: str | Path,
    *,
    held_out: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    watch: Watch = quiet,
    command: str = "",
    also: Sequence[Gestures] = (),
    options: dict[str, Any] | None = None,
) -> Outcome:
    """One training into the folder ``out``; raises TrainingError or DatasetError.

    held_out: subjects that are validated on and never trained on. The last epoch is kept, so that
    their score is an honest one; with ``patience`` the best, which flatters a little. resume: go
    on from the folder's last finished epoch, with the folder's own recipe; a finished run is left
    as it is. also: other data sets that are learnt beside (see ``beside``), ``recipe.beside``
    gestures of each in every batch; takes and people that are held out are left out of them.
    options: kept in the run's settings, for the command line.
    """
    gestures.check()
    inside, outside = parts(gestures, held_out)
    if recipe.model == "flagship" and not gestures.canonical:
        raise DatasetError(
            f"{gestures.data}: {gestures.channels} channels are no hand of 20, 21, 22 or 26 "
            "joints in 3 dimensions, which the flagship takes; use the model devineau"
        )
    if also or recipe.backwards:
        odd = next((g.data for g in (*also, gestures) if not g.canonical), None)
        if odd:
            raise DatasetError(f"{odd}: its channels are no hand; only hands learn beside others")
        for one in also:
            if one.rate_hz != gestures.rate_hz:
                raise DatasetError(
                    f"{one.data}: {one.rate_hz:g} frames a second, where {gestures.data} has "
                    f"{gestures.rate_hz:g}"
                )
        if not recipe.beside:
            raise DatasetError("beside is 0: no gesture of the other data sets would be seen")
    folder = Path(out)
    told = new_settings(gestures, recipe, inside, held_out, command) | {"options": options or {}}
    notes, others = copies_told(gestures, "they count twice"), []
    if unnamed := len(outside) and sum(not gestures.subjects[i] for i in inside):
        notes.append(f"{unnamed} gestures name no subject: learnt, even if of who is held out")
    held = Learnt.from_gestures(gestures.take(outside))
    for one in also:
        takes, people = held.of_gestures(one)
        away = takes | people
        if away.all():
            raise DatasetError(
                f"{one.data}: all of it is held out; nothing is left to learn beside"
            )
        if away.any():
            notes.append(f"{one.data}: {away.sum()} gestures of the held-out are not learnt beside")
        others.append(one.take(np.flatnonzero(~away)))
        if same := held.namesakes(others[-1]):
            notes.append(f"{one.data}: {same} learnt beside, though called as those held out are")
    told["also"] = [g.data for g in others]
    told["also_content"] = content(others)
    told["notes"] = notes
    told["units"] = units = units_of(gestures.take(inside))
    if resume:
        recipe = resumable(folder, told)
        units = units_in(read_run(folder))  # an older run has none
    else:
        refuse_among_others(folder)
    teachers = [t for f in recipe.teachers for t in teachers_for(Path(f), gestures, outside)]
    if not resume:
        learnt = Learnt.from_gestures(gestures.take(inside), *others)
        for teacher in teachers:
            learnt |= teacher.learnt
        told["learnt"] = learnt.metadata()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, told)
    found = _Loop(
        gestures, recipe, folder, inside, outside, pick_device(device), others, teachers, units
    ).run(resume, watch, list(held_out))
    found.notes = notes + found.notes
    return found


def parts(
    gestures: Gestures, held_out: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and positions held out; raises DatasetError unless there are two
    classes or more, each of which somebody who is trained on performs, none that no model file can
    have, and no take on both sides.
    """
    if len(gestures.classes) < 2:
        raise DatasetError(
            f"{gestures.data}: all gestures are {gestures.classes[0]!r}; two labels or more are "
            "wanted, to be told apart"
        )
    nothing = next((c for c in gestures.classes if c.lower() == "none"), None)
    if gestures.canonical and nothing is not None:
        raise DatasetError(
            f"{gestures.data}: {nothing!r} is what a model tells of no gesture: leave these takes "
            "out (where nobody gestures is learnt by hgr train --online)"
        )
    inside, outside = divide(gestures.subjects, held_out)
    seen = set(gestures.labels[inside].tolist())
    if len(seen) < len(gestures.classes):
        empty = gestures.classes[min(set(range(len(gestures.classes))) - seen)]
        who = f" when {', '.join(held_out)} are held out" if held_out else ""
        raise DatasetError(f"class {empty!r} has no gesture of the subjects trained on{who}")
    away = set(outside.tolist())
    for pair in copies(gestures) if away else []:
        if len(away & set(pair)) == 1:
            one, other = (f"{gestures.names[i]} ({gestures.subjects[i] or '?'})" for i in pair)
            raise DatasetError(
                f"{one} and {other} are the same take, which would be learnt and judged at once; "
                "name it once, or the same subject for both"
            )
    return inside, outside


@dataclass(frozen=True)
class _Batch:
    """``own`` gestures and, after them, those of the other sets: packed frames and their lengths;
    what is ``wanted`` of the own, probabilities of coarse classes and classes; the others' labels.
    """

    own: int
    frames: Tensor
    lengths: Tensor
    wanted: list[Tensor]
    others: list[Tensor]
    smoothing: float


class _Loop:
    def __init__(
        self,
        gestures: Gestures,
        recipe: Recipe,
        folder: Path,
        inside: NDArray[np.int64],
        outside: NDArray[np.int64],
        device: torch.device,
        also: Sequence[Gestures] = (),
        teachers: Sequence[Teacher] = (),
        units: Units | None = None,
    ) -> None:
        self.gestures, self.recipe, self.folder, self.device = gestures, recipe, folder, device
        self.inside, self.outside = torch.from_numpy(inside), outside
        self.batches = Batches(gestures, recipe, device)
        self.coarse_of = torch.tensor(gestures.coarse_of, dtype=torch.long)
        self.net = build(
            recipe, len(gestures.classes), gestures.coarse_of, gestures.channels, units
        ).to(device)
        self.average = Average(self.net, recipe.keep)
        self.beside = self._beside(also).to(device)
        learnt = (*self.net.parameters(), *self.beside.parameters())
        self.optimiser = adamw(learnt, recipe.rate, recipe.decay)
        self.draw = torch.Generator().manual_seed(recipe.seed)
        self.step, self.epoch, self.spent_s = 0, 0, 0.0
        self.best: dict[str, float] = {}
        self.since_best = 0
        self.bf16 = _has_bf16(device)
        self.teachers = [t.net.to(device).requires_grad_(False) for t in teachers]

    def _beside(self, also: Sequence[Gestures]) -> Beside:
        """The other sets' heads and gestures; of those held out nothing is played backwards, and
        nothing told of where they perform."""
        own, recipe = self.gestures.take(self.inside.tolist()), self.recipe
        sets = [moved_to(g, own) for g in also]
        if recipe.backwards:
            sets.append(backwards(own))
        return Beside(sets, self.net.pooled, recipe.beside, recipe.dropout)

    def run(self, resume: bool, watch: Watch, held_out: list[str]) -> Outcome:
        if resume:
            self._load()
        finished = self._ended() and (self.folder / SCORES).exists()
        if not finished:
            self._learn(watch)
        self.average.module.load_state_dict(read(self.folder / BEST))
        if not finished:
            self._finish()
        notes = [f"{self.folder}: was finished already; nothing was done"] if finished else []
        return Outcome(
            self.folder, self.average.module, self.best, held_out, self.epoch, self.recipe.seed,
            len(self.outside), notes,
        )  # fmt: skip

    def _learn(self, watch: Watch) -> None:
        recipe = self.recipe
        with Curves(self.folder) as curve:
            while not self._ended():
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
                    write(self.folder / BEST, self.average.module.state_dict())
                self._save()
                watch(self.epoch, recipe.epochs, {**figures, "share": self._share()})

    def _ended(self) -> bool:
        recipe = self.recipe
        tired = bool(recipe.patience) and self.since_best >= recipe.patience
        return tired or self.epoch >= recipe.epochs or self._share() >= 1

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
            batch = self._batch(index)
            drawn = self.draw.get_state()
            loss, logits = self._loss(batch, mixed)
            if not math.isfinite(loss.item()):
                raise TrainingError(f"epoch {self.epoch + 1}: the loss is {loss.item()}")
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.sharpness:
                with self._uphill():
                    self.draw.set_state(drawn)
                    self.optimiser.zero_grad(set_to_none=True)
                    self._loss(batch, mixed)[0].backward()
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
        # Of few gestures an epoch is one step, and of every second one all are mixed.
        known = {"accuracy/train": right / plain} if plain else {}
        return {"loss/train": loss_sum / self._steps(), **known, "learning rate": rate}

    @contextlib.contextmanager
    def _uphill(self) -> Iterator[None]:
        """Within: the weights are where, nearby, the loss is highest. What its gradient there
        lowers is the loss of the whole neighbourhood (Foret et al., *Sharpness-aware minimization*,
        ICLR 2021)."""
        moved = [p for p in self.net.parameters() if p.grad is not None]
        length = torch.stack([p.grad.norm() for p in moved if p.grad is not None]).norm()
        before = [p.detach().clone() for p in moved]
        with torch.no_grad():
            for p in moved:
                assert p.grad is not None
                p.add_(p.grad, alpha=self.recipe.sharpness / (float(length) + 1e-12))
        yield
        with torch.no_grad():
            for p, old in zip(moved, before, strict=True):
                p.copy_(old)

    def _batch(self, index: Tensor) -> _Batch:
        """Gestures ``index``, distorted, with what is to be said of them, and the other sets'."""
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
        others: list[Tensor] = []
        if self.beside.labels:
            more, n, others = self.beside.draw(recipe.distortion or Distortion(), self.draw)
            frames = torch.cat([frames, more.to(self.device)])
            lengths = torch.cat([lengths, n.to(self.device)])
        return _Batch(len(index), frames, lengths, wanted, others, smoothing)

    def _loss(self, batch: _Batch, mixed: bool) -> tuple[Tensor, Tensor]:
        recipe, own, wanted = self.recipe, batch.own, batch.wanted
        frames, lengths, smoothing = batch.frames, batch.lengths, batch.smoothing
        loss = torch.zeros((), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if recipe.beginnings and isinstance(self.net, flagship.FlagshipNet):
                share = LEAST_SEEN + (1 - LEAST_SEEN) * torch.rand(own, generator=self.draw)
                x, begun = self.net.embed_with_beginnings(frames, lengths, share.to(self.device))
                # The less was seen, the less can be known.
                weight = recipe.beginnings * share.to(self.device)
                loss = self._entropy(self.net.classify(begun), wanted, smoothing, weight)
            else:
                x = self.net.embed(frames, lengths)
            x = x.float()
            if batch.others:
                loss = loss + self.beside.loss(x[own:], batch.others, recipe.smoothing) / own
                x = x[:own]
            if mixed:
                alpha = torch.full((2,), recipe.mixup)
                parts = torch._standard_gamma(alpha, generator=self.draw)
                w = float(parts[0] / parts.sum())
                other = torch.randperm(own, generator=self.draw)
                x = w * x + (1 - w) * x[other.to(self.device)]
                wanted = [w * t + (1 - w) * t[other] for t in wanted]
            logits = self.net.classify(x)
        return loss + self._entropy(logits, wanted, smoothing), logits

    def _entropy(
        self,
        logits: Tensor,
        wanted: list[Tensor],
        smoothing: float,
        weight: Tensor | float = 1.0,
    ) -> Tensor:
        """Cross-entropy of every branch and head, (B, G, K + C) against (B, K) and (B, C)."""
        loss = torch.zeros((), device=self.device)
        at = 0
        for target in wanted:
            n = target.shape[1]
            soft = target.to(self.device) * (1 - smoothing) + smoothing / n
            given = logits[:, :, at : at + n].float().log_softmax(2)
            loss = loss - ((soft[:, None] * given).sum(2).sum(1) * weight).mean()
            at += n
        return loss

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
        logits = predict(self.average.module, self.batches, self.outside)
        coarse, fine = log_scores(self.average.module, logits)
        figures = {
            "loss/validation": F.nll_loss(fine, labels).item(),
            "accuracy/validation": (fine.argmax(1) == labels).float().mean().item(),
        }
        if coarse.shape[1]:
            right = coarse.argmax(1) == self.coarse_of[labels]
            figures["accuracy/validation coarse"] = right.float().mean().item()
        return figures

    def _finish(self) -> None:
        """What the model file needs besides the weights: temperatures, and the none output."""
        net = self.average.module
        extra: dict[str, Any] = {"temperature": self.recipe.temperature or 1.0}
        if not self.recipe.temperature and len(self.outside):
            logits = predict(net, self.batches, self.outside)
            labels = self.batches.labels[torch.from_numpy(self.outside)]
            coarse, fine = log_scores(net, logits)
            extra["temperature"] = calibrated(fine, labels)
            if coarse.shape[1]:
                extra["temperature_coarse"] = calibrated(coarse, self.coarse_of[labels])
        if isinstance(net, flagship.FlagshipNet):
            none = fit_none(net, self.batches, self.inside.numpy(), self.recipe.seed)
            extra["none"] = {k: v.tolist() for k, v in none.state_dict().items()}
        told = {"best": self.best, "epochs": self.epoch, "seconds": self.spent_s, **extra}
        write_json(self.folder / SCORES, told)

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "beside": self.beside.state_dict(),
            "average": self.average.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "draw": self.draw.get_state(),
            "dropout": torch.get_rng_state(),
            "step": self.step,
            "epoch": self.epoch,
            "spent_s": self.spent_s,
            "best": self.best,
            "since_best": self.since_best,
        }
        if self.device.type == "cuda":  # dropout is drawn there
            state["dropout_cuda"] = torch.cuda.get_rng_state(self.device)
        write(self.folder / LAST, state)

    def _load(self) -> None:
        state = read(self.folder / LAST)
        self.net.load_state_dict(state["net"])
        self.beside.load_state_dict(state.get("beside", {}))
        self.average.module.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.draw.set_state(state["draw"].cpu())
        torch.set_rng_state(state["dropout"].cpu())
        if self.device.type == "cuda" and "dropout_cuda" in state:
            torch.cuda.set_rng_state(state["dropout_cuda"].cpu(), self.device)
        self.step, self.epoch, self.spent_s = state["step"], state["epoch"], state["spent_s"]
        self.best, self.since_best = state["best"], state["since_best"]
