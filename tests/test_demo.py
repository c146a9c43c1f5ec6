"""``hgr demo`` where it cannot go on, and where it is ended: with one line, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from hgr_stream.cli import demo
from hgr_stream.client import Stream
from hgr_stream.config import load
from hgr_stream.messages import Status
from tests.daemon_process import HGR, wait_until, without_torch

DEMO = [*HGR, "demo", "--gestures", "LEFT"]


def test_without_torch_it_ends_with_one_line_and_the_cure(short_path: Path) -> None:
    done = subprocess.run(
        DEMO, env={**without_torch(short_path), "TMPDIR": str(short_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'Error: worker: leap.pt needs torch to run: pip install "hgr-stream[inference]"'
    ]


def test_its_config_is_utf_8_where_text_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, whose temporary directory bears the user's name."""

    def written(path: Path, text: str, encoding: str = "cp1252") -> None:
        path.write_bytes(text.encode(encoding))

    def daemon(config: Path, _: Path) -> None:
        assert load(config).run_dir.startswith((tmp_path / "J\u00f6rg").as_posix())
        raise demo.DemoError("it was read", logged=False)

    (tmp_path / "J\u00f6rg").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "J\u00f6rg"))
    monkeypatch.setattr(Path, "write_text", written)
    monkeypatch.setattr(demo, "daemon", daemon)
    done = CliRunner().invoke(demo.demo, ["--json"])
    assert done.output == "Error: it was read\n"


def test_a_log_that_is_no_text_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def daemon(_: Path, log: Path) -> None:
        log.write_bytes(b"a camera's library says \x81\xff\n")
        raise demo.DemoError("it fell")

    monkeypatch.setattr(demo, "daemon", daemon)
    told = CliRunner().invoke(demo.demo, ["--json"]).output.splitlines()
    assert told == ["a camera's library says \ufffd\ufffd", "Error: it fell"]


def test_its_daemon_ends_in_order_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_ended = "import sys; sys.stdin.read(); print('in order')"

    def started(_: list[str], **options: object) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", until_ended], **options)

    popen = subprocess.Popen
    monkeypatch.setattr(demo.subprocess, "Popen", started)
    monkeypatch.setattr(demo, "os", SimpleNamespace(name="nt"))
    with demo.daemon(tmp_path / "demo.toml", tmp_path / "log") as process:
        assert process.poll() is None
    assert (process.returncode, (tmp_path / "log").read_text()) == (0, "in order\n")


def test_a_stage_s_fall_is_told_once_by_what_becomes_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, score = demo.Lines(), demo.Score()
    for state in ("starting", "up", "down", "restarting", "up", "stopped"):
        lines.take(Status("worker", "b", state, 0, 0, message="it fell"), score)
    assert capsys.readouterr().out == "worker: restarting it fell\n"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that lives and does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_stages_that_are_heard_while_nothing_is_performed_are_not_waited_for_for_ever(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "START_S", 0.3)
    score = demo.Score()
    score.take(Status("supervisor", "b", "starting", 0, 0), 0)
    began_s = time.monotonic()
    with (
        Stream([""], f"tcp://127.0.0.1:{demo.free_port()}", idle_s=0.02) as stream,
        pytest.raises(demo.DemoError, match=r"no gesture was performed within 0\.3 s"),
    ):
        demo.watch(stream, sleeper, score, quiet=True)
    assert time.monotonic() - began_s < 5


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_a_signal_ends_it_with_its_daemon(short_path: Path, name: str) -> None:
    number = getattr(signal, name)
    # What is ignored here, as under nohup or in the background, it would ignore as well.
    killed = name == "SIGKILL"
    before = None if killed else signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(
        DEMO, env={**os.environ, "TMPDIR": str(short_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if not killed:
        signal.signal(number, before)
    own = psutil.Process(process.pid)
    all_of_them: list[psutil.Process] = []

    def running() -> bool:
        all_of_them[:] = own.children(recursive=True)
        return len(all_of_them) >= 4  # the daemon, its gateway, worker and segmenter

    try:
        wait_until(running, 40, "the start of the daemon")
        process.send_signal(number)
        assert process.wait(10) == (-number if killed else 130)  # as after Ctrl-C
        _, alive = psutil.wait_procs(all_of_them, 5)
        assert not alive
        assert killed or not list(short_path.glob("hgr-demo-*"))
    finally:
        for left in [own, *all_of_them]:
            if left.is_running():
                left.kill()
        process.wait()
