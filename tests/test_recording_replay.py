"""The replay driver, and the commands around recordings, beside a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner, Result
from hgr_drivers.base import DeviceError, EndOfStream
from hgr_drivers.registry import configured
from hgr_drivers.replay import ReplayDriver, ReplayOptions

from hgr_stream.cli import cli, recordings
from hgr_stream.cli.demo import free_port
from hgr_stream.client import Stream
from hgr_stream.config import ConfigError
from hgr_stream.messages import Frame, encode
from hgr_stream.recording import Reader, Writer
from hgr_stream.stream import topics
from hgr_stream.stream.bus import LOCK_FILE, DaemonInfo, private_sockets, write_daemon_file
from tests.daemon_process import HGR, Daemon, wait_until
from tests.hands import swipe_frames
from tests.models import save_palm_model

ROOT = Path(__file__).resolve().parent.parent
MS = 1_000_000


def bare(n: int, device: str = "leap", step_ns: int = 10 * MS) -> list[Frame]:
    return [
        Frame(device, "b", i, 5_000 * MS + i * step_ns, i, 1 + i, 2 + i, 3 + i, index=100 + i)
        for i in range(n)
    ]


def save(path: Path, frames: list[Frame]) -> Path:
    with Writer(path, force=True) as writer:
        for i, frame in enumerate(frames):
            writer.write(topics.of(frame), encode(frame), i, i, frame.seq)
    return path


def play(timeout_s: float = 1.0, limit: int = 10_000, **options: object) -> list[Frame]:
    driver = ReplayDriver(ReplayOptions(**options))  # type: ignore[arg-type]
    driver.open()
    out: list[Frame] = []
    try:
        while len(out) < limit:
            sample = driver.read(timeout_s)
            if sample is not None:
                assert sample.frame is not None
                out.append(sample.frame)
    except EndOfStream:
        pass
    finally:
        driver.close()
    return out


# ---- the driver ---------------------------------------------------------------------------------


def test_every_frame_comes_as_it_was_recorded(tmp_path: Path) -> None:
    frames = [*bare(20), *bare(5, "other")]
    file = save(tmp_path / "a.mcap", frames)
    assert play(file=str(file), speed="max") == frames


def test_one_times_speed_takes_the_recordings_time(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(31))
    began_s = time.monotonic()
    assert len(play(file=str(file))) == 31
    assert 0.3 <= time.monotonic() - began_s < 1.5
    began_s = time.monotonic()
    assert len(play(file=str(file), start_s=0.25)) == 6
    assert 0.05 <= time.monotonic() - began_s < 0.3


def test_a_read_waits_no_longer_than_asked(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(2, step_ns=900 * MS))
    driver = ReplayDriver(ReplayOptions(file=str(file)))
    driver.open()
    assert driver.read(0.01) is not None
    began_s = time.monotonic()
    assert driver.read(0.05) is None
    assert time.monotonic() - began_s < 0.5


def test_another_name_keeps_devices_apart(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", [*bare(2), *bare(2, "other"), *bare(1)])
    names = [f.device for f in play(file=str(file), speed="max", device="mine")]
    assert names == ["mine", "mine", "mine-2", "mine-2", "mine"]


def test_a_loop_lets_stream_time_run_on(tmp_path: Path) -> None:
    frames = bare(4)
    frames.append(Frame("leap", "b", 4, 0, 0, 9, 9, 9, end=True))
    file = save(tmp_path / "a.mcap", frames)
    got = play(file=str(file), speed="max", loop=True, limit=10)
    assert [f.time_ns for f in got] == [5_000 * MS + i * 10 * MS for i in range(10)]
    assert [f.index - 100 for f in got] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert not any(f.end for f in got)
    assert [f.end for f in play(file=str(file), speed="max")] == [False] * 4 + [True]


def test_bad_messages_are_counted_and_passed_over(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mcap") as writer:
        for i, payload in enumerate([encode(bare(1)[0]), b"\xc1", b""]):
            writer.write("frame/leap", payload, i, i)
    driver = ReplayDriver(ReplayOptions(file=str(tmp_path / "a.mcap"), speed="max"))
    driver.open()
    assert driver.read(0.1) is not None
    with pytest.raises(EndOfStream):
        driver.read(0.1)
    assert driver.counts() == {"bad_messages": 2}


def test_a_cut_file_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    with Writer(file) as writer:
        for frame in bare(30):
            writer.write("frame/leap", encode(frame), frame.time_ns, 0)
            writer.flush()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    got = play(file=str(file), speed="max")
    assert 5 < len(got) < 30
    assert got == bare(30)[: len(got)]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"file": "none.mcap"}, "none.mcap: no such file or folder"),
        ({"file": "text.mcap"}, "text.mcap: not an MCAP recording"),
        ({"file": "empty.mcap"}, "empty.mcap holds no frames"),
        ({"file": "a.mcap", "start_s": 99.0}, "a.mcap holds no frames from there on"),
        ({"file": "a.mcap", "speed": -1.0}, "speed -1.0 is neither"),
        ({"file": "a.mcap", "speed": "quick"}, "speed 'quick' is neither"),
        ({"file": "."}, "holds several recordings"),
    ],
)
def test_what_cannot_be_played_is_fatal_in_one_line(
    tmp_path: Path, options: dict[str, object], fault: str
) -> None:
    save(tmp_path / "a.mcap", bare(3))
    save(tmp_path / "empty.mcap", [])
    (tmp_path / "text.mcap").write_text("hello")
    if options["file"] == ".":
        (tmp_path / "text.mcap").unlink()
    options["file"] = str(tmp_path / str(options["file"]))
    with pytest.raises(DeviceError) as told:
        play(**options)  # type: ignore[arg-type]
    assert told.value.fatal
    assert fault in str(told.value)
    assert "\n" not in str(told.value)


def test_the_shipped_config_fits_the_driver() -> None:
    table = tomllib.loads((ROOT / "configs/replay.toml").read_text())["devices"]["replay"]
    driver, options = configured("replay", table)
    assert driver is ReplayDriver
    assert options == ReplayOptions(file="session.mcap")
    with pytest.raises(ConfigError, match="sped"):
        configured("replay", {**table, "sped": 2})


# ---- commands without a daemon ------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.mark.parametrize("apart_s", [-1000, 1000])
def test_a_recordings_duration_is_of_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart_s: int
) -> None:
    """On Windows frames are stamped by a finer clock than Python's monotonic one."""
    monkeypatch.setattr(
        recordings, "monotonic_ns", lambda: time.monotonic_ns() + apart_s * 1_000_000_000
    )
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    began_s = time.monotonic()
    with Writer(tmp_path / "a.mcap") as writer, Stream([""], endpoint) as stream:
        recordings._record(stream, writer, 0.3)
    assert 0.3 <= time.monotonic() - began_s < 5


def test_info_for_people_and_for_machines(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", swipe_frames(1, device="leap"))
    told = run("info", file)
    assert told.exit_code == 0
    assert "device leap: 640 frames" in told.output
    assert "right hand: 100.0% of the frames" in told.output
    data = json.loads(run("info", file, "--json").output)
    assert data["devices"][0]["hands"][0]["ids"] == [7]
    assert data["devices"][0]["hands"][0]["bone_cv"]["index_tip"] < 0.01


def test_info_of_a_recording_without_frames(tmp_path: Path) -> None:
    told = run("info", save(tmp_path / "a.mcap", []))
    assert told.exit_code == 0
    assert "no frames in it" in told.output


def test_info_refuses_a_rate_for_what_tells_its_times(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(3))
    for path in (file, tmp_path):
        told = run("info", path, "--fps", "25")
        assert told.exit_code == 2
        assert "mcap recordings have their own time" in told.output


@pytest.mark.parametrize("command", ["info", "recover", "replay"])
def test_no_recording_is_one_line_and_exit_1(tmp_path: Path, command: str) -> None:
    (tmp_path / "a.mcap").write_text("hello")
    for name, fault in (("a.mcap", "not an MCAP recording"), ("none.mcap", "o such file")):
        told = run(command, tmp_path / name)
        assert told.exit_code == 1
        assert fault in told.output
        assert told.output.count("\n") == 1


def test_recover_writes_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    save(file, bare(10))
    file.write_bytes(file.read_bytes()[:-30])
    told = run("recover", file)
    assert told.exit_code == 0
    assert "10 messages" in told.output
    assert "not closed" in told.output
    assert list(Reader(tmp_path / "a.recovered.mcap")) == bare(10)
    assert run("recover", file).exit_code == 1
    assert run("recover", file, "--force").exit_code == 0


def test_of_an_empty_file_info_tells_so_and_nothing_can_be_made(tmp_path: Path) -> None:
    file = tmp_path / "a.mcap"
    file.touch()
    assert json.loads(run("info", file, "--json").output)["messages"] == 0
    for command in ("recover", "replay", "process"):
        assert run(command, file).exit_code == 1
    assert not (tmp_path / "a.recovered.mcap").exists()


def test_import_tells_what_came_in(tmp_path: Path) -> None:
    row = ";".join(f"{0.01 * j:.2f}" for j in range(140))
    (tmp_path / "5.txt").write_text(f"{row}\n{row}\n{row[:90]}")
    (tmp_path / "annotations.txt").write_text("5;TAP;1;2;")
    told = run("import", "shrec21", tmp_path / "5.txt", "-o", tmp_path / "5.mcap")
    assert told.exit_code == 0
    assert "1 recording, 2 frames, 1 annotated gestures" in told.output
    assert "5.txt line 3: cut short, dropped" in told.output
    again = run("import", "shrec21", tmp_path / "5.txt", "-o", tmp_path / "5.mcap")
    assert again.exit_code == 1
    assert "exists; --force overwrites it" in again.output
    assert run("import", "kinect", tmp_path, "-o", "x.mcap").exit_code == 2


@pytest.mark.parametrize("speed", ["0", "-2", "fast", "nan"])
def test_a_wrong_speed_is_a_usage_error(tmp_path: Path, speed: str) -> None:
    told = run("replay", save(tmp_path / "a.mcap", bare(2)), f"--speed={speed}")
    assert told.exit_code == 2
    assert "is neither a number above 0" in told.output


def test_record_refuses_to_overwrite(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(2))
    told = run("record", file, "--duration", 0.1)
    assert told.exit_code == 1
    assert "exists; --force overwrites it" in told.output
    assert list(Reader(file)) == bare(2)


def test_record_of_nothing_is_exit_1(tmp_path: Path) -> None:
    file = tmp_path / "nothing.mcap"
    told = run("record", file, "--duration", 0.1, "--connect", "tcp://127.0.0.1:9")
    assert told.exit_code == 1
    assert "nothing was recorded" in told.output
    assert Reader(file).indexed


# ---- beside a daemon ----------------------------------------------------------------------------

CONFIG = """
[devices.idle]
driver = "synthetic"
hand_present = false
[model]
use = "{model}"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    model = save_palm_model(tmp_path_factory.mktemp("model") / "palm.pt")
    running = Daemon(tmp_path_factory.mktemp("d"), CONFIG.format(model=model))
    yield running
    running.stop()


class Recording:
    """``hgr record`` in its own process."""

    def __init__(self, daemon: Daemon, file: Path, *arguments: str) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [*HGR, "record", str(file), *arguments],
            env=daemon.env,
            stderr=subprocess.PIPE,
            text=True,
        )
        # The idle device's frames show that it is connected.
        wait_until(lambda: file.exists() and self.messages() > 0, 15, "recording")

    def messages(self) -> int:
        return sum(1 for _ in Reader(self.file).messages())

    def stop(self, sig: int = signal.SIGINT) -> str:
        self.process.send_signal(sig)
        return self.process.communicate(timeout=10)[1]


def content(frame: Frame) -> tuple[object, ...]:
    return (frame.device, frame.time_ns, frame.device_ns, frame.index, frame.hands)


@pytest.mark.parametrize("arguments", [["--speed", "max"], ["--speed", "8"]])
def test_what_is_replayed_is_what_is_recorded(
    daemon: Daemon, tmp_path: Path, arguments: list[str]
) -> None:
    source = swipe_frames(1, device="leap")
    file = save(tmp_path / "source.mcap", source)
    recording = Recording(daemon, tmp_path / "out.mcap")
    replayed = daemon.hgr("replay", str(file), *arguments, "--name", "test")
    assert replayed.returncode == 0, replayed.stderr
    assert "640 frames replayed" in replayed.stderr
    time.sleep(0.3)
    told = recording.stop()
    assert recording.process.returncode == 0
    assert "messages" in told
    assert "lost" not in told
    reader = Reader(recording.file)
    got = [f for f in reader if f.device == "leap"]
    assert [content(f) for f in got if not f.end] == [content(f) for f in source]
    assert [f.seq for f in got] == list(range(len(got)))
    assert reader.indexed
    found = run("info", recording.file, "--json")
    data = json.loads(found.output)
    leap = next(d for d in data["devices"] if d["device"] == "leap")
    assert (leap["lost"], leap["frames"]) == (0, len(source))
    assert leap["slots"]
    assert any(t["topic"].startswith("gesture/leap/right/") for t in data["topics"])


def test_record_ends_by_itself_and_selects_topics(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "out.mcap"
    done = daemon.hgr("record", str(file), "--duration", "1.2", "--topic", "status/")
    assert done.returncode == 0
    kinds = {m.topic.split("/")[0] for m in Reader(file).messages()}
    assert kinds == {"status"}
    assert Reader(file).indexed


def test_a_signal_closes_a_recording_and_sigkill_leaves_it_readable(
    daemon: Daemon, tmp_path: Path
) -> None:
    ends = [signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        ends.append(signal.SIGHUP)  # under nohup it is ignored
    for sig in ends:
        closed = Recording(daemon, tmp_path / f"{sig.name}.mcap")
        closed.stop(sig)
        assert Reader(closed.file).indexed
    killed = Recording(daemon, tmp_path / "b.mcap")
    killed.stop(signal.SIGKILL)
    reader = Reader(killed.file)
    assert not reader.indexed
    assert sum(1 for _ in reader.messages()) > 0


def test_step_gives_a_frame_for_each_line(daemon: Daemon, tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(10))
    done = subprocess.run(
        [*HGR, "replay", str(file), "--step", "--device", "stepped", "--name", "test"],
        env=daemon.env,
        input="\n\n\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 frames replayed" in done.stderr
    assert "0.020 s  stepped frame 102: no hand" in done.stderr


def test_ctrl_c_ends_a_looped_replay(daemon: Daemon, tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(10))
    process = subprocess.Popen(
        [*HGR, "replay", str(file), "--loop", "--device", "looped", "--name", "test"],
        env=daemon.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: daemon.count("driver.looped", "frames") > 30, 15, "the third round")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=5)[1]
    assert process.returncode == 0
    assert "frames replayed" in told


def test_a_replay_ends_with_its_daemon_however_that_ended(short_path: Path) -> None:
    """The daemon: a process that holds the lock, and a socket that takes what is sent."""
    folder = short_path / "default"
    folder.mkdir()
    sockets, lock = private_sockets(folder), folder / LOCK_FILE
    code = "import filelock, sys, time\nwith filelock.FileLock(sys.argv[1]): time.sleep(60)"
    daemon = subprocess.Popen([sys.executable, "-c", code, str(lock)])
    write_daemon_file(folder, DaemonInfo(daemon.pid, "", "0", "tcp://127.0.0.1:1", sockets, [], ""))
    file = save(short_path / "a.mcap", bare(6000))
    with zmq.Context() as context, context.socket(zmq.PULL) as segmenter:
        segmenter.bind(sockets["frames"])
        wait_until(lock.exists, 10, "its start")
        replay = subprocess.Popen(
            [*HGR, "replay", str(file)],
            env={**os.environ, "HGR_RUN_DIR": str(short_path)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert segmenter.poll(20_000)
        time.sleep(1.2)  # it has looked for its daemon
        assert replay.poll() is None
        daemon.kill()
        daemon.wait()
        told = replay.communicate(timeout=10)[1]
    assert replay.returncode == 1
    assert told.count("the daemon has ended; what was sent last reached nobody") == 1


def test_replay_without_a_daemon_names_the_cure(tmp_path: Path) -> None:
    file = save(tmp_path / "a.mcap", bare(3))
    done = subprocess.run(
        [*HGR, "replay", str(file)],
        env={**os.environ, "HGR_RUN_DIR": str(tmp_path / "nobody")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "start one with: hgr run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("step_ns", "speed"), [(10 * MS, "1"), (1_000 * MS, "300")])
def test_a_recordings_clock_is_not_judged(
    daemon: Daemon, tmp_path: Path, step_ns: int, speed: str
) -> None:
    """Neither one that stood still, nor one that is played much faster."""
    frames = bare(round(1.5e9 / step_ns * float(speed)), step_ns=step_ns)
    for i, frame in enumerate(frames):
        frame.device_ns = 5 if speed == "1" else i * step_ns
    path = save(tmp_path / "odd.mcap", frames)
    replayed = daemon.hgr("replay", str(path), "--speed", speed, "--name", "test")
    assert replayed.returncode == 0, replayed.stderr
    assert "the device's time" not in replayed.stderr


def test_a_recording_of_a_device_that_runs_here_gets_a_name_of_its_own(tmp_path: Path) -> None:
    """Record and replay on the same daemon: neither is in the other's way."""
    daemon = Daemon(tmp_path, _config(tmp_path))
    path = tmp_path / "idle.mcap"
    try:
        recorded = daemon.hgr("record", str(path), "--duration", "2")
        assert recorded.returncode == 0, recorded.stderr
        before = daemon.count("segmenter", "frames")
        replayed = daemon.hgr("replay", str(path), "--speed", "max", "--name", "test")
        assert replayed.returncode == 0, replayed.stderr
        assert "as device idle-replay" in replayed.stderr
        wait_until(lambda: daemon.count("segmenter", "frames") > before + 15, 5, "both")
        assert daemon.count("segmenter", "conflicting") == 0
        assert daemon.count("segmenter", "restarts") == 0
    finally:
        daemon.stop()


def _config(tmp_path: Path) -> str:
    model = save_palm_model(tmp_path / "palm.pt")
    return f'[devices.idle]\ndriver = "synthetic"\nhand_present = false\n[model]\nuse = "{model}"\n'
