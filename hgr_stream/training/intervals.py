"""95 % intervals of figures, so that a difference by chance is not taken for one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

_Z: Final = 1.959964
#: Times that recordings are drawn anew.
DRAWS: Final = 400

Interval = tuple[float, float]


def wilson(right: int, of: int) -> Interval:
    """The score interval of a share (Wilson 1927); (0, 1) when nothing was tried."""
    if not of:
        return 0.0, 1.0
    p, zz = right / of, _Z * _Z
    middle = (p + zz / (2 * of)) / (1 + zz / of)
    half = _Z / (1 + zz / of) * math.sqrt(p * (1 - p) / of + zz / (4 * of * of))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def byar(events: int, hours: float) -> Interval:
    """Of the rate of so many independent events in ``hours`` > 0, an hour: Byar's approximation of
    Poisson's limits (Breslow and Day 1987), which is within 2 % of them."""

    def limit(n: int, z: float) -> float:
        return n * (1 - 1 / (9 * n) + z / (3 * math.sqrt(n))) ** 3 if n else 0.0

    return limit(events, -_Z) / hours, limit(events + 1, _Z) / hours


def by_recording(
    recordings: int, figures: Callable[[list[int]], Mapping[str, float]], seed: int = 0
) -> dict[str, Interval]:
    """Of the figures that ``figures`` tells of some of the recordings: the percentiles of what they
    are when as many are drawn anew, some twice (Efron 1979), because what goes wrong in a recording
    goes wrong there more than once. Nothing for a single one; what some draws do not tell is
    taken of the others."""
    if recordings < 2:
        return {}
    drawn = np.random.default_rng(seed).integers(recordings, size=(DRAWS, recordings))
    rows = [figures(draw.tolist()) for draw in drawn]
    told: dict[str, list[float]] = {}
    for name, value in (item for row in rows for item in row.items()):
        told.setdefault(name, []).append(value)
    limits = {name: np.percentile(values, (2.5, 97.5)) for name, values in told.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}


def rounded(limits: Mapping[str, Interval]) -> dict[str, list[float]]:
    """For JSON."""
    return {name: [round(low, 4), round(high, 4)] for name, (low, high) in limits.items()}
