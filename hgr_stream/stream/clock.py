"""From a device's clock to the host's: three separable corrections, each named for what it does.

A sample arrives at ``host_ns`` (monotonic) bearing ``device_ns``. Arrival is late by a varying
transport delay; the device's clock has another origin, drifts, and may jump or stand still.

1. *offset*: host - device is smallest when the delay was smallest. The lower envelope of that
   difference over a sliding window is the offset; the window lets it follow drift.
2. *de-jitter*: stream time = device time + offset, so that the even spacing of the device's own
   clock survives the transport's jitter, also a stall and the burst after it. Never later than the
   arrival.
3. *monotonise*: stream time strictly increases. A device clock that stands still or steps back a
   little is held just after the last time; a jump resets the offset, and is told. Samples that are
   late all at once are the transport's at first, and a jump when they stay so for ``STALL_NS``.

After the ideas of LSL's time post-processing (clock sync, de-jitter, monotonise). Whether the
device's clock can be believed at all, ``PaceJudge`` tells.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

WINDOW_NS = 10_000_000_000
BUCKET_NS = 500_000_000
#: A disagreement between the two clocks' steps beyond this is a jump, not jitter or drift.
JUMP_NS = 500_000_000
#: A transport that stalled has caught up after so long; who is still late has another clock.
STALL_NS = 1_000_000_000
MIN_STEP_NS = 1_000


#: Host monotonic time, by which everything is stamped. Windows has a finer clock than Python before
#: 3.13 gives there, in steps of 15.6 ms: two frames of a sensor would bear one time.
monotonic_ns: Final = time.perf_counter_ns if sys.platform == "win32" else time.monotonic_ns


def wall_offset_ns() -> int:
    """What to add to host monotonic time for the wall time of now: a recording's log time, which
    must not step back when the wall clock is set."""
    return time.time_ns() - monotonic_ns()


@dataclass
class ClockMap:
    """Maps one device's clock to host monotonic time. Plain state, time is an argument."""

    jumps: int = 0  #: times the offset was thrown away
    repeats: int = 0  #: samples whose device time did not advance
    _buckets: deque[tuple[int, int]] = field(default_factory=deque)  # (host bucket, min offset)
    _offset_ns: int = 0
    _late_ns: int | None = None  # host time since which samples have been late by a jump
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
            if self._jumped(device_step, host_step, host_ns - device_ns - self._offset_ns, host_ns):
                self._buckets.clear()
                self._late_ns = None
                self.jumps += 1
        self._last_device_ns, self._last_host_ns = device_ns, host_ns
        if self._late_ns is None:  # what was held back tells nothing of the offset
            self._offset_ns = self._envelope(host_ns - device_ns, host_ns)
        return self._monotonise(min(device_ns + self._offset_ns, host_ns))

    def _jumped(self, device_step: int, host_step: int, late_by_ns: int, host_ns: int) -> bool:
        """Whether the device's clock jumped, rather than the transport; keeps ``_late_ns``.

        A device that was silent steps in both clocks alike; only a difference is a jump."""
        if late_by_ns < -JUMP_NS:
            return True  # ahead of what it can be, however fast the transport is
        if late_by_ns <= JUMP_NS:
            self._late_ns = None
        elif host_step - device_step > JUMP_NS:
            if device_step < 0 or late_by_ns > WINDOW_NS:
                return True
            if self._late_ns is None:
                self._late_ns = host_ns
        return self._late_ns is not None and host_ns - self._late_ns > STALL_NS

    def _envelope(self, difference: int, host_ns: int) -> int:
        """The smallest host - device in the window, with a new one."""
        bucket = host_ns // BUCKET_NS
        if self._buckets and self._buckets[-1][0] == bucket:
            if difference < self._buckets[-1][1]:
                self._buckets[-1] = (bucket, difference)
        else:
            self._buckets.append((bucket, difference))
            while self._buckets[0][0] < bucket - WINDOW_NS // BUCKET_NS:
                self._buckets.popleft()
        return min(b[1] for b in self._buckets)

    def _monotonise(self, time_ns: int) -> int:
        if self._last_ns is not None and time_ns <= self._last_ns:
            time_ns = self._last_ns + MIN_STEP_NS
        self._last_ns = time_ns
        return time_ns


class PaceJudge:
    """Whether a device's clock runs with the host's: told from each second of samples.

    Drift and jitter are ``ClockMap``'s affair; here a mistake is looked for, a time that stands
    still or is in another unit. A clock that is ``MOST`` times too fast or slow is one; bursts and
    recordings at another speed are far within. A pause begins the second anew, since a device may
    sleep; one jump in it (a wall clock that is set, a loop, a device started anew) is left out.

    ``unit_ns``: the unit in which the source gives its times, to tell which one it may have taken
    instead; 0: it has no choice. Plain state, time is an argument.
    """

    SPAN_NS: Final = 1_000_000_000
    PAUSE_NS: Final = 500_000_000
    STEPS: Final = 4  #: and no fewer are judged
    MOST: Final = 100
    UNITS: Final = {1: "nano", 1_000: "micro", 1_000_000: "milli", 1_000_000_000: ""}

    def __init__(self, unit_ns: int = 0) -> None:
        self.unit_ns = unit_ns
        self.fault = ""  #: in words, after "the device's time"; empty: none is known
        self._last: tuple[int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._steps = 0
        self._host_ns = 0
        self._device_ns = 0
        self._jump_ns = 0  # the largest of the device's steps that is a jump

    def push(self, device_ns: int | None, host_ns: int) -> str:
        """Take a sample's two times; ``fault``. ``device_ns`` None: it bears none."""
        last, self._last = self._last, None
        if device_ns is None:
            self.fault = ""
            return ""
        self._last = (device_ns, host_ns)
        if last is None:
            self._begin()
            return self.fault
        device_step, host_step = device_ns - last[0], host_ns - last[1]
        if host_step > self.PAUSE_NS:
            self._begin()
            return self.fault
        self._steps += 1
        self._host_ns += host_step
        self._device_ns += device_step
        if abs(device_step - host_step) > JUMP_NS and abs(device_step) > abs(self._jump_ns):
            self._jump_ns = device_step
        if self._host_ns >= self.SPAN_NS and self._steps >= self.STEPS:
            self.fault = self._judged((self._device_ns - self._jump_ns) / self._host_ns)
            self._begin()
        return self.fault

    def _judged(self, pace: float) -> str:
        """``pace``: seconds of the device a second of the host."""
        if 1 / self.MOST < pace < self.MOST:
            return ""
        if pace <= 0:
            return "runs backwards" if pace < -1 / self.MOST else "stands still"
        # Powers of ten: the words stay the same while the fault does.
        power = round(math.log10(pace))
        text = f"advances {10 ** abs(power):,} times too {'fast' if power > 0 else 'slowly'}"
        unit = self.UNITS.get(round(self.unit_ns / 10.0**power))
        return text if unit is None else f"{text}: is it in {unit}seconds?"
