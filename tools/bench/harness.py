"""What the benchmarks share: a real daemon to measure, processes' cost, medians, and the report.

Every benchmark measures its floor or a peer in the same run, in turn with its subject, because
machines are shared and differ: the ratio is what to compare, not the milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]

from hgr_stream import __version__
from hgr_stream.config import Config

REPOSITORY = Path(__file__).resolve().parents[2]
SHREC21 = REPOSITORY.parent / "shared" / "data" / "shrec21_online_train" / "positions.npz"
FPS = 120.0
START_S = 60.0
STOP_S = 6.0

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
model_option = click.option(
    "--model", default="leap", show_default=True, help="A shipped model's name or a file."
)


def command(name: str, cure: str = 'pip install -e ".[all,dev]"') -> str:
    """An installed command's path; raises ClickException with the cure when there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise click.ClickException(f"the command {name} is not installed: {cure}")
    return found


# -- figures ---------------------------------------------------------------------------------------


@dataclass
class Spread:
    """Median and spread of samples; of rounds where there are rounds."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float], low: float = 25, high: float = 75) -> Spread:
        """Median with the percentiles ``low`` and ``high``."""
        if not len(samples):
            raise click.ClickException("nothing was measured")
        middle, least, most = np.percentile(np.asarray(samples, dtype=float), [50, low, high])
        return cls(float(middle), float(least), float(most), len(samples))


@dataclass
class Figure:
    """One measured thing against its floor and its target."""

    what: str
    value: float
    unit: str
    floor: float | None = None
    spread: str = ""
    target: str = ""
    holds: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None


@dataclass
class Report:
    """What a benchmark prints: figures, tables beneath them, remarks."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, value: float, unit: str, **more: Any) -> Figure:
        figure = Figure(what, value, unit, **more)
        self.figures.append(figure)
        return figure

    def show(self, as_json: bool) -> None:
        """To standard output."""
        if as_json:
            figures = [{**asdict(f), "ratio": f.ratio} for f in self.figures]
            body = {"figures": figures, "tables": self.tables, "notes": self.notes}
            click.echo(json.dumps({"bench": self.name, "machine": machine(), **body}))
            return
        from rich.console import Console
        from rich.table import Table

        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(f"[b]{self.name}[/b]  {machine()}", highlight=False)
        table = Table("", "measured", "spread", "floor", "ratio", "target", "")
        for f in self.figures:
            table.add_row(
                f.what,
                f"{f.value:.4g} {f.unit}",
                f.spread,
                "" if f.floor is None else f"{f.floor:.4g} {f.unit}",
                "" if f.ratio is None else f"{f.ratio:.2f}",
                f.target,
                "" if f.holds is None else "holds" if f.holds else "FALLS SHORT",
            )
        console.print(table)
        for title, rows in self.tables.items():
            columns = list(rows[0]) if rows else []
            below = Table(*columns, title=title, title_justify="left")
            for row in rows:
                below.add_row(*(_cell(row[c]) for c in columns))
            console.print(below)
        for note in self.notes:
            console.print(f"- {note}", highlight=False)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> str:
    """Where and when, in one line."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    when = time.strftime("%Y-%m-%d %H:%M")
    return f"{when}, hgr-stream {__version__}, {psutil.cpu_count()} cores{load}"


def progress(text: str) -> None:
    """What is being done, for whoever waits."""
    click.echo(text, err=True)


# -- the daemon ------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that is free now, and the one after it."""
    for _ in range(100):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", port + 1))
                return port
    raise click.ClickException("no two free ports in a row on loopback")


def toml(config: dict[str, Any]) -> str:
    """A config as TOML: tables of scalars and lists, which JSON writes alike."""
    lines: list[str] = []
    for key, value in config.items():
        if not isinstance(value, dict):
            lines.append(f"{key} = {json.dumps(value)}")
    for key, value in config.items():
        if isinstance(value, dict):
            tables = value if key == "devices" else {"": value}
            for name, table in tables.items():
                lines.append(f"[{key}.{name}]" if name else f"[{key}]")
                lines += [f"{k} = {json.dumps(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def synthetic(**options: Any) -> dict[str, Any]:
    """A synthetic device's table at the rate that the targets speak of."""
    return {"driver": "synthetic", "fps": FPS, **options}


class Daemon:
    """``hgr run`` with the given devices, in a directory and on a port of its own.

    As a context manager it is up when entered; leaving it stops every process."""

    def __init__(self, name: str, devices: dict[str, dict[str, Any]], model: str = "leap") -> None:
        self.name = f"bench-{name}-{os.getpid()}"
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._config = {
            "name": self.name,
            "devices": devices,
            "model": {"use": model},
            "gateway": {"port": self.port},
        }
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Daemon:
        with contextlib.ExitStack() as stack:
            self.dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hgr-bench-")))
            config = self.dir / "bench.toml"
            config.write_text(toml(self._config))
            self.log = self.dir / "log.txt"
            with self.log.open("wb") as log:
                self.popen = subprocess.Popen(
                    [command("hgr"), "run", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment(),
                )
            stack.callback(self._stop)
            self._wait_until_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _wait_until_up(self) -> None:
        deadline_s = time.monotonic() + START_S
        while " up: " not in self.log.read_text(errors="replace"):
            if self.popen.poll() is not None or time.monotonic() > deadline_s:
                tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])
                raise click.ClickException(f"the daemon did not come up: {tail}")
            time.sleep(0.05)

    def _stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def environment(self) -> dict[str, str]:
        """In which it runs, and ``hgr replay`` and the like find it."""
        return {**os.environ, "HGR_RUN_DIR": str(self.dir), "HGR_ENDPOINT": self.endpoint}

    def processes(self) -> dict[str, psutil.Process]:
        """Every process of it, by stage; the supervisor is ``hgr run`` itself."""
        root = psutil.Process(self.popen.pid)
        return {"supervisor": root} | {
            stage_of(child): child for child in root.children(recursive=True)
        }


def stage_of(process: psutil.Process) -> str:
    """The stage that a process of the daemon runs, from its command line."""
    argv = process.cmdline()
    if "-m" in argv and (at := argv.index("-m")) + 2 < len(argv):
        return argv[at + 2] if "daemon" in argv[at + 1] else f"driver.{argv[at + 2]}"
    return f"{process.name()} {process.pid}"


def cpu_shares(processes: dict[str, psutil.Process], seconds: float) -> dict[str, float]:
    """Percent of one core that each process takes, over ``seconds``."""
    before = {stage: _cpu_s(process) for stage, process in processes.items()}
    began_s = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    return {s: 100 * (_cpu_s(p) - before[s]) / took_s for s, p in processes.items()}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- a driver without a daemon ---------------------------------------------------------------------


@contextlib.contextmanager
def driver_to_sink(options: dict[str, Any]) -> Iterator[dict[str, psutil.Process]]:
    """The very driver process that the daemon runs, publishing to a process that only receives."""
    from hgr_stream.daemon.main import CONFIG_FILE
    from hgr_stream.stream.bus import DaemonInfo, private_sockets, write_daemon_file

    with contextlib.ExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hgr-bench-")))
        sockets = private_sockets(run_dir)
        config = Config(devices={"synthetic": options})
        (run_dir / CONFIG_FILE).write_bytes(msgspec.json.encode(config))
        info = DaemonInfo(os.getpid(), "bench", __version__, "", sockets, ["synthetic"], "")
        write_daemon_file(run_dir, info)
        relay = [sys.executable, str(Path(__file__).with_name("relay.py"))]
        sink = [*relay, "sink", sockets["frames"], sockets["status"], "--tap", sockets["tap"]]
        driver = [sys.executable, "-m", "hgr_drivers.runner", "synthetic"]
        thrifty = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        running = {}
        for name, argv in (
            ("sink", sink),
            ("driver.synthetic", [*driver, "--run-dir", str(run_dir)]),
        ):
            popen = subprocess.Popen(argv, stdin=subprocess.PIPE, env=thrifty)
            stack.callback(end, popen)
            running[name] = psutil.Process(popen.pid)
        yield running


def end(popen: subprocess.Popen[bytes]) -> None:
    """Ask a child to end by closing its standard input; then by force."""
    if popen.stdin is not None:
        popen.stdin.close()
    try:
        popen.wait(2.0)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


# -- synthetic frames in memory --------------------------------------------------------------------


def synthetic_frames(seconds: float, **options: Any) -> list[Any]:
    """Frames as the synthetic device's process publishes them, without waiting for its clock."""
    from hgr_drivers.runner import Stamper
    from hgr_drivers.synthetic import SyntheticDriver
    from hgr_drivers.synthetic.driver import SyntheticOptions

    driver = SyntheticDriver(
        SyntheticOptions(**{"fps": FPS, **options}), clock=lambda: 0, sleep=lambda _: None
    )
    driver.open()
    stamper = Stamper("synthetic", "bench", lossless=True)
    frames: list[Any] = []
    wall_ns = time.time_ns()
    while len(frames) < seconds * FPS:
        sample = driver.read(1e9)
        if sample is not None and sample.device_ns is not None:
            now_ns = 1_000_000_000 + sample.device_ns
            frames.append(stamper.frame(sample, now_ns, wall_ns + sample.device_ns))
    return frames


def write_recording(frames: list[Any], path: Path) -> None:
    """Frames as a recording, as ``hgr record`` would have written it."""
    from hgr_stream.messages import encode
    from hgr_stream.recording import Writer
    from hgr_stream.stream import topics

    with Writer(path, force=True, source="bench") as writer:
        for frame in frames:
            writer.write(topics.of(frame), encode(frame), frame.wall_ns, frame.wall_ns, frame.seq)
            writer.tick(frame.time_ns / 1e9)


# -- where the time goes, inside one process -------------------------------------------------------


class Split:
    """Seconds in each stage of a pipeline: ``took_s`` by "segmentation", "engine" (all that the
    worker computes) and, within it, "recogniser", "network" and "verifier".

    Adds some tenths of a microsecond to every call."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = defaultdict(float)

    def attach(self, segmenter: Any, engine: Any) -> None:
        """Time these objects from now on."""
        for owner, attribute, name in (
            (segmenter, "push", "segmentation"),
            (engine, "push", "engine"),
            (engine.recogniser, "push", "recogniser"),
            (engine.recogniser, "verify", "verifier"),
        ):
            setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))
        recogniser = engine.recogniser
        if recogniser.step is None:  # a windowed model
            recogniser.bundle = _TimedBundle(recogniser.bundle, self)
        else:
            recogniser.step = self.timed("network", recogniser.step)

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            began_s = time.perf_counter()
            out = call(*args)
            self.took_s[name] += time.perf_counter() - began_s
            return out

        return wrapped


class _TimedBundle:
    """A bundle whose network is timed."""

    def __init__(self, bundle: Any, split: Split) -> None:
        self._bundle = bundle
        self.module = _TimedModule(bundle.module, split)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)


class _TimedModule:
    def __init__(self, module: Any, split: Split) -> None:
        self._module = module
        self._call = split.timed("network", module)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
