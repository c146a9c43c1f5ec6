"""A model is one file: a TorchScript archive with ``extra/hgr.json`` inside.

``read_metadata`` needs no torch; ``load`` does, and takes nothing on trust: the file is run once
on a still hand and its shapes are compared with what its metadata promises. Nothing is ever
unpickled but what TorchScript's own loader reads.
"""

from __future__ import annotations

import importlib.resources
import io
import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ..config import path_of
from ..faults import first_line
from ..skeleton import N_JOINTS
from ..whole import write_whole
from .options import FORMAT, SKELETON, Metadata

_ENTRY: Final = "hgr.json"
_MAX_METADATA: Final = 1 << 20
LONGEST_S: Final = 3600.0  #: of a decoder's times; its other settings are below by far


class ModelError(ValueError):
    """A model that cannot be used; the text says which and why in one line."""


@dataclass
class Bundle:
    """A loaded model. ``module`` follows the contract in ``recognition``'s docstring."""

    metadata: Metadata
    module: Any
    path: Path
    state_size: int = 0  #: of one hand; 0 for windowed models
    has_none: bool = True  #: output 0 means no gesture
    has_verifier: bool = False
    stepper: Any = None  #: how its step is run, once chosen: see ``steppers``


def shipped() -> list[str]:
    """Names of the models in the package."""
    folder = importlib.resources.files("hgr_stream") / "models"
    return sorted(p.name[:-3] for p in folder.iterdir() if p.name.endswith(".pt"))


def resolve(name: str | Path) -> Path:
    """A shipped model's name ("leap") or a path -> the path; raises ModelError."""
    path = path_of(str(name))
    if path.is_file():
        return path
    if path.name == str(name) and not path.suffix:
        inside = Path(str(importlib.resources.files("hgr_stream") / "models" / f"{name}.pt"))
        if inside.is_file():
            return inside
        known = ", ".join(shipped()) or "none"
        raise ModelError(f"{name}: no such model file, nor a shipped model (shipped: {known})")
    if path.is_dir():
        raise ModelError(f"{path}: a folder, not a model file")
    raise ModelError(f"{path}: no such model file")


def read_metadata(path: str | Path) -> Metadata:
    """The metadata of a model file or shipped name, checked; raises ModelError."""
    path = resolve(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(f"/extra/{_ENTRY}")]
            if not names:
                raise ModelError(f"{path}: no metadata in it (extra/{_ENTRY}); not a model of ours")
            if archive.getinfo(names[0]).file_size > _MAX_METADATA:
                raise ModelError(f"{path}: metadata larger than {_MAX_METADATA} bytes")
            raw = archive.read(names[0])
    except ModelError:
        raise
    except Exception as error:  # of a damaged archive: zlib, lzma and codecs have their own
        raise ModelError(f"{path}: not a TorchScript file ({error})") from None
    try:
        metadata = msgspec.json.decode(raw, type=Metadata)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: metadata: {error}") from None
    fault = _fault(metadata)
    if fault:
        raise ModelError(f"{path}: {fault}")
    return metadata


def _fault(m: Metadata) -> str:
    """What is wrong with metadata that is well-formed, or nothing."""
    if m.format != FORMAT:
        return f"model format {m.format}; this version reads {FORMAT}"
    if m.skeleton != SKELETON:
        return f"made for the skeleton {m.skeleton!r}; the stream carries {SKELETON!r}"
    if not m.labels or len(set(m.labels)) != len(m.labels) or "" in m.labels:
        return "its labels are empty or repeated"
    if "none" in m.labels:
        return "'none' is among its labels; it is output 0, unnamed"
    if not (math.isfinite(m.rate_hz) and 1 <= m.rate_hz <= 1000):
        return f"rate {m.rate_hz} Hz is not between 1 and 1000"
    if not 1 <= m.hop <= m.size <= 10_000:
        return f"window of {m.size} frames every {m.hop}: wants 1 <= hop <= size <= 10000"
    if m.kind == "streaming" and m.size != m.hop:
        return f"a streaming model takes each frame once: size {m.size} is not hop {m.hop}"
    if not (m.temperature > 0 and m.verify_temperature > 0):
        return "its temperature is not positive"
    strange = (set(m.mirror_labels) | set(m.mirror_labels.values())) - set(m.labels)
    if strange:
        return f"mirror label {sorted(strange)[0]!r}, which is not among its labels"
    unknown = set(m.decoder.per_class) - set(m.labels)
    if unknown:
        return f"decoder settings for {sorted(unknown)[0]!r}, which is not among its labels"
    own = msgspec.structs.asdict(m.decoder)
    per_class = own.pop("per_class")
    numbers = [("refine_margin_s", m.refine_margin_s), *own.items()]
    for label, limits in per_class.items():
        numbers += [(f"{name} of {label}", v) for name, v in msgspec.structs.asdict(limits).items()]
    for name, value in numbers:  # NaN is not between any two
        if isinstance(value, float) and not 0 <= value <= LONGEST_S:
            return f"decoder setting {name} is {value:g}, not between 0 and {LONGEST_S:g}"
    return ""


def save(module: Any, metadata: Metadata, path: str | Path) -> None:
    """Write a scripted module and its metadata as one file; raises ModelError if they clash, or the
    file cannot be written."""
    import torch

    fault = _fault(metadata)
    if fault:
        raise ModelError(f"{path}: {fault}")
    path = Path(path)
    _examine(module, metadata, path)
    text = msgspec.json.format(msgspec.json.encode(metadata), indent=1)
    data = io.BytesIO()  # on a full disk torch's own writer ends the process
    torch.jit.save(module, data, _extra_files={_ENTRY: text})
    # A daemon may be told to take the file while it is written: it appears whole or not at all.
    try:
        write_whole(path, data.getvalue())
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: str | Path, threads: int = 1) -> Bundle:
    """Load, warm up and check a model by file or shipped name, and compile its step where that is
    possible (once on a machine: some seconds); raises ModelError.

    ``threads`` is torch's thread count for the whole process: a step is far too small to share.
    """
    path = resolve(path)
    metadata = read_metadata(path)
    # Weights of megabytes in huge pages, where the system has them: a tenth faster to read.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        import torch
    except ImportError:
        raise ModelError(
            f'{path.name} needs torch to run: pip install "hgr-stream[inference]"'
        ) from None
    torch.set_num_threads(threads)
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # an IndexError too, of a file that is damaged
        raise ModelError(f"{path}: torch cannot load it: {first_line(error)}") from None
    bundle = _examine(module, metadata, path)
    if metadata.kind == "streaming":
        from .steppers import stepper

        stepper(bundle)  # now, not with the first window
    return bundle


def _examine(module: Any, metadata: Metadata, path: Path) -> Bundle:
    """Run it on a still hand, for one hand and for two, and compare the shapes; also warms up."""
    import torch

    bundle = Bundle(metadata, module, path)
    classes = len(metadata.labels)

    def wrong(what: str, got: object, wanted: object) -> ModelError:
        return ModelError(f"{path}: {what} has shape {tuple(got)}, metadata wants {wanted}")  # type: ignore[arg-type]

    try:
        with torch.inference_mode():
            for batch in (2, 1, 1, 1):
                n = metadata.size
                hand = torch.linspace(0, 0.2, n * N_JOINTS * 3).view(1, n, N_JOINTS, 3)
                joints = hand.expand(batch, -1, -1, -1).contiguous()
                if metadata.kind == "windowed":
                    logits = module(joints)
                    if tuple(logits.shape) not in {(batch, classes), (batch, 1 + classes)}:
                        raise wrong("output", logits.shape, (batch, f"{classes} or {1 + classes}"))
                    bundle.has_none = logits.shape[1] == 1 + classes
                else:
                    state = module.initial_state(batch)
                    logits, boundary, embedding, after = module(joints, state)
                    if tuple(logits.shape) != (batch, n, 1 + classes):
                        raise wrong("logits", logits.shape, (batch, n, 1 + classes))
                    if tuple(boundary.shape) != (batch, n, 2):
                        raise wrong("boundary", boundary.shape, (batch, n, 2))
                    if embedding.shape[:2] != (batch, n):
                        raise wrong("embedding", embedding.shape, (batch, n, "E"))
                    if state.ndim != 2 or state.shape[0] != batch or after.shape != state.shape:
                        raise wrong("state", after.shape, tuple(state.shape))
                    bundle.state_size = state.shape[1]
                if not bool(torch.isfinite(logits).all()):
                    raise ModelError(f"{path}: gives NaN or infinity on a still hand")
            segment = joints.expand(-1, 5 * n, -1, -1)[:, :5] if n == 1 else joints
            judged = {}
            if hasattr(module, "verify"):
                verdict = judged["verify"] = module.verify(segment)
                if tuple(verdict.shape) != (1, 1 + classes):
                    raise wrong("verify", verdict.shape, (1, 1 + classes))
                bundle.has_verifier = True
            if metadata.refine_margin_s > 0:
                shift = judged["refine"] = module.refine(segment)
                if tuple(shift.shape) != (1, 2):
                    raise wrong("refine", shift.shape, (1, 2))
            for what, found in judged.items():
                if not bool(torch.isfinite(found).all()):
                    raise ModelError(f"{path}: {what} gives NaN or infinity on a still hand")
    except (RuntimeError, AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ModelError):
            raise
        text = str(error).strip().splitlines()
        reason = text[-1] if text else type(error).__name__
        raise ModelError(
            f"{path}: does not run as a {metadata.kind} model on {metadata.size} frames: {reason}"
        ) from None
    return bundle
