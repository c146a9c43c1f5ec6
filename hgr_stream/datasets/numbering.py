"""From stream time back to a recording's own seconds and frame numbers."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..messages import Frame

#: A frame tells of no more than so long after it: later ones are missing, not merely rarer.
HELD_NS: Final = 250_000_000


class FrameNumbers:
    """From stream time to the recording's own seconds and frame numbers.

    A source whose numbers do not increase from frame to frame (it sends none, counts each hand
    apart, or was started anew) has its frames numbered by their position, from 0. Live drivers
    leave most frames without hands out, so neither numbers nor how many frames there are tell time.

    zero_ns: from where seconds count, if not from the first frame: a sensor or a person may join a
    recording late.
    """

    def __init__(self, zero_ns: int | None = None) -> None:
        self._zero_ns = zero_ns
        self._times_ns: list[int] = []
        self._index: list[int] = []
        self._with_hand: list[bool] = []

    def add(self, frame: Frame) -> None:
        self._times_ns.append(frame.time_ns)
        self._index.append(frame.index)
        self._with_hand.append(bool(frame.hands))

    def freeze(self) -> FrameNumbers:
        """No more frames come; those that ran back in time are of no use here."""
        times = np.array(self._times_ns, dtype=np.int64)
        keep = times >= np.maximum.accumulate(times) if len(times) else np.zeros(0, dtype=bool)
        self.times_ns = times[keep]
        self.index = np.array(self._index, dtype=np.int64)[keep]
        if (np.diff(self.index) <= 0).any():
            self.index = np.flatnonzero(keep)
        self._steps_ns = np.diff(self.times_ns)
        self._seen = np.array(self._with_hand, dtype=bool)[keep][:-1]
        return self

    def seconds(self, time_ns: int) -> float:
        """Seconds since the recording's first frame."""
        zero_ns = int(self.times_ns[0]) if self._zero_ns is None else self._zero_ns
        return round((time_ns - zero_ns) / 1e9, 6)

    def hand_seconds(self) -> float:
        """For how long a hand was in view: from each frame with one to the next frame, at most
        ``HELD_NS``."""
        return float(np.minimum(self._steps_ns, HELD_NS)[self._seen].sum()) / 1e9

    def frame_s(self) -> float:
        """Seconds from one frame number to the next while a hand is in view; if there never is,
        over all frames. 0 for a single frame."""
        near = self._seen & (self._steps_ns <= HELD_NS)
        near = near if near.any() else np.ones(len(near), dtype=bool)
        numbers = int(np.diff(self.index)[near].sum())
        return float(self._steps_ns[near].sum()) / 1e9 / numbers if numbers else 0.0

    def nearest(self, time_ns: int) -> int:
        """The number of the frame nearest to a time, the earlier one of two."""
        after = int(np.searchsorted(self.times_ns, time_ns))
        if after == 0:
            return int(self.index[0])
        if after == len(self.times_ns):
            return int(self.index[-1])
        before_gap = time_ns - self.times_ns[after - 1]
        return int(self.index[after if self.times_ns[after] - time_ns < before_gap else after - 1])

    def latest(self, time_ns: int) -> int:
        """The number of the last frame that had come at a time."""
        return int(self.index[max(0, int(np.searchsorted(self.times_ns, time_ns, "right")) - 1)])
