"""hgr-stream: from a hand-tracking sensor to gesture events.

    import hgr_stream
    for event in hgr_stream.subscribe():
        print(event.label)

Subscribing, recording and replaying need no torch.
"""

from __future__ import annotations

from .client import subscribe, subscribe_async
from .messages import Event, Frame, Hand
from .publish import Publisher, TrackedHand

__version__ = "0.1.0"
__all__ = [
    "Event",
    "Frame",
    "Hand",
    "Publisher",
    "TrackedHand",
    "__version__",
    "subscribe",
    "subscribe_async",
]
