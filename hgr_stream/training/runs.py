"""The folder of a training, and the model file that is made from it.

``run.json``: data, classes, subjects, recipe, command, versions. ``last.pt``: everything that a
resumed training needs. ``best.pt``: the weights kept. ``scores.json``: how good they are.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..datasets.gestures import NO_STREAM, Gestures, in_order
from ..faults import first_line
from ..recognition import bundle, devineau, flagship, flagship_stream
from ..recognition.options import FORMAT, DecoderOptions, Metadata, mirror_pairs, needs_left
from ..skeleton import lacked
from ..whole import write_whole
from .isolated_recipe import Net, Recipe, TrainingError, Units, build
from .learnt import Learnt
from .made_with import versions

SHORTEST: Final = 0.02  # share of the gestures that last less than a window of the stream
HOP_S: Final = 2 / 15  # between windows
RUN, LAST, BEST, SCORES = "run.json", "last.pt", "best.pt", "scores.json"


def runs_in(folder: str | Path) -> list[Path]:
    """The run in a folder, or those of its folds and seeds; raises TrainingError for none."""
    folder = Path(folder)
    if (folder / RUN).is_file():
        return [folder]
    runs = _with(RUN, folder)
    if not runs:
        raise TrainingError(f"{folder}: not the folder of a training (no {RUN} to read)")
    return sorted(runs, key=lambda f: [(len(p), p) for p in f.relative_to(folder).parts])


def _with(name: str, folder: Path) -> list[Path]:
    """The folder and those of folds and seeds in it, as far as they hold such a file."""
    kinds = ("", "fold-*/", "seed-*/", "seed-*/fold-*/")
    return [f.parent for kind in kinds for f in folder.glob(f"{kind}{name}")]


def refuse_among_others(folder: Path) -> None:
    """Raise TrainingError where new runs would be judged with older ones, or hide them."""
    if before := _with(LAST, folder):
        raise TrainingError(f"{before[0]}: holds a run already; resume it, or name another folder")


def new_settings(
    gestures: Gestures,
    recipe: Recipe,
    inside: NDArray[np.int64],
    held_out: Sequence[str],
    command: str,
) -> dict[str, Any]:
    return {
        "data": gestures.data,
        "gestures": len(gestures),
        "content": content([gestures]),
        "classes": gestures.classes,
        "coarse_of": list(gestures.coarse_of),
        "coarse_classes": gestures.coarse_classes,
        "channels": gestures.channels,
        "canonical": gestures.canonical,
        "rate_hz": gestures.rate_hz,
        "shortest_s": float(
            np.quantile((gestures.lengths[inside] - 1) / gestures.rate_hz, SHORTEST)
        ),
        "lacks": list(lacked(gestures.take(inside).lacks)),
        "subjects": in_order(gestures.subjects[i] for i in inside),
        "held_out": list(held_out),
        "recipe": asdict(recipe),
        "command": command,
        "versions": versions(),
    }


def content(sets: Sequence[Gestures]) -> str:
    """A digest of every number, label and subject, whatever the files are called."""
    digest = hashlib.blake2b(digest_size=8)
    for g in sets:
        told = [g.classes, list(g.coarse_of), g.labels.tolist(), g.subjects, g.lengths.tolist()]
        digest.update(json.dumps(told).encode())
        for sequence in g.sequences:
            digest.update(np.ascontiguousarray(sequence, dtype="<f4").tobytes())
    return digest.hexdigest()


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


def units_in(settings: dict[str, Any]) -> Units | None:
    """Of a run's settings or what its model says of its training."""
    return Units(*settings["units"]) if settings.get("units") else None


def resumable(folder: Path, told: dict[str, Any]) -> Recipe:
    """The recipe of the run in a folder, if ``told`` has its data; raises TrainingError."""
    before = read_run(folder)
    if not (folder / LAST).exists():
        raise TrainingError(f"{folder}: no epoch was finished; nothing to resume")
    # A run of before contents were told is known by its data's name.
    same = ("data", "gestures") if "content" not in before else ()
    for name in (*same, "classes", "channels", "held_out", "also"):
        if before.get(name, []) != told[name]:
            raise TrainingError(f"{folder}: trained with other {name}; resume wants the same")
    for name in ("content", "also_content"):
        if before.get(name, told[name]) != told[name]:
            raise TrainingError(
                f"{folder}: trained with other gestures, labels or subjects; resume wants the same"
            )
    return recipe_of(before)


def write(path: Path, state: Any) -> None:
    """A checkpoint, for ``read``; raises TrainingError."""
    data = io.BytesIO()  # on a full disk torch's own writer ends in its destructor
    torch.save(state, data)
    _write(path, data.getvalue())


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Settings or scores; raises TrainingError."""
    _write(path, json.dumps(told, indent=1).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror or error}") from None


def read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise TrainingError(f"{path}: not a checkpoint ({first_line(error)})") from None
    except Exception as error:  # weights_only refuses by pickle's own error
        raise TrainingError(f"{path}: refused: {first_line(error)}") from None


class Curves:
    """TensorBoard's curves, if it is installed: ``with Curves(folder) as curve: curve(...)``."""

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
        units_in(settings),
    )
    try:
        scores = json.loads((folder / SCORES).read_text())
    except (ValueError, OSError):
        raise TrainingError(f"{folder}: not a finished training; resume it first") from None
    try:
        net.load_state_dict(read(folder / BEST))
    except RuntimeError:
        raise TrainingError(f"{folder}: {BEST} is of another version's network") from None
    return net.eval(), settings, scores


def export_run(folder: str | Path, output: str | Path, **more: Any) -> Metadata:
    """Write a run's network as a model file; ``more`` is ``model_of``'s. Raises TrainingError or
    ModelError."""
    runs = runs_in(folder)
    if len(runs) > 1:
        raise TrainingError(f"{folder}: holds {len(runs)} runs; name one of them, {runs[0]} say")
    settings, output = read_run(folder), Path(output)
    if not settings["canonical"]:
        raise TrainingError(f"{folder}: {settings['channels']} channels are no hand: {NO_STREAM}")
    module, metadata = model_of(folder, **more | {"name": more.get("name") or output.stem})
    bundle.save(module, metadata, output)
    return metadata


def model_of(
    folder: str | Path,
    *,
    name: str = "",
    coarse: bool = False,
    temperature: float = 0.0,
    scores: dict[str, Any] | None = None,
    int8: bool = False,
    command: str = "",
) -> tuple[Any, Metadata]:
    """A run's network scripted, and what it says of itself; raises TrainingError.

    coarse: give the coarse classes (SHREC'17: the 14). scores: what the file shall say of itself
    besides the run's own. temperature: 0 takes the run's. int8: the reference network's first
    layer in 8 bits.
    """
    net, settings, found = load_run(folder)
    recipe = recipe_of(settings)
    if coarse and not settings["coarse_classes"]:
        raise TrainingError(f"{folder}: its classes have no coarse ones")
    streaming = isinstance(net, flagship.FlagshipNet)
    if int8 and streaming:
        raise TrainingError(f"{folder}: 8 bits are of the reference network; leave --int8 away")
    labels = settings["coarse_classes"] if coarse else settings["classes"]
    metadata = Metadata(
        format=FORMAT,
        name=name,
        kind="streaming" if streaming else "windowed",
        labels=labels,
        mirror_labels=mirror_pairs(labels),
        needs=needs_left(settings.get("lacks", ())),
        rate_hz=settings["rate_hz"],
        size=1,
        hop=1,
        temperature=temperature
        or (coarse and found.get("temperature_coarse"))  # older runs have none
        or found["temperature"],
        training={
            "data": settings["data"],
            "also": settings.get("also", []),
            "gestures": settings["gestures"],
            "channels": settings["channels"],
            "canonical": settings["canonical"],
            **({"units": settings["units"]} if settings.get("units") else {}),
            "rate_hz": settings["rate_hz"],
            "subjects": settings["subjects"],
            "held_out": settings["held_out"],
            **({"learnt": settings["learnt"]} if "learnt" in settings else {}),
            "isolated": True,
            "recipe": asdict(recipe),
            "seed": recipe.seed,
            "epochs": found["epochs"],
            "command": settings["command"],
            "export": command,
            "versions": settings["versions"],
        },
        scores={**_own_scores(found["best"], coarse), **(scores or {})},
    )
    if isinstance(net, flagship.FlagshipNet):
        none = nn.Linear(net.pooled, 1)
        none.load_state_dict({k: torch.tensor(v) for k, v in found["none"].items()})
        return flagship_stream.export(net, none, coarse), metadata
    _in_windows(metadata, settings.get("shortest_s"))
    coarse_of = settings["coarse_of"] if coarse else ()
    return devineau.script_devineau(net.net, metadata.size, int8, coarse_of), metadata


def _in_windows(metadata: Metadata, shortest_s: float | None) -> None:
    """How the reference network hears a stream: a window is as long as a short gesture, and there
    is none before the hand was there for so long. It tells that there is a gesture; which, the
    verifier tells of the whole. Older runs do not know ``shortest_s``: their rate stays."""
    metadata.size = devineau.DURATION
    if shortest_s is not None:
        metadata.rate_hz = min((metadata.size - 1) / shortest_s, 1000.0)
    metadata.hop = min(max(round(HOP_S * metadata.rate_hz), 1), metadata.size)
    metadata.verify_temperature = metadata.temperature
    metadata.decoder = DecoderOptions(early_on=False, min_duration_s=0.0)


def _own_scores(best: dict[str, float], coarse: bool) -> dict[str, float]:
    """Figures of the held-out; where the model gives the coarse classes, the one that is theirs."""
    own = {k: round(v, 4) for k, v in best.items() if "validation" in k}
    if not coarse:
        return own
    theirs = own.get("accuracy/validation coarse")  # older runs of the reference network have none
    return {} if theirs is None else {"accuracy/validation": theirs}


class Teacher(NamedTuple):
    """A network that others learn from, and what it has learnt from itself."""

    net: Net
    learnt: Learnt


def teachers_for(folder: Path, gestures: Gestures, held: NDArray[np.int64]) -> list[Teacher]:
    """The networks in a folder that have not seen the held-out, neither takes nor people; raises
    TrainingError for none.

    Of a folder of folds it is the fold that held them out, too: so that folds can be taught.
    """
    fit, first = [], ""
    part = gestures.take(held)
    for run in runs_in(folder):
        net, settings, _ = load_run(run)
        theirs = settings["classes"], settings["channels"], settings["canonical"]
        if theirs != (gestures.classes, gestures.channels, gestures.canonical):
            raise TrainingError(f"{run}: a teacher of other classes or channels")
        if settings["rate_hz"] != gestures.rate_hz:
            raise TrainingError(f"{run}: a teacher of {settings['rate_hz']:g} frames a second")
        learnt = Learnt.from_metadata(settings)
        takes, people = learnt.of_gestures(part, gestures)
        if (takes | people).any():
            first = first or part.subjects[np.flatnonzero(takes | people)[0]]
        else:
            fit.append(Teacher(net, learnt))
    if not fit:
        raise TrainingError(f"{folder}: this teacher was trained on the held-out {first!r}")
    return fit
