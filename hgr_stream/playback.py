"""The replay clock: which recorded frames are due, given what time it is.

Time is an argument: ``due(now_ns)`` takes the host's monotonic clock and gives frames, so that
rate, pause, seek and step are tested without a sleep. A player starts at its first ``due``.

A frame's place in the recording is its stream time after the first frame's. A stamp that stands
still or runs back a little puts its frame right behind the one before; a jump (back more than
0.1 s, or forward by far more than the recorded host clock says) moves the frames after it along
with it, so that one bad stamp neither stalls a replay nor bunches its rest. Rates are exact ratios
of integers: a float rate loses nanoseconds, more with every hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final, Literal

from .messages import Frame

Speed = float | Fraction | Literal["max"]
SECOND_NS: Final = 1_000_000_000
_BACK_NS: Final = 100_000_000  # devices interleave by less; a clock that was set is off by more
_FORWARD_NS: Final = SECOND_NS  # pauses up to this are never doubted
_UNTOLD_NS: Final = 10 * SECOND_NS  # the longest pause replayed that no host clock bears out


def exact_speed(speed: Speed | str) -> Fraction | None:
    """A speed as a ratio (0.1 is 1/10, not the nearest float); None for "max".

    Raises ValueError for what is neither "max" nor a finite number above 0.
    """
    if speed == "max":
        return None
    try:
        ratio = Fraction(str(speed))
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(0)
    if ratio <= 0:
        raise ValueError(f'speed {speed!r} is neither a number above 0 nor "max"')
    return ratio


class Player:
    """Plays ``frames``, which is iterated afresh by a seek backwards (a list, a ``Reader``).

    speed: recorded seconds a second, or "max": everything is due at once. start_s: how far into
    the recording to begin. step: paused from the start; each ``step()`` makes one frame due.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        speed: Speed | str = 1,
        start_s: float = 0.0,
        step: bool = False,
    ) -> None:
        self._frames = frames
        self._speed = exact_speed(speed)
        self._paused = step
        self._steps = 0
        self._anchor_now_ns: int | None = None  # this host time ...
        self._anchor_ns = 0  # ... is this place in the recording
        self._rewind()
        if start_s > 0:
            self._skip_to(round(start_s * SECOND_NS))

    @property
    def ended(self) -> bool:
        """No frame is left."""
        return self._next is None

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def position_ns(self) -> int:
        """The place of the last frame given (0 before the first), in the recording."""
        return self._position_ns

    @property
    def next_ns(self) -> int | None:
        """The place of the next frame in the recording; None at its end."""
        return None if self._next is None else self._offset_ns

    def due(self, now_ns: int, limit: int | None = None) -> list[Frame]:
        """Frames that are due by ``now_ns`` and were not given yet, at most ``limit`` of them."""
        if self._anchor_now_ns is None:
            self._anchor_now_ns = now_ns
        out: list[Frame] = []
        while self._next is not None and (limit is None or len(out) < limit):
            if self._paused:
                if not self._steps:
                    break
                self._steps -= 1
                self._anchor(now_ns, self._offset_ns)
            elif self._speed is not None and now_ns < self._deadline_ns():
                break
            out.append(self._next)
            self._position_ns = self._offset_ns
            self._advance()
        return out

    def next_deadline_ns(self) -> int | None:
        """When the next frame is due, on ``due``'s clock; None if none will be by waiting.

        Before the first ``due``, at speed "max" and after a step that is: at once (0).
        """
        if self._next is None or (self._paused and not self._steps):
            return None
        if self._paused or self._speed is None or self._anchor_now_ns is None:
            return 0
        return self._deadline_ns()

    def pause(self, now_ns: int) -> None:
        """Stand still at the place that ``now_ns`` has reached."""
        if not self._paused:
            self._anchor(now_ns, self._place_ns(now_ns))
            self._paused = True

    def resume(self, now_ns: int) -> None:
        """Go on from where it stands; steps that were not taken are forgotten."""
        if self._paused:
            self._anchor(now_ns, self._anchor_ns)
            self._paused, self._steps = False, 0

    def step(self, n: int = 1) -> None:
        """Pause, and make the next ``n`` frames due at once."""
        self._paused = True
        self._steps += n

    def seek(self, position_s: float, now_ns: int) -> None:
        """Go on with the first frame at or after ``position_s`` of the recording."""
        target = max(round(position_s * SECOND_NS), 0)
        if self._next is None or target <= self._offset_ns:
            self._rewind()
        self._skip_to(target)
        self._anchor(now_ns, target)

    def _anchor(self, now_ns: int, place_ns: int) -> None:
        self._anchor_now_ns, self._anchor_ns = now_ns, place_ns

    def _place_ns(self, now_ns: int) -> int:
        if self._anchor_now_ns is None or self._paused:
            return self._anchor_ns
        if self._speed is None:
            return self._position_ns
        passed = (now_ns - self._anchor_now_ns) * self._speed.numerator
        return self._anchor_ns + passed // self._speed.denominator

    def _deadline_ns(self) -> int:
        assert self._speed is not None
        assert self._anchor_now_ns is not None
        ahead = (self._offset_ns - self._anchor_ns) * self._speed.denominator
        return self._anchor_now_ns - (-ahead // self._speed.numerator)  # rounded up

    def _rewind(self) -> None:
        self._iterator: Iterator[Frame] = iter(self._frames)
        self._before: Frame | None = None  # the last frame that bears a time
        self._next: Frame | None = None
        self._origin_ns = 0  # the stream time that is place 0
        self._offset_ns = 0  # the next frame's place
        self._position_ns = 0
        self._advance()

    def _skip_to(self, target_ns: int) -> None:
        while self._next is not None and self._offset_ns < target_ns:
            self._advance()
        self._anchor_ns = target_ns

    def _advance(self) -> None:
        if self._next is not None and not self._next.end:
            self._before = self._next
        self._next = next(self._iterator, None)
        frame, before = self._next, self._before
        if frame is None or frame.end:  # an end bears no time: it comes right after the last frame
            return
        if before is None:
            self._origin_ns = frame.time_ns
        place = frame.time_ns - self._origin_ns
        ahead = place - self._offset_ns
        if before is not None and not -_BACK_NS <= ahead <= _FORWARD_NS:
            believed = self._believed_step_ns(before, frame, ahead)
            self._origin_ns += ahead - believed
            place = self._offset_ns + believed
        self._offset_ns = max(place, self._offset_ns)

    @staticmethod
    def _believed_step_ns(before: Frame, frame: Frame, ahead_ns: int) -> int:
        """How far to move on at a jump: what the recorded host clock says, if there is one."""
        if before.host_ns <= 0 or frame.host_ns <= 0:
            return min(max(ahead_ns, 0), _UNTOLD_NS)
        host_ns = max(frame.host_ns - before.host_ns, 0)
        return host_ns if ahead_ns < 0 or host_ns < ahead_ns // 2 else ahead_ns
