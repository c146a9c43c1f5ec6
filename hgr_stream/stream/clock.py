"""From a device's clock to the host's: three separable corrections, each named for what it does.

A sample arrives at ``host_ns`` (monotonic) bearing ``device_ns``. Arrival is late by a varying
transport delay; the device's clock has another origin, drifts, and may jump or stand still.

1. *offset*: host - device is smallest when the delay was smallest. The lower envelope of that
   difference over a sliding window is the offset; the window lets it follow drift.
2. *de-jitter*: stream time = device time + offset, so that the even spacing of the device's own
   clock survives the transport's jitter. Never later than the arrival.
3. *monotonise*: stream time strictly increases. A device clock that stands still or steps back a
   little is held just after the last time; a jump resets the offset, and is told.

After the ideas of LSL's time post-processing (clock sync, de-jitter, monotonise).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

WINDOW_NS = 10_000_000_000
BUCKET_NS = 500_000_000
#: A disagreement between the two clocks' steps beyond this is a jump, not jitter or drift.
JUMP_NS = 500_000_000
MIN_STEP_NS = 1_000


def wall_offset_ns() -> int:
    """What to add to host monotonic time for the wall time of now: a recording's log time, which
    must not step back when the wall clock is set."""
    return time.time_ns() - time.monotonic_ns()


@dataclass
class ClockMap:
    """Maps one device's clock to host monotonic time. Plain state, time is an argument."""

    jumps: int = 0  #: times the offset was thrown away
    repeats: int = 0  #: samples whose device time did not advance
    _buckets: deque[tuple[int, int]] = field(default_factory=deque)  # (host bucket, min offset)
    _last_device_ns: int | None = None
    _last_host_ns: int = 0
    _last_ns: int | None = None

    def map(self, device_ns: int | None, host_ns: int) -> int:
        """Stream time (host monotonic ns) of a sample; strictly greater than the last one's.

        ``device_ns`` is None for a source without a clock: arrival time is taken.
        """
        if device_ns is None:
            return self._monotonise(host_ns)
        if self._last_device_ns is not None:
            device_step = device_ns - self._last_device_ns
            host_step = host_ns - self._last_host_ns
            if device_step == 0:
                self.repeats += 1
            # A device that was silent steps in both clocks alike; only a difference is a jump.
            # Bursts (host_step near 0) stay within the jitter of the transport.
            if abs(device_step - host_step) > JUMP_NS:
                self._buckets.clear()
                self.jumps += 1
        self._last_device_ns, self._last_host_ns = device_ns, host_ns

        bucket = host_ns // BUCKET_NS
        difference = host_ns - device_ns
        if self._buckets and self._buckets[-1][0] == bucket:
            if difference < self._buckets[-1][1]:
                self._buckets[-1] = (bucket, difference)
        else:
            self._buckets.append((bucket, difference))
            while self._buckets[0][0] < bucket - WINDOW_NS // BUCKET_NS:
                self._buckets.popleft()
        offset = min(b[1] for b in self._buckets)
        return self._monotonise(min(device_ns + offset, host_ns))

    def _monotonise(self, time_ns: int) -> int:
        if self._last_ns is not None and time_ns <= self._last_ns:
            time_ns = self._last_ns + MIN_STEP_NS
        self._last_ns = time_ns
        return time_ns
