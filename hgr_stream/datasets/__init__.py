"""Foreign recordings as canonical hands.

``load_shrec21`` and ``load_shrec22`` give continuous sequences, ``load_shrec17`` and
``load_recordings`` isolated gestures as arrays; ``convert`` brings any of them into the stream.
"""

from __future__ import annotations

from .base import DatasetError, HandSequence, Segment
from .gestures import Gestures, load_recordings, load_shrec17
from .shrec21 import load_shrec21
from .shrec22 import load_shrec22

__all__ = [
    "DatasetError",
    "Gestures",
    "HandSequence",
    "Segment",
    "load_recordings",
    "load_shrec17",
    "load_shrec21",
    "load_shrec22",
]
