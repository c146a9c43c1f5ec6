"""Weights in the order in which ``kernels`` reads them.

Nothing is taken on trust: the kernels check no index, so every shape is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..skeleton import Float32

ALIGNED: Final = 16  # floats: a cache line


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def aligned(array: Float32) -> Float32:
    """A copy that begins at a cache line."""
    room = np.zeros(array.size + ALIGNED, np.float32)
    first = -room.ctypes.data % (4 * ALIGNED) // 4
    copy = room[first : first + array.size].reshape(array.shape)
    copy[...] = array
    return copy


class Arena:
    """Arrays one right after the other."""

    def __init__(self) -> None:
        self._parts: list[Float32] = []
        self.size = 0

    def put(self, array: NDArray, rows: int = 0, columns: int = 0) -> int:
        """Take an array, padded with zeros to so many rows and columns; its place."""
        array = np.atleast_2d(array)
        room = np.zeros((max(rows, array.shape[0]), max(columns, array.shape[1])), np.float32)
        room[: array.shape[0], : array.shape[1]] = array
        self._parts.append(room.ravel())
        self.size += room.size
        return self.size - room.size

    def align(self) -> None:
        """Let the next array begin at a cache line."""
        self.put(np.zeros(-self.size % ALIGNED, np.float32))

    def array(self) -> Float32:
        return aligned(np.concatenate(self._parts))


def sparse(projection: NDArray, arena: Arena) -> NDArray[np.int64]:
    """Entries of a matrix that are not zero, column by column: into the arena; where each column
    begins, and then the entries' rows."""
    columns, rows = np.nonzero(projection.T)
    arena.put(projection.T[columns, rows])
    starts = np.searchsorted(columns, np.arange(projection.shape[1] + 1))
    return np.concatenate([starts, rows]).astype(np.int64)


def _rings(write_slots: NDArray, slots: int) -> list[int]:
    """Dilations, from where each layer's ring of 2 d slots begins."""
    dilations = [int(n) // 2 for n in np.diff([*write_slots[0], slots])]
    if min(dilations) < 1 or 2 * sum(dilations) != slots:
        raise ValueError(f"rings of {dilations} in {slots} slots")
    return dilations


Weights = Mapping[str, NDArray]


def shaped(w: Weights, **shapes: tuple[int, ...]) -> None:
    """Raises ValueError for the first array of another shape: the loops check no index."""
    for name, shape in shapes.items():
        if w[name].shape != shape:
            raise ValueError(f"{name} has shape {w[name].shape}, {shape} is wanted")


class Plan(NamedTuple):
    """What a kernel is told of the arena, the embedding's width and a state's size."""

    numbers: list[int]
    width: int
    state_size: int


def causal_plan(w: Weights, arena: Arena, outputs: int, depth: int) -> Plan:
    """``StreamingNet``'s, see ``kernels.causal_step``."""
    layers, width = w["now_weight"].shape[:2]
    n_in, period = 252, len(w["tap_slots"])
    shaped(
        w,
        projection=(66, 150),
        lag_scales=(135,),
        stem_weight=(n_in, width),
        stem_bias=(width,),
        past_weight=(layers, 2 * width, width),
        past_bias=(layers, 1, width),
        now_weight=(layers, width, width),
        mix_weight=(layers, width, width),
        head_weight=(width, outputs + 2),
        head_bias=(outputs + 2,),
        tap_slots=(period, 2 * layers),
        write_slots=(period, layers),
    )
    deep, head_n = up(n_in, depth), up(outputs + 2, ALIGNED)
    scales = arena.put(w["lag_scales"])
    if width % depth:
        raise ValueError(f"width {width} is not a multiple of {depth}")
    arena.align()
    start = arena.put(w["stem_bias"])
    arena.put(w["stem_weight"], rows=deep)
    for layer in range(layers):
        arena.put(w["past_bias"][layer])
        arena.put(np.concatenate([w["past_weight"][layer], w["now_weight"][layer]]))
        arena.put(w["mix_weight"][layer])
    arena.put(w["head_bias"], columns=head_n)
    arena.put(w["head_weight"], columns=head_n)
    dilations = _rings(w["write_slots"], int(w["tap_slots"].max()) + 1)
    plan = [scales, start, width, layers, deep, n_in, outputs, head_n, period, *dilations]
    return Plan(plan, width, 2 + 16 * 63 + 2 * sum(dilations) * width)


def flagship_plan(w: Weights, arena: Arena, outputs: int, depth: int) -> Plan:
    """``StreamingFlagship``'s, see ``kernels.flagship_step``."""
    layers, branches, width = w["now_weight"].shape[:3]
    attention, n_logits = w["score_weight"].shape[2], w["head_weight"].shape[2]
    n_in, wide = 323, branches * width
    coarse_of = w["coarse_of"]
    coarse = int(coarse_of.max()) + 1 if coarse_of.size else 0
    period, stride, wrap, give_coarse = (int(n) for n in w["counting"])
    classes = n_logits - coarse
    shaped(
        w,
        projection=(66, 150),
        scales=(135,),
        stem_weight=(n_in, wide),
        stem_bias=(wide,),
        past_weight=(layers * branches, 2 * width, width),
        past_bias=(layers * branches, 1, width),
        now_weight=(layers, branches, width, width),
        mix_weight=(layers, branches, width, width),
        score_weight=(branches, width, attention),
        score_bias=(branches, 1, attention),
        head_weight=(branches, 4 * width, n_logits),
        head_bias=(branches, 1, n_logits),
        none_weight=(4 * wide, 1),
        none_bias=(1,),
        coarse_of=(classes if coarse else 0,),
        tap_slots=(period, 2 * layers),
        write_slots=(period, layers),
    )
    if coarse_of.size and coarse_of.min() < 0:
        raise ValueError("a class of no coarse class")
    if outputs != 1 + (coarse if give_coarse else classes) or width % attention or stride < 1:
        raise ValueError(f"{outputs} outputs, {attention} attention heads, stride {stride}")
    deep, head_n = up(n_in, depth), up(n_logits + 1, ALIGNED)
    score_n = up(attention, ALIGNED)
    if width % depth:
        raise ValueError(f"width {width} is not a multiple of {depth}")
    scales = arena.put(w["scales"])
    arena.align()
    start = arena.put(w["stem_bias"])
    arena.put(w["stem_weight"], rows=deep)
    past = w["past_weight"].reshape(layers, branches, 2 * width, width)
    bias = w["past_bias"].reshape(layers, branches, width)
    for layer in range(layers):
        for g in range(branches):
            arena.put(bias[layer, g])
            arena.put(np.concatenate([past[layer, g], w["now_weight"][layer, g]]))
            arena.put(w["mix_weight"][layer, g])
    for g in range(branches):
        arena.put(w["score_bias"][g], columns=score_n)
        arena.put(w["score_weight"][g], columns=score_n)
    # What says none sees all branches: it is one more column of each branch's head.
    none = w["none_weight"].reshape(branches, 4 * width, 1)
    for g in range(branches):
        own = w["none_bias"] if g == 0 else np.zeros(1, np.float32)
        arena.put(np.concatenate([w["head_bias"][g].ravel(), own]), columns=head_n)
        arena.put(np.concatenate([w["head_weight"][g], none[g]], 1), columns=head_n)
    dilations = _rings(w["write_slots"], int(w["tap_slots"].max()) + 1)
    plan = [scales, start, width, layers, deep, n_in, branches, outputs, head_n]
    plan += [classes, coarse, give_coarse, attention, score_n, period, stride, wrap]
    state_size = 5 + 16 * 63 + 2 * sum(dilations) * wide
    state_size += 1 + 4 * wide + branches * attention + outputs
    return Plan([*plan, *dilations], wide, state_size)
