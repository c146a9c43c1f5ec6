"""From stream time back to a recording's own seconds and frame numbers."""

from __future__ import annotations

import numpy as np

from ..messages import Frame


class FrameNumbers:
    """From stream time to the recording's own seconds and frame numbers.

    A source whose numbers do not increase from frame to frame (it sends none, counts each hand
    apart, or was started anew) has its frames numbered by their position, from 0.
    """

    def __init__(self) -> None:
        self._times_ns: list[int] = []
        self._index: list[int] = []
        self._with_hand = 0

    def add(self, frame: Frame) -> None:
        self._times_ns.append(frame.time_ns)
        self._index.append(frame.index)
        self._with_hand += bool(frame.hands)

    def freeze(self) -> FrameNumbers:
        """No more frames come; those that ran back in time are of no use here."""
        times = np.array(self._times_ns, dtype=np.int64)
        keep = times >= np.maximum.accumulate(times) if len(times) else np.zeros(0, dtype=bool)
        self.times_ns = times[keep]
        self.index = np.array(self._index, dtype=np.int64)[keep]
        if (np.diff(self.index) <= 0).any():
            self.index = np.flatnonzero(keep)
        return self

    def seconds(self, time_ns: int) -> float:
        """Seconds since the recording's first frame."""
        return round((time_ns - int(self.times_ns[0])) / 1e9, 6)

    def hand_seconds(self) -> float:
        """For how long a hand was in view."""
        return self.seconds(int(self.times_ns[-1])) * self._with_hand / len(self._times_ns)

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
