"""The private side of the stream: direct sockets from stage to stage, and a tap for the rest.

    driver ──PUSH──▶ segmenter ──PUSH──▶ worker        (each stage binds its own PULL)
      └──tap──┐          └──tap──┐         └──tap──▶ gateway (binds the XSUB) ──▶ subscribers
    every stage ──PUSH status──▶ supervisor

The spine is PUSH/PULL: nothing is sent to nobody, a stage that starts late finds what was queued,
and a full queue is felt by the sender, who counts what it drops or, for a replay, waits. The tap
is XPUB: it carries only what somebody out there has subscribed to, and can never hold the spine
up. Both count what they drop (``Outlet.counts``).

Endpoints are private to the user: ipc sockets in the run directory (0700), or tcp on loopback
where ipc is missing. ``daemon.json`` in the run directory tells them to every process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import zmq

from ..config import RUN_DIR_VARIABLE, has_ipc
from ..whole import leave_whole, patiently

#: The private sockets, by who binds them.
SOCKETS: Final = {
    "frames": "segmenter",
    "windows": "worker",
    "model": "worker",  # requests: swap the model
    "tap": "gateway",
    "status": "supervisor",
    "control": "supervisor",  # requests: swap the model, stop
}
QUEUE: Final = 2000  # messages: some seconds of a busy stream
#: Messages taken at once. More of them, of many hands each, could keep a stage from its heartbeat
#: for so long that it is killed for silence, and its queue is lost.
DRAIN: Final = 64
#: Of pyzmq, as plain numbers: reckoning with its enumerations is Python's work, which costs a
#: process that has slept some 10 us each time.
NOBLOCK, SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)
EVENTS, RCVMORE, POLLIN = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN)
IPC_LIMIT: Final = 100  # bytes in a unix socket's path, safely

#: Whoever asks for another model is answered by then, be it that the worker still loads it.
MODEL_TIMEOUT_S: Final = 60.0

DAEMON_FILE: Final = "daemon.json"
LOCK_FILE: Final = "lock"  # held by the supervisor as long as it lives


class BusError(RuntimeError):
    """A socket cannot be had; the text says which and what to do."""


class DaemonInfo(msgspec.Struct):
    """What ``daemon.json`` tells: who runs here and where to reach it."""

    pid: int
    name: str
    version: str
    public: str  #: the gateway's endpoint
    sockets: dict[str, str]
    devices: list[str]
    model: str


def make_run_dir(run_dir: Path) -> None:
    """Make the directory that only this user can enter, and its parent where that is missing.

    Its path is known to everybody, and a temporary directory is everybody's: raises BusError with
    the cure where somebody else was there first, or could exchange it later.
    """
    parent = run_dir.parent
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_strangers(parent, also=0)
        # In a sticky directory, as /tmp is, others cannot exchange what is ours. Where each user
        # has a group of their own, directories are writable by it.
        found = parent.stat()
        shared = 0o002 if hasattr(os, "getgid") and found.st_gid == os.getgid() else 0o022
        if hasattr(os, "getuid") and found.st_mode & shared and not found.st_mode & stat.S_ISVTX:
            raise BusError(_unsafe(parent, "can be written by others", f"chmod go-w {parent}"))
        run_dir.mkdir(mode=0o700, exist_ok=True)
        _refuse_strangers(run_dir)
        run_dir.chmod(0o700)
    except OSError as error:
        fault = f"cannot be made ({error.strerror or error})"
        raise BusError(_unsafe(run_dir, fault, "see to that")) from None


def _refuse_strangers(path: Path, *, also: int | None = None) -> None:
    """Nothing but a directory of this user's, or of the user number ``also``. Windows keeps users
    apart by itself. A link in the root directory is the system's: macOS has /tmp so."""
    if hasattr(os, "getuid"):
        found = path.lstat()
        if found.st_uid == also == 0 and path.is_absolute() and path.parent == Path(path.anchor):
            found = path.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), also):
            raise BusError(_unsafe(path, "is a link or another user's", "remove it"))


def _unsafe(path: Path, fault: str, cure: str) -> str:
    return (
        f"private sockets cannot live in {path}: it {fault}; {cure}, or name another directory "
        f"by run_dir in the config or {RUN_DIR_VARIABLE}"
    )


def private_sockets(run_dir: Path) -> dict[str, str]:
    """Fresh private endpoints for a daemon that starts in ``run_dir``."""
    if has_ipc():
        longest = max(len(str(run_dir / f"{name}.ipc").encode()) for name in SOCKETS)
        if longest > IPC_LIMIT:
            raise BusError(
                f"run directory {run_dir} is too long a path for sockets; "
                "set run_dir in the config (or HGR_RUN_DIR) to a shorter one"
            )
        return {name: f"ipc://{run_dir}/{name}.ipc" for name in SOCKETS}
    with contextlib.ExitStack() as stack:
        free = {}
        for name in SOCKETS:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            free[name] = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    return free


def write_daemon_file(run_dir: Path, info: DaemonInfo) -> None:
    """Announce the daemon."""
    leave_whole(run_dir / DAEMON_FILE, msgspec.json.format(msgspec.json.encode(info), indent=1))


def read_daemon_file(run_dir: Path) -> DaemonInfo:
    """The daemon of this run directory; raises BusError with the cure when there is none."""
    try:
        data = patiently((run_dir / DAEMON_FILE).read_bytes)
        return msgspec.json.decode(data, type=DaemonInfo)
    except FileNotFoundError:
        raise BusError(
            f"no daemon runs in {run_dir}; start one with: hgr run "
            "(one that has a name or a run_dir is found by --config FILE)"
        ) from None
    except (OSError, msgspec.MsgspecError, json.JSONDecodeError) as error:
        raise BusError(f"{run_dir / DAEMON_FILE} cannot be read: {error}") from None


def runs_still(run_dir: Path, info: DaemonInfo) -> bool:
    """Whether the daemon that left ``info`` in its run directory is there yet, however it ended."""
    import filelock  # tens of milliseconds, which no subscriber needs

    lock = run_dir / LOCK_FILE
    try:
        if read_daemon_file(run_dir).pid != info.pid:
            return False
        if lock.exists():  # a cleaner of /tmp may have taken it
            with filelock.FileLock(lock, timeout=0):
                return False
    except filelock.Timeout:
        return True
    except (BusError, OSError):
        return False
    return True


#: What to do when the gateway cannot have its port.
PORT_CURE: Final = "another daemon? stop it, or choose another [gateway] port"


def bind(
    socket_: zmq.Socket, endpoint: str, purpose: str, cure: str = "another daemon? stop it"
) -> None:
    """Bind, or raise BusError: who may be in the way, and with ``cure`` what to do about it."""
    try:
        socket_.bind(endpoint)
    except zmq.ZMQError as error:
        # Windows keeps ports for itself, too (netsh int ipv4 show excludedportrange tcp).
        kept = sys.platform == "win32" and error.errno == errno.EACCES
        if error.errno == zmq.EADDRINUSE or kept:
            why = "kept by Windows, or in use" if kept else "in use"
            raise BusError(f"{endpoint} ({purpose}) is {why}: {cure}") from None
        raise BusError(f"{endpoint} ({purpose}) cannot be bound: {error}") from None


def alive(socket_: zmq.Socket) -> None:
    """Heartbeats: without them a hung peer is noticed by nobody for many seconds."""
    socket_.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket_.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)


def send_parts(socket_: zmq.Socket, parts: Sequence[bytes]) -> None:
    """``send_multipart`` without waiting and without its checks; raises zmq.Again before anything
    is sent, when there is no room."""
    for part in parts[:-1]:
        socket_.send(part, NOBLOCK | SNDMORE)
    socket_.send(parts[-1], NOBLOCK)


class Inlet:
    """A stage's bound PULL socket."""

    def __init__(self, context: zmq.Context, endpoint: str, purpose: str) -> None:
        self.socket = context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.RCVHWM, QUEUE)
        self.socket.setsockopt(zmq.LINGER, 0)
        bind(self.socket, endpoint, purpose)

    def drain(self) -> list[bytes]:
        """All messages that wait now, oldest first, at most ``DRAIN``.

        A multipart message is nothing we send: its parts come joined, and fail to decode."""
        out: list[bytes] = []
        receive, option = self.socket.recv, self.socket.getsockopt
        waits = True  # it was just polled
        with contextlib.suppress(zmq.Again):
            while waits and len(out) < DRAIN:
                data = receive(NOBLOCK)
                # Asking is cheaper than the exception that ends a try for one too many; and a
                # message's parts are there together: the last that waits has no more of them.
                waits = bool(option(EVENTS) & POLLIN)
                if waits and option(RCVMORE):
                    data = b"".join([data, *self.socket.recv_multipart(NOBLOCK)])
                    waits = bool(option(EVENTS) & POLLIN)
                out.append(data)
        return out

    def close(self) -> None:
        self.socket.close()


class Outlet:
    """A stage's way out: the next stage (if any), and the tap. Encoded once, sent to both."""

    def __init__(
        self,
        context: zmq.Context,
        sockets: dict[str, str],
        next_socket: str | None,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        """``held`` is asked some times a second while a send waits for room: whether to stop."""
        self.counts: Counter[str] = Counter()
        self._held = held
        self._direct: zmq.Socket | None = None
        if next_socket is not None:
            self._direct = context.socket(zmq.PUSH)
            self._direct.setsockopt(zmq.SNDHWM, QUEUE)
            self._direct.setsockopt(zmq.LINGER, 300)
            self._direct.connect(sockets[next_socket])
        self._tap = context.socket(zmq.XPUB)
        self._tap.setsockopt(zmq.SNDHWM, QUEUE)
        self._tap.setsockopt(zmq.XPUB_NODROP, 1)  # told of a full queue, so that it is counted
        self._tap.setsockopt(zmq.LINGER, 300)
        self._tap.connect(sockets["tap"])
        self._tapped = False

    def wait_for_tap(self, timeout_s: float) -> bool:
        """Until the gateway has told its subscriptions: what is sent before, nobody sees."""
        if not self._tapped:
            self._tapped = bool(self._tap.poll(round(timeout_s * 1000)))
        return self._tapped

    def send(self, topic: str, payload: bytes, *, lossless: bool = False) -> bool:
        """To the next stage and to the tap; False when the next stage could not take it.

        ``lossless`` waits for room in both queues (until ``held`` says to stop); otherwise what
        does not fit is dropped and counted."""
        taken = True
        if self._direct is not None:
            taken = self._try(self._direct, [payload], "dropped_full", lossless)
            self.counts["sent"] += taken
        self.tell(topic, payload, lossless=lossless)
        return taken

    def tell(self, topic: str, payload: bytes, *, lossless: bool = False) -> bool:
        """To the tap alone."""
        taken = self._try(self._tap, [topic.encode(), payload], "dropped_tap", lossless)
        # The socket itself notes who wants what; left unread, that would pile up for months.
        while self._tap.getsockopt(EVENTS) & POLLIN:
            self._tap.recv(NOBLOCK)
            self._tapped = True
        return taken

    def _try(self, socket_: zmq.Socket, parts: list[bytes], name: str, wait: bool) -> bool:
        while True:
            try:
                send_parts(socket_, parts)
                return True
            except zmq.Again:
                # A tap that nobody reads must not hold a replay for ever, nor one being stopped.
                if not wait or self._held():
                    self.counts[name] += 1
                    return False
                if not socket_.poll(200, zmq.POLLOUT) and name == "dropped_tap":
                    wait = False

    def close(self) -> None:
        if self._direct is not None:
            self._direct.close()
        self._tap.close()
