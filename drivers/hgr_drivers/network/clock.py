"""Senders' clocks that loop or stand still, and their frame numbers, which have gaps."""

from __future__ import annotations

from typing import Final

#: Time runs on no farther than this: in ns it must still fit int64.
MOST_S: Final = 9e9


class LoopingClock:
    """Seconds that may jump back (a looping clip) or stand still -> nanoseconds that run on."""

    def __init__(self) -> None:
        self.loops = 0
        self.lost = 0
        self._last_s: float | None = None
        self._step_s = 0.0
        self._offset_s = 0.0

    def push(self, time_s: float | None, rate_hz: float | None) -> int | None:
        """The device time, within int64, or None while the sender's clock does not run.

        Steps beyond the sender's own rate are counted in ``lost``, in frames."""
        if time_s is None or not abs(time_s) < 1e9:
            return None
        last_s, self._last_s = self._last_s, time_s
        if last_s is not None:
            step_s = time_s - last_s
            if step_s == 0:
                return None
            if step_s < 0:
                self.loops += 1
                self._offset_s += last_s + self._step_s - time_s
            else:
                if rate_hz and 0 < rate_hz < 1000 and step_s < 2:
                    self.lost += max(round(step_s * rate_hz) - 1, 0)
                self._step_s = min(step_s, 0.1)
        if abs(time_s + self._offset_s) > MOST_S:  # of loops that are none: it begins anew
            self._offset_s = 0.0
        return round((time_s + self._offset_s) * 1e9)


class FrameNumbers:
    """Frames lost, by the sender's own numbers, beyond its own regular thinning."""

    def __init__(self, modulus: int = 1 << 32) -> None:
        self._modulus = modulus
        self._last: int | None = None
        self._usual = 0

    def push(self, number: int) -> int:
        """How many frames are missing before this one."""
        last, self._last = self._last, number
        step = (number - last) % self._modulus if last is not None else 0
        if not 0 < step < 1000:  # the first, a copy, or a sender started anew
            self._usual = 0 if step else self._usual
            return 0
        self._usual = min(step, self._usual or step)
        return step // self._usual - 1
