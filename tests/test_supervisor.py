"""The supervisor in this process, with no stages, or with such as cannot be started."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgr_stream import config
from hgr_stream.cli.demo import free_port
from hgr_stream.daemon import supervisor as module
from hgr_stream.daemon.processes import Process
from hgr_stream.daemon.supervisor import Supervisor
from tests.daemon_process import wait_until


@contextlib.contextmanager
def supervising(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *processes: Process
) -> Iterator[Supervisor]:
    monkeypatch.setattr(module, "processes", lambda *_: list(processes))
    options = config.Supervisor(max_restarts=0)
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


def test_a_process_that_cannot_be_started_now_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Process("segmenter", (str(tmp_path / "nothing"),))
    with supervising(tmp_path, monkeypatch, nothing) as supervisor:
        keeper = supervisor.children["segmenter"].keeper
        assert (keeper.state, "No such file" in keeper.reason) == ("gave-up", True)
