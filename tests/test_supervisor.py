"""The supervisor in this process, with no stages, or with such as cannot be started."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
import zmq
from click.testing import CliRunner

from hgr_stream import config
from hgr_stream.cli.daemon import status as hgr_status
from hgr_stream.cli.demo import free_port
from hgr_stream.client import Received, request
from hgr_stream.daemon import supervisor as module
from hgr_stream.daemon.keeper import Keeper
from hgr_stream.daemon.processes import Process
from hgr_stream.daemon.supervisor import Child, Supervisor, handle_signals
from hgr_stream.messages import Status, decode, encode
from hgr_stream.stream.bus import BusError
from tests.daemon_process import wait_until


@contextlib.contextmanager
def supervising(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *processes: Process,
    silence_s: float = 0.2,
) -> Iterator[Supervisor]:
    monkeypatch.setattr(module, "processes", lambda *_: list(processes))
    options = config.Supervisor(max_restarts=0, heartbeat_timeout_s=silence_s)
    gateway = config.Gateway(port=free_port())
    supervisor = Supervisor(
        config.Config(run_dir=str(tmp_path / "run"), gateway=gateway, supervisor=options)
    )
    ready = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=[ready.set])
    thread.start()
    try:
        assert ready.wait(5)
        yield supervisor
        assert thread.is_alive()
    finally:
        supervisor.stop()
        thread.join()


def test_a_run_directory_that_was_cleaned_is_filled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervising(tmp_path, monkeypatch) as supervisor:
        files = [supervisor.dir / name for name in ("daemon.json", "config.json")]
        for file in files:
            file.unlink()
        wait_until(lambda: all(file.exists() for file in files), 3, "leaving the files again")
        shutil.rmtree(supervisor.dir)
        wait_until((supervisor.dir / "status.ipc").exists, 3, "starting anew")
        time.sleep(0.1)


def test_a_run_directory_that_cannot_be_made_again_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def refused(run_dir: Path) -> None:
        tried.set()
        raise BusError(f"{run_dir} cannot be made")

    with supervising(tmp_path, monkeypatch) as supervisor:
        with monkeypatch.context() as logged_out:
            logged_out.setattr(module, "make_run_dir", refused)
            shutil.rmtree(supervisor.dir)
            assert tried.wait(5)
            time.sleep(0.1)
            assert not supervisor.dir.exists()
        wait_until((supervisor.dir / "status.ipc").exists, 5, "starting anew")
        time.sleep(0.1)


def test_a_request_that_says_nothing_is_told_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with supervising(tmp_path, monkeypatch) as supervisor:
        for message, told in (
            ({"op": "model"}, "which model?"),
            ({"op": "dance"}, "unknown request 'dance'"),
        ):
            answer = msgspec.msgpack.decode(request(supervisor.info.sockets["control"], message))
            assert not answer["ok"]
            assert told in answer["text"]


def test_a_stage_starts_though_the_disk_has_become_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = Path.write_bytes, iter(range(2))  # files of the daemon's own start

    def until_full(path: Path, data: bytes) -> int:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", until_full)
    stage = Process("segmenter", (sys.executable, "-c", "raise SystemExit(3)"))
    with supervising(tmp_path, monkeypatch, stage) as supervisor:
        assert supervisor.children["segmenter"].keeper.reason.startswith("exit code 3")


def test_a_process_that_cannot_be_started_now_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Process("segmenter", (str(tmp_path / "nothing"),))
    with supervising(tmp_path, monkeypatch, nothing) as supervisor:
        keeper = supervisor.children["segmenter"].keeper
        assert (keeper.state, "No such file" in keeper.reason) == ("gave-up", True)


STAGE = """
import os, sys
from pathlib import Path
from hgr_stream.daemon.shell import Shell

class Stage(Shell):
    def turn(self, timeout_s):
        self.message = os.environ.get("HGR_BOOT_ID", "not handed on")
        self._stop.wait(min(timeout_s, 0.05))

Stage("segmenter", Path(sys.argv[1])).run()
"""


def test_a_stage_is_known_though_its_python_is_started_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a virtual environment on Windows python.exe starts the real one, and waits for it."""
    between = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    python = sys.executable
    argv = (python, "-c", between, python, "-c", STAGE, str(tmp_path / "run"))
    with supervising(tmp_path, monkeypatch, Process("segmenter", argv), silence_s=5) as supervisor:
        child = supervisor.children["segmenter"]
        assert (child.keeper.state, child.keeper.restarts) == ("up", 0)
        assert child.status is not None
        assert child.popen is not None
        assert child.status.pid != child.popen.pid
        wait_until(lambda: child.status.message == "not handed on", 3, "another heartbeat")


def test_a_replay_that_was_killed_is_told_as_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Status("driver.replay", "boot", "up", 1, 1)
    with (
        supervising(tmp_path, monkeypatch) as supervisor,
        zmq.Context() as context,
        context.socket(zmq.XSUB) as gateway,
        context.socket(zmq.PUSH) as replay,
    ):
        gateway.send(b"\x01status/driver.")
        gateway.bind(supervisor.info.sockets["tap"])
        replay.connect(supervisor.info.sockets["status"])
        heard = []
        while "stopped" not in heard:
            if "up" not in heard:  # the subscription takes a moment
                replay.send(encode(guest))
            if gateway.poll(100 if "up" not in heard else 3000):
                heard.append(decode(Status, gateway.recv_multipart()[1]).state)
            assert len(heard) < 50
        assert supervisor._guests == {}


@pytest.mark.parametrize(
    ("age_s", "state", "code"), [(1, "up", 0), (9, "up", 1), (9, "stopped", 0)]
)
def test_status_takes_nobody_for_up_who_was_not_heard_lately(
    monkeypatch: pytest.MonkeyPatch, age_s: int, state: str, code: int
) -> None:
    row = Status("worker", "boot", state, time.monotonic_ns() - age_s * 10**9, time.time_ns())  # type: ignore[arg-type]
    told = [Received("status/worker", encode(row), 0)]
    monkeypatch.setattr("hgr_stream.cli.daemon.snapshot", lambda *_: told)
    assert CliRunner().invoke(hgr_status, ["--json"]).exit_code == code


def test_statuses_that_cannot_be_read_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(config.Config())
    for _ in range(1000):
        supervisor._status(b"\xc1")
    assert len(caplog.records) == 4  # the 1st, 10th, 100th and 1000th


class Undying:
    """A process that hangs in the system itself: killed, and still there."""

    kills = 0

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        self.kills += 1

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "waits for ever"
        raise subprocess.TimeoutExpired("undying", timeout)


def test_a_process_that_cannot_be_killed_holds_nobody_up() -> None:
    supervisor, keeper, popen = Supervisor(config.Config()), Keeper(config.Supervisor()), Undying()
    child = Child(Process("driver.x", ()), keeper)
    child.popen = popen  # type: ignore[assignment]
    keeper.started(0.0)
    keeper.beat(0.0, ready=True)
    for now_s in range(12):
        supervisor._tend(child, now_s + 0.1)
    assert popen.kills == 2  # at each time limit
    assert not supervisor._wait(child, 0.0)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signals")
def test_a_terminal_that_is_closed_ends_a_daemon_in_order_but_not_under_nohup() -> None:
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    supervisor = Mock(spec=Supervisor)
    try:
        for as_started, stops in ((signal.SIG_DFL, 1), (signal.SIG_IGN, 0)):
            supervisor.reset_mock()
            signal.signal(signal.SIGHUP, as_started)
            handle_signals(supervisor)
            signal.raise_signal(signal.SIGHUP)
            assert supervisor.stop.call_count == stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="stands in for Windows' signal")
def test_ctrl_break_ends_a_daemon_in_order_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = SimpleNamespace(SIGINT=signal.SIGINT, SIGTERM=signal.SIGTERM, SIGBREAK=signal.SIGUSR1)
    monkeypatch.setattr("hgr_stream.daemon.shell.signal", windows)
    monkeypatch.setattr("hgr_stream.daemon.shell.sys", SimpleNamespace(platform="win32"))
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    supervisor = Mock(spec=Supervisor)
    try:
        handle_signals(supervisor)
        signal.raise_signal(signal.SIGUSR1)
        assert supervisor.stop.call_count == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
