"""Leap JSON frames made by hand: every coordinate different, so that no two can be swapped."""

from __future__ import annotations

import json
from typing import Any

FIELDS = ("mcpPosition", "pipPosition", "dipPosition", "btipPosition")


def hand(number: int, side: str, *, wrist: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": number,
        "type": side,
        "confidence": 0.75,
        "direction": [0.0, 0.0, -1.0],
        "palmNormal": [0.0, -1.0, 0.0],
        "palmPosition": [number, 200.0, 10.0],
    }
    if wrist:
        made["wrist"] = [float(number), 195.0, 80.0]
    return made


def finger(number: int, kind: int) -> dict[str, Any]:
    """Thumb to pinky from left to right, pointing away from the user (-z), 30 mm a bone."""
    made: dict[str, Any] = {
        "id": 10 * number + kind,
        "handId": number,
        "type": kind,
        "tool": False,
        "tipPosition": [0.0, 0.0, 0.0],
    }
    nearest_z = 70.0 if kind == 0 else 0.0
    for part, name in enumerate(FIELDS):
        made[name] = [number + 20.0 * (kind - 2), 200.0 + kind, nearest_z - 30.0 * part]
    return made


def frame(
    *hands: tuple[int, str], index: int = 1, timestamp_us: int = 1_000_000, wrist: bool = True
) -> dict[str, Any]:
    return {
        "currentFrameRate": 110.5,
        "id": index,
        "timestamp": timestamp_us,
        "hands": [hand(number, side, wrist=wrist) for number, side in hands],
        "pointables": [finger(number, kind) for number, _ in hands for kind in range(5)],
    }


def texts(count: int, *hands: tuple[int, str], first: int = 1, step_us: int = 10_000) -> list[str]:
    """A recording: ``count`` frames, ids from ``first``, evenly spaced."""
    return [
        json.dumps(frame(*hands, index=first + i, timestamp_us=1_000_000 + i * step_us))
        for i in range(count)
    ]
