"""A real daemon for tests: ``hgr run`` in its own process, and a source that feeds it frames."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import zmq

from hgr_stream.cli.demo import free_port
from hgr_stream.client import ClientError, snapshot
from hgr_stream.messages import Frame, Status, decode, encode
from hgr_stream.stream import topics
from hgr_stream.stream.bus import Outlet, read_daemon_file

HGR = [sys.executable, "-m", "hgr_stream.cli"]


def wait_until(condition, timeout_s: float = 10.0, what: str = "it") -> None:
    """Poll until true; fail with the name of what did not happen."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.02)


def without_torch(folder: Path) -> dict[str, str]:
    """The environment of a process that finds no torch, but a stub in this folder."""
    (folder / "torch.py").write_text("raise ImportError('no torch here')\n")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Daemon:
    """One running ``hgr run``."""

    def __init__(self, tmp_path: Path, config: str, *, start: bool = True) -> None:
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.run_dir = tmp_path / "run" / "test"
        self.config = tmp_path / "daemon.toml"
        head = 'name = "test"\n'
        gateway = f"[gateway]\nport = {self.port}\n"
        self.config.write_text(head + config + ("" if "[gateway]" in config else gateway))
        if "[gateway]" in config:
            text = self.config.read_text().replace("[gateway]", gateway.strip())
            self.config.write_text(text)
        self.log = tmp_path / "daemon.log"
        self.env = {
            **os.environ,
            "HGR_ENDPOINT": self.endpoint,
            "HGR_RUN_DIR": str(self.run_dir.parent),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.told: dict[str, Status] = {}  # the last status
        if start:
            self.start()

    def start(self, told: str = "up: ") -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*HGR, "run", str(self.config)], stdout=log, stderr=log, env=self.env
            )
        wait_until(lambda: self.ended() or told in self.text(), 40, "the start of the daemon")
        assert not self.ended(), self.text()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def text(self) -> str:
        return self.log.read_text()

    def hgr(self, *arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """A command beside the daemon."""
        return subprocess.run(
            [*HGR, *arguments], env=self.env, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Status]:
        with contextlib.suppress(ClientError):
            rows = [decode(Status, one.payload) for one in snapshot(self.endpoint, "status/")]
            self.told = {row.stage: row for row in rows}
            return self.told
        return {}

    def count(self, stage: str, name: str) -> int:
        row = self.status().get(stage)
        return row.counts.get(name, 0) if row else 0

    def pid(self, stage: str) -> int:
        wait_until(
            lambda: (s := self.status().get(stage)) is not None and s.pid > 0, 10, f"{stage}'s pid"
        )
        return self.status()[stage].pid

    def processes(self) -> list[psutil.Process]:
        assert self.process is not None
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def close(self) -> None:
        self.stop()

    def stop(self, sig: int = signal.SIGINT) -> float:
        """Seconds that the end took."""
        if self.process is None:
            return 0.0
        # pytest shows it of tests that fail.
        print(
            self.text(), *(f"{r.stage} {r.state} {r.counts}" for r in self.told.values()), sep="\n"
        )
        began_s = time.monotonic()
        if not self.ended():
            self.process.send_signal(sig)
        self.process.wait(20)
        return time.monotonic() - began_s


class Feeder:
    """A source under test control: frames straight onto the daemon's own socket."""

    def __init__(self, daemon: Daemon) -> None:
        self.context = zmq.Context()
        # One that a failed test leaves behind must not wait for its messages when it is collected.
        self.context.setsockopt(zmq.LINGER, 500)
        self.sockets = read_daemon_file(daemon.run_dir).sockets
        self.outlet = Outlet(self.context, self.sockets, "frames")
        assert self.outlet.wait_for_tap(15)

    def send(self, frames: list[Frame], *, end: bool = False) -> None:
        for frame in frames:
            frame.sent_ns = time.monotonic_ns()
            assert self.outlet.send(topics.of(frame), encode(frame), lossless=True)
        if end:
            last = msgspec.structs.replace(frames[-1], seq=frames[-1].seq + 1, hands=[], end=True)
            assert self.outlet.send(topics.of(last), encode(last), lossless=True)

    def raw(self, socket_name: str, parts: list[bytes], kind: int = zmq.PUSH) -> None:
        """Any bytes onto any private socket."""
        with self.context.socket(kind) as out:
            out.setsockopt(zmq.LINGER, 500)
            out.connect(self.sockets[socket_name])
            if kind == zmq.XPUB:
                assert out.poll(5000)  # the other side's subscriptions
            out.send_multipart(parts)
            time.sleep(0.02)

    def close(self) -> None:
        self.outlet.close()
        self.context.destroy(linger=500)


@contextlib.contextmanager
def feeding(daemon: Daemon) -> Iterator[Feeder]:
    feeder = Feeder(daemon)
    try:
        yield feeder
    finally:
        feeder.close()
