"""How a model's step is run: by TorchScript, or, for networks that we know, by compiled loops.

``stepper(bundle)`` chooses. TorchScript is the model's form and the reference: the compiled step
takes its weights out of the loaded module (``weights()``), and is used only after it has given the
same as the module on a made-up hand. Without numba, for other people's models and for windowed
ones TorchScript runs.

Measured for ``leap``, one hand, one thread (``tools/bench/step.py``): TorchScript spends nearly all
of its time between some 150 tensor operations, and after a pause, when their code has gone from
the caches, several times as much.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..faults import MOST, error_line
from ..skeleton import N_JOINTS, Float32
from .layout import (
    ALIGNED,
    Arena,
    Weights,
    aligned,
    causal_plan,
    flagship_plan,
    shaped,
    sparse,
    up,
)

if TYPE_CHECKING:
    from .bundle import Bundle

#: Where the compiled step is held to the module's, on probabilities (and seconds).
TOLERANCE: Final = 1e-4
LENGTH: Final = 32  # frames to which segments.SegmentVerifier and SegmentDater stretch


class Outputs(NamedTuple):
    """Of a step over n frames of B hands: probs (B, n, 1+C), rows sum to 1; boundary (B, n, 2)
    probabilities; embedding (B, n, E); state (B, S), which may be the one given, changed."""

    probs: Float32
    boundary: Float32
    embedding: Float32
    state: Float32


class Stepper(Protocol):
    """A streaming model's arithmetic on arrays."""

    def __call__(self, joints: Float32, states: Float32) -> Outputs:
        """joints (B, n, 22, 3) and states (B, S), C-contiguous; the states may be changed."""

    def verify(self, segment: Float32) -> Float32:
        """The verifier's probabilities (1+C,) of a segment (T, 22, 3)."""

    def refine(self, segment: Float32) -> Float32:
        """The dater's shifts (2,) in seconds of a segment (T, 22, 3) with its margins."""


def softmax(logits: NDArray) -> Float32:
    """Over the last axis."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    probs: Float32 = (e / e.sum(-1, keepdims=True)).astype(np.float32)
    return probs


def of_segment(net: Any, segment: Float32) -> Float32:
    """What a network of batches of segments, a module or its method, says of one (T, 22, 3)."""
    import torch

    with torch.inference_mode():
        said: Float32 = net(torch.from_numpy(np.ascontiguousarray(segment))[None])[0].numpy()
    return said


def stepper(bundle: Bundle) -> Stepper:
    """The fastest step that is right for a streaming model; kept with the bundle."""
    if bundle.stepper is None:
        bundle.stepper = _compiled(bundle) or Scripted(bundle)
    chosen: Stepper = bundle.stepper
    return chosen


class Scripted:
    """The module itself."""

    def __init__(self, bundle: Bundle) -> None:
        self._module, m = bundle.module, bundle.metadata
        self._temperature, self._verify_temperature = m.temperature, m.verify_temperature

    def __call__(self, joints: Float32, states: Float32) -> Outputs:
        import torch

        with torch.inference_mode():
            out = self._module(torch.from_numpy(joints), torch.from_numpy(states))
            logits, boundary, embedding, after = (t.numpy() for t in out)
        probs = softmax(logits / self._temperature)
        return Outputs(probs, 1.0 / (1.0 + np.exp(-boundary)), embedding, after)

    def verify(self, segment: Float32) -> Float32:
        return softmax(of_segment(self._module.verify, segment) / self._verify_temperature)

    def refine(self, segment: Float32) -> Float32:
        return of_segment(self._module.refine, segment)


class Compiled:
    """A network's weights laid out for ``kernels``, and the call."""

    def __init__(self, bundle: Bundle) -> None:
        from . import kernels

        w = {name: tensor.numpy() for name, tensor in bundle.module.weights().items()}
        arena = Arena()
        self._sparse = sparse(w["projection"], arena)
        self.outputs = 1 + len(bundle.metadata.labels)
        if "score_weight" in w:
            plan = flagship_plan(w, arena, self.outputs, kernels.DEPTH)
            branches = len(w["head_weight"])
            self._run: Any = kernels.flagship_step
            self._more: tuple[NDArray, ...] = (w["coarse_of"].astype(np.int64),)
        else:
            plan = causal_plan(w, arena, self.outputs, kernels.DEPTH)
            branches = 1
            self._run, self._more = kernels.causal_step, ()
        size = int(bundle.module.initial_state(1).shape[1])
        if size != plan.state_size:
            raise ValueError(f"a state of {size} numbers, {plan.state_size} are wanted")
        self.weights, self.width = arena.array(), plan.width
        self._plan = np.array(plan.numbers, np.int64)
        # Rows of scratch take features (plan 4), statistics, and heads (plan 7 or 8).
        longest = up(max(4 * plan.width, kernels.PROJECTED, *plan.numbers[4:9]), ALIGNED)
        rows = kernels.SCRATCH + kernels.TILE * branches
        self._scratch = aligned(np.zeros((rows, longest), np.float32))
        m = bundle.metadata
        self._gain = np.float32(1.0 / m.temperature)
        self.segments: dict[str, CompiledSegment] = {}
        for name, gain in (("verifier", 1.0 / m.verify_temperature), ("dater", 1.0)):
            own = {k.removeprefix(f"{name}."): v for k, v in w.items() if k.startswith(f"{name}.")}
            if own:
                made = CompiledSegment(own, w["projection"], m.rate_hz, gain)
                if made.outputs != (self.outputs if name == "verifier" else 2):
                    raise ValueError(f"{name} gives {made.outputs} numbers")
                self.segments[name] = made

    def verify(self, segment: Float32) -> Float32:
        return self.segments["verifier"](segment)

    def refine(self, segment: Float32) -> Float32:
        return self.segments["dater"](segment)

    def __call__(self, joints: Float32, states: Float32) -> Outputs:
        batch, n = joints.shape[:2]
        probs = np.empty((batch, n, self.outputs), np.float32)
        boundary = np.empty((batch, n, 2), np.float32)
        embedding = np.empty((batch, n, self.width), np.float32)
        self._run(
            self.weights,
            self._plan,
            self._sparse,
            *self._more,
            self._scratch,
            joints.reshape(batch, n, 3 * N_JOINTS),
            states,
            self._gain,
            probs,
            boundary,
            embedding,
        )
        return Outputs(probs, boundary, embedding, states)


class CompiledSegment:
    """A verifier or a dater: a segment (T, 22, 3) -> (1+C,) probabilities or (2,) seconds."""

    def __init__(self, weights: Weights, projection: NDArray, rate_hz: float, gain: float) -> None:
        from . import kernels

        w, arena, depth = weights, Arena(), kernels.DEPTH
        self._sparse = sparse(projection, arena)
        n_in = 125 if "margin" in w else 124
        width, last, self.outputs = (len(w[f"{name}.bias"]) for name in ("conv1", "conv3", "head"))
        mixed = len(w["mix.bias"]) if "margin" in w else 0
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (n_in,),
            "gain": (n_in,),
            "conv1.weight": (width, n_in, 5),
            "conv2.weight": (width, width, 3),
            "conv2.bias": (width,),
            "conv3.weight": (last, width, 3),
            "head.weight": (self.outputs, mixed or 2 * last),
        }
        if mixed:
            shapes["mix.weight"] = (mixed, LENGTH // 4 * last)
        shaped(w, **shapes)
        head_n = up(self.outputs, ALIGNED)
        if width % depth or last % depth or mixed % depth:
            raise ValueError(f"widths {width}, {last}, {mixed}")
        start = arena.put(np.concatenate([w["mean"], w["gain"]]))
        for i in (1, 2, 3):
            arena.put(w[f"conv{i}.bias"])
            taps = w[f"conv{i}.weight"].transpose(2, 1, 0).reshape(-1, len(w[f"conv{i}.bias"]))
            arena.put(taps, rows=up(len(taps), depth))
        if mixed:
            arena.put(w["mix.bias"])
            arena.put(w["mix.weight"].T)
        arena.put(w["head.bias"], columns=head_n)
        arena.put(w["head.weight"].T, columns=head_n)
        margin = int(w["margin"][0]) if "margin" in w else -1
        # Rows: one to start from, then each layer's with the zeros that its taps reach into.
        half, quarter = LENGTH // 2, LENGTH // 4
        second = 1 + LENGTH + 4
        third = second + half + 2
        end = third + quarter + 2
        layers = [
            [1, LENGTH, 5, n_in, width, second + 1, 1],
            [second, half, 3, width, width, third + 1, 1],
            [third, quarter, 3, width, last, end, 0],
        ]
        plan = [start, LENGTH, n_in, last, quarter, head_n, self.outputs, margin, mixed, end]
        self._plan, self._layers = np.array(plan, np.int64), np.array(layers, np.int64)
        self._weights = arena.array()
        widest = max(5 * n_in, 3 * width, 2 * last, quarter * last, mixed, head_n) + depth
        self._scratch = np.zeros((9, up(widest, ALIGNED)), np.float32)
        columns = up(max(n_in, width, last), ALIGNED)
        self._work = np.zeros((end + quarter, columns), np.float32)
        self._inverse_rate, self._gain = np.float32(1 / rate_hz), np.float32(gain)
        self._run: Any = kernels.segment_net

    def __call__(self, segment: Float32) -> Float32:
        result = np.empty((1, 1, self.outputs), np.float32)
        joints = np.ascontiguousarray(segment).reshape(1, len(segment), 3 * N_JOINTS)
        self._run(
            self._weights,
            self._plan,
            self._layers,
            self._sparse,
            self._scratch,
            self._work,
            joints,
            self._inverse_rate,
            self._gain,
            result,
        )
        said: Float32 = result[0, 0]
        return said


def _compiled(bundle: Bundle) -> Compiled | None:
    """The compiled step, if there is one for this model and it agrees with the module."""
    if not hasattr(bundle.module, "weights"):
        return None
    log, name = logging.getLogger(__name__), bundle.metadata.name
    try:
        fast = Compiled(bundle)
        gap = disagreement(fast, bundle)
    except ImportError:  # numba comes with the extra "inference"
        return None
    except Exception as error:  # a network of another build, no place to keep what is compiled, ...
        why = f"{type(error).__name__}: {error_line(error)[:MOST]}"
        log.warning("model %s: no compiled step (%s); TorchScript runs", name, why)
        return None
    if gap < TOLERANCE:
        return fast
    log.warning(
        "model %s: the compiled step differs from TorchScript by %.2g; TorchScript runs", name, gap
    )
    return None


def disagreement(step: Stepper, bundle: Bundle, frames: int = 40) -> float:
    """Largest difference from the module in what is told of two made-up hands, one frame at a
    time, in one go, and as segments; infinity where one gives NaN."""
    rng = np.random.default_rng(0)
    hands = rng.uniform(-0.08, 0.08, (2, 1, N_JOINTS, 3)) + np.array([0.0, 0.2, 0.1])
    hands = hands + rng.normal(0, 0.01, (2, frames, 1, 3)).cumsum(1)
    joints = (hands + rng.normal(0, 0.002, (2, frames, N_JOINTS, 3)).cumsum(1)).astype(np.float32)
    fresh = np.array(bundle.module.initial_state(2).numpy(), np.float32)
    module = Scripted(bundle)
    wanted = module(joints, fresh.copy())
    pairs = list(zip(step(joints, fresh.copy())[:2], wanted[:2], strict=True))
    state = fresh
    for k in range(frames):
        probs, boundary, _, state = step(np.ascontiguousarray(joints[:, k : k + 1]), state)
        pairs += [(probs[:, 0], wanted.probs[:, k]), (boundary[:, 0], wanted.boundary[:, k])]
    if bundle.has_verifier:
        pairs += [(step.verify(part), module.verify(part)) for part in (joints[0], joints[1, :5])]
    if bundle.metadata.refine_margin_s > 0:
        pairs += [(step.refine(part), module.refine(part)) for part in (joints[0], joints[1, 9:])]
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    return worst if all(np.isfinite(a).all() for a, _ in pairs) else float("inf")


def main() -> None:
    """Compile the steps of all shipped models, so that the first start need not."""
    from .bundle import load, shipped

    for name in shipped():
        load(name)


if __name__ == "__main__":
    main()
