"""How good a model is on isolated gestures of people it has not seen.

``Model`` runs a model file of either kind on whole gestures and on their beginnings; ``evaluate``
gives a ``Report``; ``refuse_overlap`` keeps anybody from reporting a score on the people that the
model was trained on. Nothing here chooses anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.base import DatasetError
from ..datasets.gestures import Gestures, at_rate, in_order
from ..recognition import bundle
from ..recognition.bundle import Bundle, ModelError
from ..skeleton import N_JOINTS, Float32
from .distort import resampled
from .intervals import by_recording, wilson
from .isolated_outputs import calibrated
from .learnt import Learnt
from .metrics import calibration_error
from .runs import units_in

FRACTIONS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

BINS: Final = 15  # of the calibration error


class OverlapError(ValueError):
    """The model was trained on those it would be evaluated on."""


class Model:
    """A model file on whole gestures: ``probabilities(joints (T, 22, 3)) -> (C,)``.

    A streaming model steps through the gesture; a windowed one gets it stretched to its window.
    """

    def __init__(self, model: str | Path | Bundle) -> None:
        self.bundle = model if isinstance(model, Bundle) else bundle.load(model)
        self.labels = self.bundle.metadata.labels
        recipe = self.bundle.metadata.training.get("recipe", {})
        self.cubic = not isinstance(recipe, dict) or bool(recipe.get("cubic", True))
        training = self.bundle.metadata.training
        self.canonical = training.get("canonical", True)
        self.channels = training.get("channels", 3 * N_JOINTS)
        self.units = units_in(training)

    @torch.inference_mode()
    def over_time(self, joints: Float32, fractions: Sequence[float]) -> NDArray[np.float64]:
        """(F, C) probabilities after each fraction of the gesture's frames."""
        if self.units:
            joints = self.units.of(torch.from_numpy(joints)).numpy()
        frames = [max(1, math.ceil(f * len(joints) - 1e-9)) for f in fractions]
        if self.bundle.metadata.kind == "streaming":
            module = self.bundle.module
            given = torch.from_numpy(np.ascontiguousarray(joints))[None]
            logits = module(given, module.initial_state(1))[0][0, :, 1:]
            scores = logits[[n - 1 for n in frames]]
        else:
            scores = torch.cat([self._windowed(joints[:n]) for n in frames])
        soft = (scores.double() / self.bundle.metadata.temperature).softmax(1)
        return soft.numpy()  # type: ignore[no-any-return]

    def probabilities(self, joints: Float32) -> NDArray[np.float64]:
        """(T, 22, 3) metres -> (C,)."""
        out: NDArray[np.float64] = self.over_time(joints, (1.0,))[0]
        return out

    def _windowed(self, joints: Float32) -> torch.Tensor:
        """Stretched as in training: by the paper's cubic zoom, or linearly."""
        size = self.bundle.metadata.size
        if self.cubic:
            from ..recognition.devineau import resample_zoom

            window = torch.from_numpy(resample_zoom(joints, size))
        else:
            frames = torch.from_numpy(np.ascontiguousarray(joints)).flatten(1)
            window = resampled(frames, torch.tensor([len(frames)]), size)[0]
        logits: torch.Tensor = self.bundle.module(window.view(1, size, *joints.shape[1:]))
        return logits[:, 1:] if self.bundle.has_none else logits


@dataclass
class Report:
    """Shares from 0 to 1. ``confusion``: (C, C) counts, a row a true class."""

    gestures: int
    accuracy: float
    low: float  #: Wilson's 95 % interval
    high: float
    by_people: list[float]  #: the same when people are drawn anew; empty for a single one
    per_class: dict[str, dict[str, float]]  #: precision, recall, f1, gestures; of those there
    confusion: list[list[int]]
    labels: list[str]
    per_subject: dict[str, float]
    subject_spread: float  #: standard deviation of the subjects' accuracies
    calibration_error: float  #: expected, 15 bins of equal width
    by_fraction: dict[str, float]  #: accuracy after this share of the frames
    mistakes: list[dict[str, Any]]
    by_seed: dict[str, float] = field(default_factory=dict)  #: accuracy of each training's seed
    seed_spread: float = 0.0  #: their standard deviation
    notes: list[str] = field(default_factory=list)  #: what to know of the figures

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def align(labels: Sequence[str], gestures: Gestures) -> Gestures:
    """The gestures labelled in a model's own order, by their classes or their coarse ones, which
    may be some of the model's. Raises ModelError when there is one that the model does not know.
    """
    for known in (gestures, gestures.of_coarse() if gestures.coarse_of else gestures):
        if set(known.classes) <= set(labels):
            order = np.array([list(labels).index(c) for c in known.classes], dtype=np.int64)
            return replace(
                known, labels=order[known.labels], classes=list(labels), coarse_of=(),
                coarse_classes=[],
            )  # fmt: skip
    strange = sorted(set(gestures.classes) - set(labels))
    raise ModelError(
        f"the model's {len(labels)} classes are not the data's: it does not know {strange[0]!r}"
    )


def refuse_overlap(
    training: dict[str, Any], gestures: Gestures, whole: Gestures | None = None
) -> None:
    """Raise OverlapError if the model has learnt from one of ``gestures``, a part of ``whole``
    [gestures], or from somebody in them; see ``Learnt.of_gestures``."""
    learnt = Learnt.from_metadata(training)
    takes, people = learnt.of_gestures(gestures, whole)
    if takes.any():
        raise OverlapError(
            f"trained on {takes.sum()} of the {len(gestures)} gestures it would be evaluated on, "
            f"the first being {gestures.names[int(takes.argmax())]}"
        )
    if people.any() and any(known.people is None for known in learnt.takes):
        raise OverlapError(f"the model was trained on {gestures.data} and does not tell on whom")
    both = in_order(np.array(gestures.subjects)[people].tolist())
    if both:
        raise OverlapError(
            f"trained on {len(both)} of the {len(set(gestures.subjects))} subjects it would be "
            f"evaluated on ({', '.join(s or 'unnamed' for s in both[:5])}"
            f"{', ...' if len(both) > 5 else ''})"
        )


def scores(
    model: Model,
    gestures: Gestures,
    fractions: Sequence[float] = FRACTIONS,
    watch: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Probabilities (N, F, C) of every gesture after each fraction of it.

    The gestures' classes must be the model's (see ``align``); a streaming model gets them at its
    own rate, a windowed one stretched. Raises ModelError for other channels.
    """
    if (gestures.canonical, gestures.channels) != (model.canonical, model.channels):
        raise ModelError(
            f"{gestures.data}: {_kind(gestures)}; the model was trained on {_kind(model)}"
        )
    out = np.empty((len(gestures), len(fractions), len(gestures.classes)))
    m = model.bundle.metadata
    for i in range(len(gestures)):
        given = gestures.joints(i) if gestures.canonical else gestures.sequences[i]
        if m.kind == "streaming" and m.rate_hz != gestures.rate_hz:
            time_s = np.arange(len(given)) / gestures.rate_hz
            flat = at_rate(given.reshape(len(given), -1), time_s, m.rate_hz)
            given = flat.reshape(-1, *given.shape[1:])
        out[i] = model.over_time(given, fractions)
        watch((i + 1) / len(gestures))
    return out


def _kind(of: Model | Gestures) -> str:
    return "hands" if of.canonical else f"{of.channels} channels that are no hand"


def evaluate(model: Model, gestures: Gestures) -> Report:
    """Run ``model`` on gestures labelled by its own classes or their finer ones.

    Raises ModelError where the classes do not fit and OverlapError where the people overlap.
    """
    own = align(model.labels, gestures)
    refuse_overlap(model.bundle.metadata.training, own)
    return report(own, scores(model, own), FRACTIONS)


def report(
    gestures: Gestures, given: NDArray[np.float64], fractions: Sequence[float] = (1.0,)
) -> Report:
    """Probabilities (N, F, C) after each fraction, the last of which is the whole -> a Report."""
    labels, names = gestures.labels, gestures.classes
    final = given[:, -1]
    found = final.argmax(1)
    right = found == labels
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels, found), 1)
    per_class = {}
    for c, name in enumerate(names):
        if not (labels == c).any():
            continue
        hits, told, true = confusion[c, c], confusion[:, c].sum(), confusion[c].sum()
        per_class[name] = {
            "precision": float(hits / told) if told else 0.0,
            "recall": float(hits / true) if true else 0.0,
            "f1": float(2 * hits / (told + true)) if told + true else 0.0,
            "gestures": int(true),
        }
    people = np.array(gestures.subjects)
    per_subject = {s: float(right[people == s].mean()) for s in in_order(gestures.subjects)}
    low, high = wilson(int(right.sum()), len(labels))
    absent = [name for name in names if name not in per_class]
    notes = [f"not in the data: {', '.join(absent)}"] if absent else []
    return Report(
        len(labels),
        float(right.mean()),
        low,
        high,
        _by_people(people, right),
        per_class,
        confusion.tolist(),
        list(names),
        per_subject,
        float(np.std(list(per_subject.values()))),
        calibration_error(final.max(1), right, BINS),
        {
            f"{f:g}": float((given[:, k].argmax(1) == labels).mean())
            for k, f in enumerate(fractions)
        },
        [
            {
                "name": gestures.names[i],
                "subject": gestures.subjects[i],
                "label": names[labels[i]],
                "found": names[found[i]],
                "confidence": round(float(final[i].max()), 4),
            }
            for i in np.flatnonzero(~right)
        ],
        notes=notes,
    )


def _by_people(people: NDArray[np.str_], right: NDArray[np.bool_]) -> list[float]:
    """The accuracy's 95 % interval, whole people drawn: one's gestures resemble each other."""
    names, index = np.unique(people, return_inverse=True)
    n, hits = np.bincount(index), np.bincount(index, weights=right)
    limits = by_recording(len(names), lambda of: {"accuracy": float(hits[of].sum() / n[of].sum())})
    return list(limits.get("accuracy", ()))


def calibrated_apart(
    parts: Sequence[tuple[Gestures, NDArray[np.float64]]], temperatures: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Scores (N, F, C) as they are with temperatures that were not fitted to whom they are of: each
    person's by one that fits everybody else's whole gestures in all parts.

    temperatures: with which each part's scores were made. Raises DatasetError for a single person.
    """
    raw = [t * np.log(np.maximum(p, 1e-300)) for (_, p), t in zip(parts, temperatures, strict=True)]
    whole = torch.from_numpy(np.concatenate([r[:, -1] for r in raw]))
    labels = torch.from_numpy(np.concatenate([g.labels for g, _ in parts]))
    people = np.array([s for g, _ in parts for s in g.subjects])
    names = np.unique(people)
    if len(names) < 2:
        raise DatasetError("one person alone: a temperature would be fitted to nobody")
    apart = {}
    for name in names:
        others = torch.from_numpy(people != name)
        apart[str(name)] = calibrated(whole[others], labels[others])
    out = []
    for (g, _), r in zip(parts, raw, strict=True):
        scaled = r / np.array([apart[s] for s in g.subjects])[:, None, None]
        soft = np.exp(scaled - scaled.max(2, keepdims=True))
        out.append(soft / soft.sum(2, keepdims=True))
    return out


def pooled(
    parts: Sequence[tuple[Gestures, NDArray[np.float64]]], seeds: Sequence[int] = ()
) -> Report:
    """One report over folds: each part's gestures with the scores (N, F, C) of *its* model.

    seeds: each part's, where gestures come once for every seed. Accuracies are then means over
    the seeds; the interval is that of one seed's number of gestures, and ``confusion``,
    ``gestures`` and ``mistakes`` count every seed's.
    """
    first = parts[0][0]
    everyone = Gestures(
        first.data,
        [s for g, _ in parts for s in g.sequences],
        np.concatenate([g.labels for g, _ in parts]),
        first.classes,
        [s for g, _ in parts for s in g.subjects],
        [n for g, _ in parts for n in g.names],
        first.rate_hz,
    )
    found = report(everyone, np.concatenate([found for _, found in parts]), FRACTIONS)
    if len(set(seeds)) < 2:
        return found
    rights: dict[int, list[bool]] = {}
    for (g, given), seed in zip(parts, seeds, strict=True):
        rights.setdefault(seed, []).extend(given[:, -1].argmax(1) == g.labels)
    means = {str(seed): float(np.mean(r)) for seed, r in sorted(rights.items())}
    mean, n = float(np.mean(list(means.values()))), found.gestures / len(means)
    low, high = wilson(round(mean * n), round(n))
    spread = float(np.std(list(means.values()), ddof=1))
    return replace(found, accuracy=mean, low=low, high=high, by_seed=means, seed_spread=spread)


def draw_confusion(found: Report, path: Path) -> None:
    """The confusion matrix as a picture; rows are true classes, in per cent of each."""
    from matplotlib.figure import Figure  # not pyplot: a notebook's own backend is left alone

    counts = np.array(found.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(found.labels)
    figure = Figure(figsize=(2.5 + 0.36 * n, 2 + 0.36 * n))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), found.labels, rotation=90, fontsize=8)
    axes.set_yticks(range(n), found.labels, fontsize=8)
    axes.set_xlabel("found")
    axes.set_ylabel("true")
    axes.set_title(
        f"{100 * found.accuracy:.1f} % of {found.gestures} "
        f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
    )
    for i, j in zip(*np.nonzero(counts), strict=True):
        axes.text(
            j, i, str(counts[i, j]), ha="center", va="center", fontsize=6,
            color="white" if shares[i, j] > 0.5 else "black",
        )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=130)
