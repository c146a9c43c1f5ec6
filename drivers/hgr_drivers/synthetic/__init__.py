"""The built-in synthetic hand: a device that needs no device.

``hand`` is the skeleton and its joints, ``gestures`` what it can do, ``performance`` a script
played as a function of time, ``driver`` the device made of it.
"""

from __future__ import annotations

from .driver import SyntheticDriver
from .gestures import GESTURES, LABELS
from .hand import HandShape, forward
from .performance import Act, Performance

__all__ = ["GESTURES", "LABELS", "Act", "HandShape", "Performance", "SyntheticDriver", "forward"]
