"""What every process of the daemon shares: its sockets, its heartbeat, and how it ends.

A stage ends when its standard input closes: the supervisor holds the other end, so an orphan
ends too, on every platform. Ctrl-C reaches the whole terminal group and is left to the
supervisor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

import msgspec
import zmq

from ..faults import worth_telling
from ..messages import StageState, Status, encode
from ..stream.bus import DaemonInfo, read_daemon_file
from ..stream.clock import monotonic_ns

HEARTBEAT_S = 1.0
#: So long after its supervisor let go of it a stage may still work off what it has.
ORPHAN_S = 5.0
PEEK_S = 0.02
LOG_FORMAT = "%(asctime)s %(name)s: %(message)s"
#: By what its supervisor knows a stage again: the boot id that it gave it.
BOOT_ID_VARIABLE = "HGR_BOOT_ID"


def new_boot_id() -> str:
    return uuid.uuid4().hex[:12]


def set_up_logging(stage: str) -> logging.Logger:
    """One line a message on standard error, with time and stage."""
    logging.basicConfig(
        level=logging.INFO, format=LOG_FORMAT, datefmt="%H:%M:%S", stream=sys.stderr
    )
    return logging.getLogger(stage)


def wait_for_end_of_stdin() -> None:
    """Until who started this process closes its end of standard input, or dies."""
    with contextlib.suppress(OSError, ValueError):
        stdin = sys.stdin.fileno()
        while _readable(stdin) and os.read(stdin, 4096):
            pass


def _readable(stdin: int) -> bool:
    """Waits until a read need not; False when standard input has ended.

    On Windows a read that waits in a pipe keeps everybody else from looking at it, and some
    libraries do as they are loaded: OpenBLAS and Fortran's, so numpy, scipy and what needs them. A
    driver that loads its own later would hang in that for ever (numpy/numpy#24290). Elsewhere
    nothing is waited for here, nor where standard input is no pipe."""
    if sys.platform == "win32":
        import _winapi
        import msvcrt

        try:
            while not _winapi.PeekNamedPipe(msvcrt.get_osfhandle(stdin))[0]:
                time.sleep(PEEK_S)
        except BrokenPipeError:
            return False
        except OSError:  # no pipe
            pass
    return True


def ending_signals() -> list[signal.Signals]:
    """What a person ends a process by: Ctrl-C, SIGTERM and a terminal that is closed; that not
    under nohup, which ignores it for us. On Windows Ctrl-Break, all that a program can send to one
    that it started in a group of its own."""
    ends = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        ends.append(signal.SIGBREAK)
    elif signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        ends.append(signal.SIGHUP)
    return ends


class Shell(ABC):
    """A stage's process. Subclasses say which sockets wake them and what they then do."""

    def __init__(self, stage: str, run_dir: Path) -> None:
        self.stage = stage
        self.log = set_up_logging(stage)
        self.info: DaemonInfo = read_daemon_file(run_dir)
        self.context = zmq.Context()
        # Taken away: a program that this one starts is another.
        self.boot_id = os.environ.pop(BOOT_ID_VARIABLE, "") or new_boot_id()
        self.counts: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.labels: list[str] = []
        self.state: StageState = "up"
        self.message = ""
        self.poller = zmq.Poller()
        self._stop = threading.Event()
        self._over = threading.Event()
        self._next_beat_s = 0.0
        self._status = self.context.socket(zmq.PUSH)
        self._status.setsockopt(zmq.SNDHWM, 20)
        self._status.setsockopt(zmq.LINGER, 200)
        self._status.connect(self.info.sockets["status"])

    # -- what a stage does ----------------------------------------------------------------------

    @abstractmethod
    def turn(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` for something to do, and do it."""

    def beat(self) -> None:  # noqa: B027 - an optional hook
        """Once a second, before the status is sent: fill in counts and gauges."""

    def finish(self) -> None:  # noqa: B027 - an optional hook
        """Before the sockets close."""

    # -- the loop -------------------------------------------------------------------------------

    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    def run(self, *, supervised: bool = True) -> int:
        """Until stopped; the exit code. ``supervised``: a child of the supervisor, which ends it
        by closing its standard input; otherwise Ctrl-C does."""
        if supervised:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if sys.platform == "win32":  # of the keyboard's, also processes of another group hear
                signal.signal(signal.SIGBREAK, signal.SIG_IGN)
            threading.Thread(target=self._watch_stdin, daemon=True).start()
        else:
            signal.signal(signal.SIGINT, lambda *_: self.stop())
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        try:
            while not self.stopping():
                self.beat_when_due()
                self.turn(max(0.0, self._next_beat_s - time.monotonic()))
            self.finish()
            self.state = "stopped"
            self.send_status()
        finally:
            self.close()
            self._over.set()
        return 0

    def beat_when_due(self) -> None:
        """For a turn that may take long: a stage that is busy is not one that hangs."""
        now_s = time.monotonic()
        if now_s >= self._next_beat_s:
            # Absolute deadlines: the beat does not drift with the work between.
            self._next_beat_s = max(self._next_beat_s + HEARTBEAT_S, now_s)
            self.send_status()

    def held(self) -> bool:
        """Asked again and again by a send that waits for room: whether to give it up. Meanwhile
        the heart beats on, or the whole stage would be killed for its neighbour's silence."""
        self.beat_when_due()
        return self.stopping()

    def refuse(self, error: Exception) -> None:
        """Count a bad message; tell of it when ``worth_telling`` says so."""
        self.counts["malformed"] += 1
        if worth_telling(self.counts["malformed"]):
            self.log.warning("refused a message: %s", error)

    def send_status(self, state: StageState | None = None, message: str | None = None) -> None:
        """A heartbeat, now."""
        if state is not None:
            self.state = state
        if message is not None:
            self.message = message
        self.beat()
        status = Status(
            stage=self.stage,
            boot_id=self.boot_id,
            state=self.state,
            host_ns=monotonic_ns(),
            wall_ns=time.time_ns(),
            pid=os.getpid(),
            counts=dict(self.counts),
            gauges=self.gauges,
            message=self.message,
            labels=self.labels,
        )
        try:
            self._status.send(encode(status), zmq.NOBLOCK)
        except zmq.Again:
            self.counts["status_dropped"] += 1

    def close(self) -> None:
        self.context.destroy(linger=300)

    def _watch_stdin(self) -> None:
        wait_for_end_of_stdin()
        self.stop()
        with contextlib.suppress(zmq.ZMQError):  # it may be ending already
            wake = self.context.socket(zmq.PUSH)
            wake.setsockopt(zmq.LINGER, 0)
            wake.connect(self._wake_endpoint)
            wake.send(b"")
            wake.close()
        # A driver that hangs in its library hears none of this, and nobody is left to kill it: it
        # would keep its camera from the next daemon.
        if not self._over.wait(ORPHAN_S):
            os._exit(1)

    @property
    def _wake_endpoint(self) -> str:
        return f"inproc://wake-{self.boot_id}"

    def wake_socket(self) -> zmq.Socket:
        """A socket that becomes readable when the stage should end; poll it with the others."""
        socket_ = self.context.socket(zmq.PULL)
        socket_.bind(self._wake_endpoint)
        self.poller.register(socket_, zmq.POLLIN)
        return socket_


def decode_request(data: bytes) -> dict[str, object]:
    """A request's MessagePack map; raises ValueError."""
    try:
        request = msgspec.msgpack.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"malformed request: {error}") from None
    return request
