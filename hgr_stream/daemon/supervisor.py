"""The supervisor: starts the processes, watches them, starts them again, and tells what it does.

It is ``hgr run`` itself, in the foreground. Each child's standard input is a pipe whose other end
is here: closing it asks the child to end, and the kernel closes it if the supervisor dies.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import msgspec
import zmq

from .. import __version__
from ..config import Config, has_ipc, run_dir
from ..faults import error_line, worth_telling
from ..messages import MessageError, StageState, Status, decode, encode
from ..recognition.bundle import ModelError, read_metadata, resolve
from ..recognition.choice import settings
from ..stream import topics
from ..stream.bus import (
    DAEMON_FILE,
    LOCK_FILE,
    MODEL_TIMEOUT_S,
    PORT_CURE,
    SOCKETS,
    BusError,
    DaemonInfo,
    Inlet,
    Outlet,
    bind,
    make_run_dir,
    private_sockets,
    write_daemon_file,
)
from ..stream.clock import monotonic_ns
from ..whole import leave_whole, remove
from .keeper import Keeper, Watch
from .main import CONFIG_FILE
from .processes import EXIT_FATAL, Process, processes
from .shell import BOOT_ID_VARIABLE, decode_request, ending_signals, new_boot_id

DRIVER = "driver."  # so begin the stages of drivers, those beside us (a replay) too
POLL_S = 0.1
STOP_S = 1.6  # all processes together; what is not gone by then is killed
KILL_S = 1.0  # the system takes no longer to end one that was killed, if it can
_OWN_GROUP: dict[str, Any] = (
    {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP, named on Windows alone
    if sys.platform == "win32"
    else {"start_new_session": True}
)


class Child:
    """A process of the list, its life, and its last status."""

    def __init__(self, process: Process, keeper: Keeper) -> None:
        self.process = process
        self.keeper = keeper
        self.popen: subprocess.Popen[bytes] | None = None
        self.boot_id = ""  #: that it was started with, and says what it says by
        self.status: Status | None = None


@dataclass
class Swap:
    """Another model that was asked for, until the worker has answered."""

    model: str
    parts: list[bytes]  #: the request; empty once it was answered
    end_s: float  #: when it is answered that the worker still loads


class Supervisor:
    """One daemon. ``run`` returns its exit code: 0 when it was asked to stop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.log = logging.getLogger("supervisor")
        self.dir = run_dir(config)
        self.model = str(resolve(config.model.use))
        self.metadata = read_metadata(Path(self.model))
        settings(self.metadata, config.recognition, self.metadata.decoder)  # or a clear refusal
        self._stop = False
        self._told_ready = False
        self._refused = 0  # statuses
        self._clock = Watch(time.monotonic())
        self._now_s = 0.0  # by that clock, at this turn
        self._guests: dict[str, tuple[float, Status]] = {}  # drivers beside us: when heard, what
        self._told_deserted = False
        self._homeless = ""  # why the run directory, which is gone, cannot be made again
        self.boot_id = new_boot_id()

    def stop(self) -> None:
        """Ask it to end; safe from a signal handler or another thread."""
        self._stop = True

    def run(self, ready: Callable[[], None] = lambda: None) -> int:
        """Until stopped. ``ready`` is called once, when every process is up, or, of those that
        the others can do without, given up."""
        while True:
            make_run_dir(self.dir)
            lock = filelock.FileLock(self.dir / LOCK_FILE)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise BusError(
                    f"a daemon named {self.config.name!r} runs already (in {self.dir}); stop it, "
                    "or give this one another name and port in its config"
                ) from None
            with contextlib.ExitStack() as stack:
                stack.callback(lock.release)
                self._open(stack)
                self._watch(ready)
                code = self._end()
            if self._stop:
                return code

    # -- opening --------------------------------------------------------------------------------

    def _open(self, stack: contextlib.ExitStack) -> None:
        context = zmq.Context()
        stack.callback(context.destroy, linger=200)
        gateway = self.config.gateway
        for port in (gateway.port, gateway.port + 1):
            with context.socket(zmq.REP) as probe:  # a taken port is told at once, by name
                bind(probe, f"tcp://{gateway.host}:{port}", "[gateway] port", PORT_CURE)
        self.info = DaemonInfo(
            pid=os.getpid(),
            name=self.config.name,
            version=__version__,
            public=gateway.endpoint,
            sockets=private_sockets(self.dir),
            devices=list(self.config.devices),
            model=self.model,
        )
        self.inlet = Inlet(context, self.info.sockets["status"], "status")
        self.control = context.socket(zmq.ROUTER)
        self.control.setsockopt(zmq.LINGER, 200)
        bind(self.control, self.info.sockets["control"], "control")
        self.worker = context.socket(zmq.DEALER)
        self.worker.setsockopt(zmq.LINGER, 0)
        self.worker.connect(self.info.sockets["model"])
        self.outlet = Outlet(context, self.info.sockets, None)
        self.poller = zmq.Poller()
        for socket in (self.inlet.socket, self.control, self.worker):
            self.poller.register(socket, zmq.POLLIN)
        self._swap: Swap | None = None
        self._leave_files()
        stack.callback(remove, self.dir / DAEMON_FILE)
        self.children = {
            process.stage: Child(process, Keeper(self.config.supervisor, process.may_end))
            for process in processes(self.config, self.dir)
        }

    def _leave_files(self) -> None:
        """What those who start in the run directory read there; the present model's name in it."""
        self.config.model.use = self.model
        leave_whole(self.dir / CONFIG_FILE, msgspec.json.encode(self.config))
        write_daemon_file(self.dir, self.info)

    # -- watching -------------------------------------------------------------------------------

    def _watch(self, ready: Callable[[], None]) -> None:
        """Until stopped, or until the run directory is gone."""
        next_own_s = 0.0
        while not self._stop:
            now_s = self._now_s = self._clock.at(time.monotonic())
            for child in self.children.values():
                self._tend(child, now_s)
            if now_s >= next_own_s:
                next_own_s = now_s + 1.0
                self._see_guests_off()
                self._tell_given_up()
                self._tell_own()
                if not self._at_home() and self._home_again():
                    self.log.warning("%s was removed; everything is started anew", self.dir)
                    return
            # Drivers wait for the stages that they feed: a daemon without one of those is not up.
            settled = ("up", "ended", "gave-up")
            states = [c.keeper.state for c in self.children.values()]
            if not self._told_ready and all(state in settled for state in states):
                self._told_ready = True
                ready()
            ready_sockets = dict(self.poller.poll(round(POLL_S * 1000)))
            self._hear()
            if self.worker in ready_sockets:
                self._model_answer()
            if self.control in ready_sockets:
                self._request()
            if self._swap and time.monotonic() > self._swap.end_s:
                text = f"the worker still loads {self._swap.model}; hgr status tells when it runs"
                self._answer_swap(False, text)

    def _at_home(self) -> bool:
        """Whether our sockets are still in the run directory, which a logout or a cleaner of /tmp
        may have removed: who starts later would find nobody. Files alone are left anew."""
        if not (self.dir / DAEMON_FILE).exists():
            with contextlib.suppress(OSError):
                self._leave_files()
        names = [name for name, whose in SOCKETS.items() if whose == "supervisor"]
        return not has_ipc() or all((self.dir / f"{name}.ipc").exists() for name in names)

    def _home_again(self) -> bool:
        """Whether the run directory, which is gone, is there once more. A logout takes its parent,
        too, which only the system makes: until it does, what runs goes on with what it has."""
        try:
            make_run_dir(self.dir)
            self._leave_files()
        except (BusError, OSError) as error:
            if not self._homeless:
                self.log.warning("%s; nobody finds this daemon there until then", error_line(error))
            self._homeless = error_line(error)
            return False
        self._homeless = ""
        return True

    def _tend(self, child: Child, now_s: float) -> None:
        keeper, stage = child.keeper, child.process.stage
        if child.popen is not None and (code := child.popen.poll()) is not None:
            keeper.reason = keeper.reason or self._last_words(child, code)
            self._forget(child)
            self._fell(child, now_s, code)
            if stage == "worker" and self._swap:
                text = f"the worker ended while it loaded {self._swap.model}; {self.model} runs on"
                self._answer_swap(False, text)
                self._swap = None
        match keeper.due(now_s):
            case "start" if self._may_start(child):
                keeper.reason = ""
                keeper.started(now_s)
                try:
                    self._leave_files()  # /tmp may have been cleaned meanwhile
                    child.boot_id = new_boot_id()
                    child.popen = self._start(child.process, child.boot_id)
                except OSError as error:  # the machine is out of memory, files or disk: for now
                    keeper.reason = error_line(error)
                    self._fell(child, now_s, 1)
            case "kill":
                self.log.warning("%s: %s; killing it", stage, keeper.reason)
                assert child.popen is not None
                child.popen.kill()  # one that hangs in the system itself may be slow to go

    def _start(self, process: Process, boot_id: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            process.argv,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            # Its own group: Ctrl-C in the terminal is for the supervisor alone, who ends the
            # others in order.
            **_OWN_GROUP,
            # One thread a process unless its config says otherwise: on a small machine, thread
            # pools that fight cost more than they bring.
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                BOOT_ID_VARIABLE: boot_id,
            },
        )

    def _fell(self, child: Child, now_s: float, code: int) -> None:
        """Judge what has ended, and tell."""
        keeper, stage = child.keeper, child.process.stage
        keeper.exited(now_s, code)
        if keeper.state == "waiting":
            wait_s = keeper.start_at_s - now_s
            self.log.warning("%s: %s; starting it again in %.1f s", stage, keeper.reason, wait_s)
            self._tell(child, "restarting", keeper.reason)
        elif keeper.state == "gave-up":
            self.log.error("%s: %s; gave it up", stage, keeper.reason)
            self._tell(child, "gave-up", keeper.reason)
        else:
            self.log.info("%s: %s", stage, keeper.reason)
            self._tell(child, "stopped", keeper.reason)

    def _may_start(self, child: Child) -> bool:
        if child.keeper.restarts:
            return True
        return all(self.children[stage].keeper.state == "up" for stage in child.process.after)

    def _last_words(self, child: Child, code: int) -> str:
        """Why a stage ended that starting again cannot help; empty if it did not say."""
        self._hear()
        status = child.status
        if code != EXIT_FATAL or status is None or child.popen is None:
            return ""
        ended = status.boot_id == child.boot_id and status.state in ("down", "degraded", "stopped")
        return status.message if ended else ""

    def _forget(self, child: Child) -> None:
        if child.popen is not None and child.popen.stdin is not None:
            with contextlib.suppress(OSError):
                child.popen.stdin.close()
        child.popen = None

    def _hear(self) -> None:
        for data in self.inlet.drain():
            self._status(data)

    def _status(self, data: bytes) -> None:
        try:
            status = decode(Status, data)
        except MessageError as error:
            self._refused += 1
            if worth_telling(self._refused):
                self.log.warning("refused a status: %s", error)
            return
        child = self.children.get(status.stage)
        # Not by its process: in a virtual environment on Windows ours is one that starts it.
        if child is not None and child.popen is not None and child.boot_id == status.boot_id:
            child.status = status
            child.keeper.beat(self._now_s, ready=status.state not in ("starting", "down"))
            status.counts["restarts"] = child.keeper.restarts
        elif status.stage.startswith(DRIVER):
            self._guests[status.stage] = (self._now_s, status)
            if status.state == "stopped":
                del self._guests[status.stage]
        # A stage that is not ours (a replay beside us) is passed on as it is.
        self.outlet.tell(topics.of(status), encode(status))

    def _see_guests_off(self) -> None:
        """Tell of the drivers beside us that ended without a word: nobody else does."""
        silence_s = self.config.supervisor.heartbeat_timeout_s
        for stage, (heard_s, last) in list(self._guests.items()):
            if self._now_s - heard_s > silence_s:
                del self._guests[stage]
                over = msgspec.structs.replace(
                    last, state="stopped", message=f"silent for {silence_s:g} s; it is gone"
                )
                self.outlet.tell(topics.of(over), encode(over))

    def _tell(self, child: Child, state: StageState, message: str) -> None:
        last = child.status
        status = Status(
            stage=child.process.stage,
            boot_id=last.boot_id if last else self.boot_id,
            state=state,
            host_ns=monotonic_ns(),
            wall_ns=time.time_ns(),
            counts={**(last.counts if last else {}), "restarts": child.keeper.restarts},
            message=message,
        )
        self.outlet.tell(topics.of(status), encode(status))

    def _tell_given_up(self) -> None:
        """Of the stages that were given up: they say nothing more, and a gateway may be new."""
        for child in self.children.values():
            if child.keeper.state == "gave-up":
                self._tell(child, "gave-up", child.keeper.reason)

    def _tell_own(self) -> None:
        """The supervisor's own heartbeat."""
        keepers = [child.keeper for child in self.children.values()]
        states = [keeper.state for keeper in keepers]
        troubled = any(
            k.state == "gave-up" or (k.state == "waiting" and k.restarts) for k in keepers
        )
        troubled |= bool(self._homeless)
        starting = "starting" in states or "waiting" in states
        fault = self._deserted()
        if fault and not self._told_deserted:
            self.log.warning("%s; mend it and start again (hgr replay FILE feeds us, too)", fault)
        self._told_deserted = bool(fault)
        status = Status(
            stage="supervisor",
            boot_id=self.boot_id,
            state="degraded" if troubled else "starting" if starting else "up",
            host_ns=monotonic_ns(),
            wall_ns=time.time_ns(),
            pid=os.getpid(),
            counts={
                "restarts": sum(keeper.restarts for keeper in keepers),
                "malformed": self._refused,
            },
            message="; ".join(filter(None, (f"model {self.metadata.name}", fault, self._homeless))),
        )
        self.outlet.tell(topics.of(status), encode(status))

    def _deserted(self) -> str:
        """Which drivers gave up, and why, when nothing else feeds frames; otherwise nothing."""
        drivers = [c for c in self.children.values() if c.process.stage.startswith(DRIVER)]
        live = any(c.keeper.state not in ("gave-up", "ended") for c in drivers)
        if live or self._guests:
            return ""
        lost = [c for c in drivers if c.keeper.state == "gave-up"]
        told = "; ".join(f"{c.process.stage.removeprefix(DRIVER)}: {c.keeper.reason}" for c in lost)
        return f"no device feeds frames: {told}" if lost else ""

    # -- requests -------------------------------------------------------------------------------

    def _request(self) -> None:
        parts = self.control.recv_multipart()
        try:
            request = decode_request(parts[-1] if len(parts) > 1 else b"")
        except ValueError as error:
            self._answer(parts, False, str(error))
            return
        match request.get("op"):
            case "stop":
                self._answer(parts, True, "stopping")
                self.stop()
            case "model" if not isinstance(request.get("model"), str):
                self._answer(parts, False, 'which model? {"op": "model", "model": FILE}')
            case "model" if self.children["worker"].keeper.state == "gave-up":
                self._answer(parts, False, "the worker was given up; see its log")
            case "model" if self._swap:
                self._answer(parts, False, "another model is being loaded; try again")
            case "model":
                model = str(request["model"])
                ask = msgspec.msgpack.encode({"op": "use", "model": model})
                self.worker.send_multipart([b"", ask])
                self._swap = Swap(model, parts, time.monotonic() + MODEL_TIMEOUT_S)
            case op:
                self._answer(parts, False, f"unknown request {op!r}; known: stop, model")

    def _model_answer(self) -> None:
        answer = msgspec.msgpack.decode(self.worker.recv_multipart()[-1])
        if answer["ok"]:  # however late: that is what runs
            self._keep_model(answer["model"])
        self._answer_swap(answer["ok"], answer["text"])
        self._swap = None

    def _keep_model(self, model: str) -> None:
        """A worker that is started again comes back with this model."""
        try:
            metadata = read_metadata(model)
        except ModelError as error:
            self.log.warning("a worker started again would load %s: %s", self.model, error)
            return
        self.metadata = metadata
        self.model = self.info.model = str(resolve(model))
        with contextlib.suppress(OSError):  # it is tried again at each start
            self._leave_files()

    def _answer_swap(self, ok: bool, text: str) -> None:
        """Answer whoever asked for another model, once."""
        if self._swap and self._swap.parts:
            self._answer(self._swap.parts, ok, text)
            self._swap.parts, self._swap.end_s = [], math.inf

    def _answer(self, parts: list[bytes], ok: bool, text: str) -> None:
        reply = msgspec.msgpack.encode({"ok": ok, "text": text})
        with contextlib.suppress(zmq.ZMQError):
            self.control.send_multipart([*parts[:-1], reply], zmq.NOBLOCK)

    # -- ending ---------------------------------------------------------------------------------

    def _end(self) -> int:
        """Sources first, so that what they sent is still worked off; the gateway last."""
        deadline_s = time.monotonic() + STOP_S
        failed = False
        stages = list(self.children.values())
        drivers = [c for c in stages if c.process.stage.startswith(DRIVER)]
        rest = [c for c in reversed(stages) if c not in drivers]
        for group in (drivers, *([c] for c in rest)):
            for child in group:
                if child.popen is not None and child.popen.stdin is not None:
                    with contextlib.suppress(OSError):
                        child.popen.stdin.close()
            for child in group:
                failed |= not self._wait(child, deadline_s)
        return 1 if failed else 0

    def _wait(self, child: Child, deadline_s: float) -> bool:
        if child.popen is None:
            return True
        try:
            child.popen.wait(max(0.05, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.log.warning("%s did not end in time; killing it", child.process.stage)
            child.popen.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the system itself
                child.popen.wait(KILL_S)
            return False
        return True


def handle_signals(supervisor: Supervisor) -> None:
    """Ctrl-C, SIGTERM and a terminal that is closed end the daemon; a second one is not needed."""

    def on_signal(*_: object) -> None:
        supervisor.stop()

    for number in ending_signals():
        signal.signal(number, on_signal)
