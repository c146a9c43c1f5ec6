"""When a process is started, given up or killed: the supervisor's judgement, without a clock.

A process is up while its heartbeats come; "up" says that its loop turns, and its gauges say how
old its data is. It is started again after an exit or a silence, later each time (back-off), and
given up when it has needed more than ``max_restarts`` within ``window_s``. What made it fall may
pass (a machine without memory), so that every ``retry_s`` it is tried once more; one that ended
saying that nobody can start it as things are (``EXIT_FATAL``) is not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from ..config import Supervisor
from .processes import EXIT_FATAL

#: Doubling ends here: past it a float overflows, and any back-off has long reached its limit.
MAX_DOUBLINGS: Final = 1000

#: Who watches looks once a second or more often; whatever it does between, it takes no longer.
MOST_TURN_S: Final = 1.0

State = Literal["waiting", "starting", "up", "gave-up", "ended"]
Action = Literal["start", "kill"]


def back_off_s(first_s: float, most_s: float, failures: int) -> float:
    """Seconds to wait after so many failures in a row (from 1): doubled each time, to a limit."""
    return min(first_s * 2.0 ** min(failures - 1, MAX_DOUBLINGS), most_s)


class Watch:
    """The clock by which others' silence is judged: it stands still while their judge does, which
    may have slept with the whole machine, or frozen with it. Who was not listened to was not
    silent."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s
        self._missed_s = 0.0

    def at(self, now_s: float) -> float:
        """To be asked at every turn. ``now_s``: a clock that may run on meanwhile."""
        self._missed_s += max(0.0, now_s - self._last_s - MOST_TURN_S)
        self._last_s = now_s
        return now_s - self._missed_s


@dataclass
class Keeper:
    """One process's life. Times in seconds, given by the caller; only differences count."""

    options: Supervisor
    may_end: bool = False
    state: State = "waiting"
    restarts: int = 0  #: in all
    reason: str = ""  #: of the last fall
    start_at_s: float = 0.0
    _heard_s: float = 0.0
    _falls_s: deque[float] = field(default_factory=deque)
    _tried_s: float = -math.inf  #: when it was last started after it had been given up

    def due(self, now_s: float) -> Action | None:
        """What is to be done now; "kill" again after as long, if it has no effect."""
        if self.state in ("waiting", "gave-up") and now_s >= self.start_at_s:
            return "start"
        if self.state == "starting" and now_s - self._heard_s > self.options.start_timeout_s:
            self.reason = f"not ready after {self.options.start_timeout_s:g} s"
        elif self.state == "up" and now_s - self._heard_s > self.options.heartbeat_timeout_s:
            self.reason = f"silent for {self.options.heartbeat_timeout_s:g} s"
        else:
            return None
        self._heard_s = now_s
        return "kill"

    def started(self, now_s: float) -> None:
        if self.state == "gave-up":
            self._tried_s = now_s
            self.restarts += 1
        self.state, self._heard_s = "starting", now_s

    def beat(self, now_s: float, *, ready: bool) -> None:
        """A heartbeat came; ``ready``: the process says that it is past its start. One that was
        may start once more, as a driver does that opens its device again, and be as long at it."""
        if self.state == "up" or (self.state == "starting" and ready):
            self.state, self._heard_s = "up" if ready else "starting", now_s

    def exited(self, now_s: float, code: int) -> None:
        """The process is gone (by itself, or killed)."""
        if code == 0 and self.may_end:
            self.state, self.reason = "ended", "ended by itself"
            return
        if not self.reason:
            self.reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._falls_s.append(now_s)
        while self._falls_s[0] < now_s - self.options.window_s:
            self._falls_s.popleft()
        falls = len(self._falls_s)
        if code == EXIT_FATAL:
            self.state, self.start_at_s = "gave-up", math.inf
        elif falls > self.options.max_restarts or now_s - self._tried_s < self.options.window_s:
            self.state, self.start_at_s = "gave-up", now_s + self.options.retry_s
            times = f"; {falls} times within {self.options.window_s:g} s" if falls > 1 else ""
            self.reason += f"{times}; tried once more every {self.options.retry_s:g} s"
        else:
            self.state = "waiting"
            self.restarts += 1
            self.start_at_s = now_s + back_off_s(
                self.options.backoff_s, self.options.backoff_max_s, falls
            )
