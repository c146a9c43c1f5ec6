"""The daemon as its users meet it: real processes, real sockets, real signals."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import psutil
import pytest
import zmq

import hgr_stream
from hgr_stream.cli.daemon import control
from hgr_stream.client import Stream, snapshot
from hgr_stream.config import ConfigError
from hgr_stream.daemon.recorder import check_path
from hgr_stream.messages import Event, Frame, Hand, Status, Window, encode, joint_bytes
from hgr_stream.pipeline import Pipeline
from hgr_stream.recognition.bundle import load
from hgr_stream.recording import Writer
from hgr_stream.stream import topics
from hgr_stream.stream.bus import read_daemon_file
from tests import daemon_process
from tests.daemon_process import HGR, Daemon, feeding, wait_until, without_torch
from tests.hands import frame, hand_joints, swipe_frames
from tests.models import save_palm_model

CONFIG = """
[devices.idle]
driver = "synthetic"
hand_present = false
[model]
use = "{model}"
[supervisor]
heartbeat_timeout_s = 2.0
backoff_s = 0.1
[gateway]
queue = 50
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_palm_model(tmp_path_factory.mktemp("model") / "palm.pt")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path_factory.mktemp("d"), CONFIG.format(model=model))
    yield running
    running.stop()


@pytest.fixture
def fresh(tmp_path: Path, model: Path) -> Iterator[Daemon]:
    """A daemon that the test may ill-treat."""
    running = Daemon(tmp_path, CONFIG.format(model=model))
    yield running
    running.stop()


def named(frames: list[Frame], device: str) -> list[Frame]:
    boot_id = uuid.uuid4().hex
    for f in frames:
        f.device, f.boot_id = device, boot_id
    return frames


def essence(events: list[Event]) -> list[tuple]:
    return [(e.kind, e.label, e.onset_ns, e.offset_ns, e.decided_ns, e.hand) for e in events]


class Collector:
    """A subscriber in a thread."""

    def __init__(self, daemon: Daemon, device: str) -> None:
        self.events: list[Event] = []
        self._subscription = hgr_stream.subscribe(
            daemon.endpoint, kinds="all", device=device, timeout_s=None
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        time.sleep(0.3)  # its subscription travels to the gateway

    def _run(self) -> None:
        for event in self._subscription:
            self.events.append(event)

    @property
    def lost(self) -> int:
        return self._subscription.lost

    def kinds(self, kind: str) -> list[Event]:
        return [e for e in self.events if e.kind == kind]


def works(daemon: Daemon, device: str, n: int = 1) -> list[Event]:
    """Feed swipes under a device name and wait for their recognition."""
    collector = Collector(daemon, device)
    with feeding(daemon) as feeder:
        feeder.send(named(swipe_frames(n), device), end=True)
    wait_until(lambda: len(collector.kinds("confirmed")) >= n, 15, f"recognition on {device}")
    return collector.events


# -- what it is for ---------------------------------------------------------------------------


def test_the_daemon_gives_the_events_of_the_pipeline_in_lock_step(
    daemon: Daemon, model: Path
) -> None:
    frames = swipe_frames(4, rate_hz=120.0)
    pipeline = Pipeline(load(model))
    expected = [e for f in frames for e in pipeline.push(f)] + pipeline.finish()
    assert [e.kind for e in expected].count("confirmed") == 4
    collector = Collector(daemon, "same")
    with feeding(daemon) as feeder:
        feeder.send(named(frames, "same"), end=True)
    wait_until(lambda: len(collector.events) >= len(expected), 15, "all events")
    assert essence(collector.events) == essence(expected)
    assert {e.device for e in collector.events} == {"same"}
    assert [e.model for e in collector.events] == ["palm"] * len(expected)
    ids = [e.id for e in collector.events]
    assert len(set(ids)) == 4


def test_one_recording_gives_the_same_events_processed_and_replayed_at_any_speed(
    daemon: Daemon, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "swipe.mcap"
    frames = swipe_frames(1, rate_hz=120.0)
    with Writer(path) as writer:
        for f in frames:
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    done = daemon.hgr("process", str(path), "--model", str(model), "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    first_ns = frames[0].time_ns
    processed = [(x["kind"], x["label"], x["start"], x["end"], x["report"]) for x in lines]
    assert [x[0] for x in processed] == ["early", "confirmed"]
    for speed in ("max", "1"):
        device = f"speed-{speed}"
        collector = Collector(daemon, device)
        replayed = daemon.hgr(
            "replay", str(path), "--speed", speed, "--device", device, "--name", "test"
        )
        assert replayed.returncode == 0, replayed.stderr
        wait_until(lambda c=collector: c.kinds("confirmed"), 5, f"events at speed {speed}")
        end_ns = collector.kinds("confirmed")[0].offset_ns
        got = [
            (
                e.kind,
                e.label,
                round((e.onset_ns - first_ns) / 1e9, 6),
                round((end_ns - first_ns) / 1e9, 6),
                round((e.report_ns - first_ns) / 1e9, 6),
            )
            for e in collector.events
            if e.kind in ("early", "confirmed")
        ]
        assert got == processed


def test_listen_gives_a_line_an_event_and_ends_as_asked(daemon: Daemon) -> None:
    with subprocess.Popen(
        [*HGR, "listen", "--json", "--count", "2", "--timeout", "20"],
        env=daemon.env, stdout=subprocess.PIPE, text=True,
    ) as listener:  # fmt: skip
        while listener.poll() is None:  # it is there when it is there
            works(daemon, "listened", 2)
        out = listener.communicate()[0]
    lines = [json.loads(line) for line in out.splitlines()]
    assert listener.returncode == 0
    assert [(e["kind"], e["label"]) for e in lines] == [("confirmed", "RIGHT")] * 2
    assert set(lines[0]) == set(Event.__struct_fields__)  # also those that have their defaults
    nothing = daemon.hgr("listen", "--timeout", "0.3", "--label", "NEVER")
    assert nothing.returncode == 1
    assert "no event" in nothing.stderr


def test_subscribing_needs_no_torch() -> None:
    code = (
        "import sys, hgr_stream\n"
        "import hgr_stream.recording, hgr_stream.playback, hgr_drivers.runner, hgr_stream.cli\n"
        "hgr_stream.subscribe('tcp://127.0.0.1:1')\n"
        "assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules), 'heavy'\n"
        "print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "light", done.stderr


def test_the_asyncio_subscription(daemon: Daemon) -> None:
    async def first() -> Event:
        async for event in hgr_stream.subscribe_async(daemon.endpoint, device="aio", timeout_s=15):
            return event
        raise AssertionError("no event came")

    async def both() -> Event:
        task = asyncio.create_task(first())
        await asyncio.sleep(0.5)
        await asyncio.to_thread(works, daemon, "aio")
        return await task

    event = asyncio.run(both())
    assert (event.kind, event.label) == ("confirmed", "RIGHT")


def test_a_late_subscriber_gets_the_present_state(daemon: Daemon) -> None:
    frames = named(swipe_frames(1), "late")
    middle = next(i for i, f in enumerate(frames) if f.time_ns > 1.35e9)
    with feeding(daemon) as feeder:
        feeder.send(frames[:middle])
        wait_until(lambda: snapshot(daemon.endpoint, "gesture/late/"), 5, "a begin")
        with hgr_stream.subscribe(daemon.endpoint, kinds="all", device="late", timeout_s=5) as late:
            event = next(late)
            assert (event.kind, event.label) in {("begin", "RIGHT"), ("early", "RIGHT")}
            feeder.send(frames[middle:], end=True)
            assert "confirmed" in {e.kind for e in _until_final(late, event.id)}
    stages = daemon.status()
    assert {"gateway", "segmenter", "worker", "supervisor", "driver.idle"} <= set(stages)


def _until_final(events: Iterator[Event], event_id: str) -> Iterator[Event]:
    for event in events:
        if event.id == event_id:
            yield event
            if event.kind in ("confirmed", "cancelled"):
                return


def test_echo_hz_and_status(daemon: Daemon) -> None:
    echo = daemon.hgr("echo", "frame/idle", "--count", "3", "--timeout", "10")
    frames = [json.loads(line) for line in echo.stdout.splitlines()]
    assert [f["topic"] for f in frames] == ["frame/idle"] * 3
    assert frames[2]["seq"] == frames[0]["seq"] + 2
    hz = json.loads(daemon.hgr("hz", "frame/", "--seconds", "2", "--json").stdout)
    assert 8 < hz["frame/idle"]["rate_hz"] < 11  # an empty scene is told of ten times a second
    assert hz["frame/idle"]["lost"] == 0
    status = daemon.hgr("status", "--json")
    assert status.returncode == 0, status.stdout
    driver = json.loads(status.stdout)["driver.idle"]
    assert set(driver) == set(Status.__struct_fields__)  # also those that have their defaults
    assert driver["counts"]["frames"] > 0
    assert 50 < driver["gauges"]["rate_hz"] < 70  # the device's own
    assert daemon.hgr("echo", "no/such", "--timeout", "0.3").returncode == 1


def test_hz_shows_names_whole_in_a_narrow_pipe(daemon: Daemon) -> None:
    device = "a-device-whose-name-is-much-longer-than-there-is-room-for"
    hz = subprocess.Popen(
        [*HGR, "hz", "frame/", "--seconds", "3"],
        env={**daemon.env, "COLUMNS": "80"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while hz.poll() is None:
        with feeding(daemon) as feeder:
            feeder.send(named(swipe_frames(1), device), end=True)
        time.sleep(0.2)
    assert hz.stdout is not None
    shown = hz.stdout.read()
    hz.stdout.close()
    assert shown.endswith("\n")
    assert max(map(len, shown.splitlines())) <= 80
    column = [line.split("│")[1].strip() for line in shown.splitlines() if line.count("│") > 2]
    assert f"frame/{device}" in "".join(column)
    assert "…" not in shown


# -- bad company ------------------------------------------------------------------------------


def test_a_stalled_subscriber_slows_nobody_and_knows_what_it_lost(daemon: Daemon) -> None:
    """Its queue (50 at the gateway) and the kernel's buffers fill; then it alone loses."""
    stalled = Stream(["frame/stall"], daemon.endpoint, queue=1, timeout_s=2.0)
    time.sleep(0.3)
    collector = Collector(daemon, "stall")
    with feeding(daemon) as feeder:
        feeder.send(named(crowded_frames(400), "stall"), end=True)
        feeder.send(named(swipe_frames(1), "stall"), end=True)
        wait_until(lambda: collector.kinds("confirmed"), 20, "recognition beside the stalled one")
        sent = 400 + len(swipe_frames(1)) + 2
        got = sum(r is not None for r in stalled)
        assert 0 < got < sent
        # The next message tells it exactly how many it missed.
        feeder.send(named(swipe_frames(1), "stall")[:1])
        stalled._heard_s = time.monotonic()
        got += sum(r is not None for r in stalled)
    assert stalled.lost == sent + 1 - got
    stalled.close()


def crowded_frames(n: int) -> list[Frame]:
    """Big frames: 200 hands each, 60 kB."""
    hands = [Hand(i, "right", joint_bytes(hand_joints(x=0.01 * i))) for i in range(200)]
    return [frame(i, i * 1_000_000, hands) for i in range(n)]


GARBAGE = [
    [b""],
    [b"\xc1"],
    [b"garbage" * 100],
    [encode(swipe_frames(1)[0])[:-7]],
    [encode(swipe_frames(1)[0]).replace(b"\xa1v\x01", b"\xa1v\x09")],
    [b"\x00" * 3_000_000],
    [b"several", b"parts", b"\xff" * 10],
    [b"\x81\xa1v\x02"],
]


@pytest.mark.parametrize(
    ("socket_name", "kind", "stage"),
    [
        ("frames", zmq.PUSH, "segmenter"),
        ("windows", zmq.PUSH, "worker"),
        ("tap", zmq.XPUB, "gateway"),
        ("status", zmq.PUSH, None),
        ("control", zmq.DEALER, None),
        ("model", zmq.DEALER, None),
    ],
)
def test_garbage_on_any_socket_is_counted_and_disturbs_nothing(
    daemon: Daemon, socket_name: str, kind: int, stage: str | None
) -> None:
    before = daemon.count(stage, "malformed") if stage else 0
    restarts = daemon.count("supervisor", "restarts")
    with feeding(daemon) as feeder:
        for parts in GARBAGE:
            if kind == zmq.XPUB:
                feeder.raw(socket_name, [b"gesture/x", *parts], kind)
            else:
                feeder.raw(socket_name, parts, kind)
    if stage:
        wait_until(
            lambda: daemon.count(stage, "malformed") >= before + len(GARBAGE) - 1,
            10,
            f"{stage} counting {len(GARBAGE)} bad messages",
        )
        assert "refused a message: " in daemon.text()
    works(daemon, f"after-{socket_name}")
    assert daemon.count("supervisor", "restarts") == restarts


def test_garbage_at_the_public_door(daemon: Daemon) -> None:
    context = zmq.Context()
    for port, kind in ((daemon.port, zmq.XSUB), (daemon.port + 1, zmq.DEALER)):
        for parts in ([b"\x07nonsense"], [b"\x01" + b"x" * 60_000], [b"\xc1" * 100_000], [b""]):
            with context.socket(kind) as out:
                out.setsockopt(zmq.LINGER, 500)
                out.connect(f"tcp://127.0.0.1:{port}")
                out.send_multipart(parts)
                time.sleep(0.02)
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    context.destroy(linger=500)
    works(daemon, "after-public")
    wait_until(lambda: daemon.count("gateway", "malformed_public") > 0, 5, "counting")


def test_impossible_hands_reach_nobody_and_are_told(daemon: Daemon) -> None:
    frames = swipe_frames(1)
    for i in range(0, len(frames), 10):
        joints = np.full((22, 3), [np.nan, np.inf, 1e30][i // 10 % 3], np.float32)
        frames[i].hands.append(Hand(99, "left", joint_bytes(joints)))
    collector = Collector(daemon, "spoilt")
    with feeding(daemon) as feeder:
        feeder.send(named(frames, "spoilt"), end=True)
    wait_until(lambda: collector.kinds("confirmed"), 15, "recognition beside spoilt hands")
    wait_until(lambda: daemon.count("segmenter", "hands_not_finite") > 0, 5, "counting")
    assert "that are not numbers" in daemon.text()


def test_a_window_of_another_size_is_refused_beside_good_ones(daemon: Daemon) -> None:
    window = Window(
        "odd", "right", "right", "t.1", 0, 0, 40_000_000, 3, joint_bytes(np.zeros((3, 22, 3), "f4"))
    )
    before = daemon.count("worker", "malformed")
    with feeding(daemon) as feeder:
        feeder.raw("windows", [encode(window)])
    wait_until(lambda: daemon.count("worker", "malformed") == before + 1, 5, "the refusal")
    works(daemon, "after-odd")


# -- swapping the model -----------------------------------------------------------------------


def test_who_listens_for_a_gesture_that_is_not_told_is_told(daemon: Daemon) -> None:
    def heard(*labels: str) -> str:
        asked = [word for label in labels for word in ("--label", label)]
        listen = [*HGR, "listen", "--connect", daemon.endpoint, "--timeout", "0.1", *asked]
        done = subprocess.run(listen, capture_output=True, text=True, timeout=30, check=False)
        return done.stderr

    told = "not told: right, UP; the daemon tells LEFT, RIGHT"
    assert told in heard("LEFT", "right", "UP")
    assert "not told" not in heard("LEFT")


def test_the_model_is_swapped_or_refused(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    other = save_palm_model(tmp_path / "other.pt", name="other")
    done = daemon.hgr("model", "use", str(other), "--name", "test")
    assert (done.returncode, "other" in done.stdout) == (0, True), done.stderr
    assert {e.model for e in works(daemon, "swapped")} == {"other"}

    text = tmp_path / "text.pt"
    text.write_text("no model")
    slow = save_palm_model(tmp_path / "slow.pt", rate_hz=10.0, name="slow")
    for path, reason in (
        (text, "not a TorchScript file"),
        (tmp_path / "missing.pt", "no such model file"),
        (slow, "the stream is cut for 25.0: start the daemon with it, by hgr run --model"),
    ):
        refused = daemon.hgr("model", "use", str(path), "--name", "test")
        assert refused.returncode == 1
        assert reason in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert {e.model for e in works(daemon, "kept")} == {"other"}
    assert Path(read_daemon_file(daemon.run_dir).model).name == "other.pt"
    assert daemon.hgr("model", "use", str(model), "--name", "test").returncode == 0


def says(daemon: Daemon, stage: str, text: str) -> None:
    """Wait until the stage is up and its status begins with the text."""
    wait_until(
        lambda: (
            (s := daemon.status().get(stage)) is not None
            and s.state == "up"
            and s.message.startswith(text)
        ),
        20,
        f"{stage} saying {text!r}",
    )


def test_a_model_that_loads_longer_than_anyone_waits_is_kept(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits here; the worker loads it all the same, and comes back with it."""
    code = (
        "import hgr_stream.daemon.supervisor as supervisor, hgr_stream.cli as cli\n"
        "supervisor.MODEL_TIMEOUT_S = 0.0\n"
        "cli.main()"
    )
    with monkeypatch.context() as impatient:
        impatient.setattr(daemon_process, "HGR", [sys.executable, "-c", code])
        running = Daemon(tmp_path, CONFIG.format(model=model))
    try:
        other = save_palm_model(tmp_path / "other.pt", name="other")
        told = running.hgr("model", "use", str(other), "--name", "test")
        assert (told.returncode, "still loads" in told.stderr) == (1, True), told.stderr
        says(running, "supervisor", "model other")
        os.kill(running.pid("worker"), signal.SIGKILL)
        wait_until(lambda: running.count("worker", "restarts") == 1, 20, "a new worker")
        says(running, "worker", "model other: ")
        assert {e.model for e in works(running, "kept")} == {"other"}
        # The next is loaded as any.
        running.hgr("model", "use", str(model), "--name", "test")
        says(running, "supervisor", "model palm")
    finally:
        running.stop()


def test_who_asked_for_a_model_is_told_that_the_worker_fell(fresh: Daemon, tmp_path: Path) -> None:
    other = save_palm_model(tmp_path / "other.pt", name="other")
    os.kill(fresh.pid("worker"), signal.SIGSTOP)
    # Not by the command, which may take as long to start as the worker may be silent.
    with pytest.raises(click.ClickException, match="the worker ended while it loaded"):
        control(fresh.run_dir, {"op": "model", "model": str(other)}, 30.0)
    assert {e.model for e in works(fresh, "again")} == {"palm"}
    assert fresh.hgr("model", "use", str(other), "--name", "test").returncode == 0


def test_who_asks_a_worker_that_was_given_up_is_told_at_once(tmp_path: Path, model: Path) -> None:
    config = CONFIG.format(model=model).replace("backoff_s", "max_restarts = 0\nbackoff_s")
    running = Daemon(tmp_path, config)
    try:
        os.kill(running.pid("worker"), signal.SIGKILL)
        wait_until(lambda: "gave it up" in running.text(), 10, "the giving up")
        told = running.hgr("model", "use", str(model), "--name", "test", timeout_s=10)
        assert (told.returncode, "was given up" in told.stderr) == (1, True)
    finally:
        running.stop()


def test_a_worker_that_was_given_up_comes_back_when_it_can(tmp_path: Path, model: Path) -> None:
    config = CONFIG.format(model=model)
    config = config.replace("backoff_s", "max_restarts = 0\nretry_s = 1\nbackoff_s")
    running = Daemon(tmp_path, config)
    try:
        fallen = running.pid("worker")
        os.kill(fallen, signal.SIGKILL)
        wait_until(lambda: "gave it up" in running.text(), 10, "the giving up")
        assert "killed by signal 9; tried once more every 1 s" in running.text()
        wait_until(lambda: running.status()["worker"].state == "up", 20, "the new worker")
        assert running.pid("worker") != fallen
        assert running.status()["worker"].counts["restarts"] == 1
        works(running, "again")
    finally:
        running.stop()


# -- starting and ending ----------------------------------------------------------------------


def test_ctrl_c_ends_every_process_cleanly_within_two_seconds(fresh: Daemon) -> None:
    processes = fresh.processes()
    assert len(processes) == 5  # supervisor, gateway, worker, segmenter, driver
    assert fresh.stop(signal.SIGINT) < 2.0
    assert fresh.process is not None
    assert fresh.process.returncode == 0
    assert not [p for p in processes if p.is_running()]
    text = fresh.text()
    assert text.rstrip().endswith("supervisor: stopped")
    assert "Traceback" not in text
    assert not (fresh.run_dir / "daemon.json").exists()


def test_hgr_stop(fresh: Daemon) -> None:
    assert fresh.hgr("stop", "--name", "test").returncode == 0
    assert fresh.process is not None
    assert fresh.process.wait(5) == 0
    again = fresh.hgr("stop", "--name", "test")
    assert (again.returncode, "no daemon runs" in again.stderr) == (1, True)


def test_a_daemon_with_a_directory_of_its_own_is_found_by_its_config(
    tmp_path: Path, model: Path
) -> None:
    own = tmp_path / "own"
    running = Daemon(tmp_path, f'run_dir = "{own}"\n' + CONFIG.format(model=model))
    file = tmp_path / "swipe.mcap"
    with Writer(file) as writer:
        for f in swipe_frames(1):
            writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
    by_config = ("--config", str(running.config))
    del running.env["HGR_ENDPOINT"]
    try:
        for command in (["stop"], ["model", "use", str(model)], ["replay", str(file)]):
            lost = running.hgr(*command, "--name", "test")
            assert (lost.returncode, "no daemon runs in" in lost.stderr) == (1, True)
            assert "--config FILE" in lost.stderr
        replayed = running.hgr("replay", str(file), "--speed", "max", *by_config)
        assert replayed.returncode == 0, replayed.stderr
        assert running.hgr("model", "use", str(model), *by_config).returncode == 0

        def counted() -> int:
            stages = json.loads(running.hgr("status", "--json", *by_config).stdout)
            return int(stages["segmenter"]["counts"]["frames"])

        wait_until(lambda: counted() > len(swipe_frames(1)), 10, "the replayed frames")
        stopped = running.hgr("stop", *by_config)
        assert (stopped.returncode, stopped.stdout) == (0, "stopped\n"), stopped.stderr
        assert not (own / "daemon.json").exists()
    finally:
        running.stop()


@pytest.mark.parametrize("stage", ["worker", "segmenter", "gateway", "driver.idle"])
def test_a_killed_stage_comes_back(daemon: Daemon, stage: str) -> None:
    works(daemon, f"before-{stage}")
    before = daemon.count(stage, "restarts")
    pid = daemon.pid(stage)
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (s := daemon.status().get(stage)) is not None and s.state == "up" and s.pid != pid,
        30,
        f"{stage}'s return",
    )
    assert daemon.count(stage, "restarts") == before + 1
    assert f"{stage}: killed by signal 9; starting it again" in daemon.text()
    works(daemon, f"after-{stage}")


@pytest.mark.parametrize("stage", ["worker", "segmenter", "gateway"])
def test_a_gesture_that_was_open_when_a_stage_died_is_told_as_over(
    daemon: Daemon, stage: str
) -> None:
    device = f"orphan-{stage}"
    collector = Collector(daemon, device)
    frames = [f for f in swipe_frames(1) if f.time_ns < 1.35e9]
    for f in frames:
        f.lossless = stage == "gateway"  # a replay that pauses: the worker does not end it
    with feeding(daemon) as feeder:
        feeder.send(named(frames, device))
        wait_until(lambda: collector.events, 20, "a begin")
        os.kill(daemon.pid(stage), signal.SIGKILL)
        wait_until(
            lambda: collector.events[-1].kind in ("cancelled", "confirmed"), 20, "its ending"
        )
    assert len({e.id for e in collector.events}) == 1
    final = collector.events[-1]
    if stage != "segmenter":
        assert (final.kind, final.reason) == ("cancelled", f"the {stage} was started again")
    if stage == "gateway":
        assert collector.lost >= 1


def test_a_hanging_stage_is_killed_and_replaced(fresh: Daemon) -> None:
    pid = fresh.pid("segmenter")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "segmenter: silent for 2 s; killing it" in fresh.text(), 10, "the judgement")
    wait_until(
        lambda: (s := fresh.status().get("segmenter")) is not None and s.pid not in (0, pid),
        20,
        "a new segmenter",
    )
    works(fresh, "after-hang")


def test_orphans_do_not_live_on(fresh: Daemon) -> None:
    children = fresh.processes()[1:]
    assert fresh.process is not None
    os.kill(fresh.process.pid, signal.SIGKILL)
    psutil.wait_procs(children, timeout=5)
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    fresh.start()  # what was left behind is in nobody's way
    works(fresh, "reborn")


def test_why_a_stage_was_given_up_is_told_to_those_who_come_later_too(
    tmp_path: Path, model: Path
) -> None:
    config = CONFIG.format(model=model).replace("hand_present = false", 'gestures = ["WAVE"]')
    daemon = Daemon(tmp_path, config, start=False)

    def told() -> bool:
        row = daemon.status().get("driver.idle")
        return row is not None and row.state == "gave-up" and "unknown gesture" in row.message

    with daemon.log.open("wb") as log:
        daemon.process = subprocess.Popen(
            [*HGR, "run", str(daemon.config)], stdout=log, stderr=log, env=daemon.env
        )
    try:
        wait_until(told, 40, "the reason in the status")
        gateway = daemon.pid("gateway")
        os.kill(gateway, signal.SIGKILL)
        wait_until(lambda: daemon.pid("gateway") != gateway, 20, "the new gateway")
        wait_until(told, 10, "the reason in the new gateway's status")
        assert daemon.text().count("gave it up") == 1
    finally:
        daemon.stop()


def test_a_second_daemon_is_told_who_is_in_the_way(daemon: Daemon, tmp_path: Path) -> None:
    same_name = daemon.hgr("run", str(daemon.config))
    assert same_name.returncode == 1
    assert "runs already" in same_name.stderr
    text = daemon.config.read_text().replace('name = "test"', 'name = "other"')
    other = tmp_path / "other.toml"
    other.write_text(text)
    same_port = daemon.hgr("run", str(other))
    assert same_port.returncode == 1
    assert "is in use" in same_port.stderr
    assert len(same_port.stderr.strip().splitlines()) == 1
    works(daemon, "undisturbed")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("palm.pt", "none.pt"), "no such model file"),
        (('driver = "synthetic"', 'driver = "sythetic"'), "there is no driver 'sythetic'"),
        (("hand_present", "hand_presnt"), "unknown key `hand_presnt`"),
        (("queue = 50", "queue = 'x'"), "queue"),
        (("queue = 50", "queue = 50\n[recognition]\nignore = ['JUMP']"), "'JUMP', which model"),
    ],
)
def test_a_wrong_start_is_one_clear_line(
    tmp_path: Path, model: Path, change: tuple[str, str], fault: str
) -> None:
    daemon = Daemon(tmp_path, CONFIG.format(model=model), start=False)
    daemon.config.write_text(daemon.config.read_text().replace(*change))
    done = daemon.hgr("run", str(daemon.config))
    assert done.returncode in (1, 2)
    assert fault in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_daemon_is_told_with_its_cure(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, "", start=False)
    done = daemon.hgr("status")
    assert done.returncode == 1
    assert "hgr run" in done.stderr


def test_the_run_directory_is_private(daemon: Daemon) -> None:
    assert daemon.run_dir.stat().st_mode & 0o077 == 0


# -- a daemon that lacks something ------------------------------------------------------------


def test_a_recording_path_that_cannot_be_written_is_told_once_with_its_cure(
    tmp_path: Path, model: Path
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x.mcap"
    daemon = Daemon(tmp_path, CONFIG.format(model=model) + f'[record]\npath = "{path}"\n')
    try:
        wait_until(lambda: "recorder: exit code 78; gave it up" in daemon.text(), 10, "the end")
        works(daemon, "unrecorded")  # the rest runs
        assert daemon.text().count("cannot be written: Not a directory; set it to a file in") == 1
        assert "starting it again" not in daemon.text()
        assert daemon.status()["supervisor"].state == "degraded"
    finally:
        daemon.stop()


def test_a_daemon_that_cannot_recognise_is_not_told_as_up(tmp_path: Path, model: Path) -> None:
    daemon = Daemon(tmp_path, CONFIG.format(model=model), start=False)
    daemon.env = without_torch(tmp_path) | {"HGR_RUN_DIR": daemon.env["HGR_RUN_DIR"]}
    try:
        daemon.start('palm.pt needs torch to run: pip install "hgr-stream[inference]"; gave it up')
        wait_until(
            lambda: (s := daemon.status().get("supervisor")) and s.state == "degraded",
            10,
            "its state",
        )
        assert "driver.idle" not in daemon.told  # it would feed nobody
        assert "up: " not in daemon.text()
    finally:
        daemon.stop()


def test_a_recording_is_tried_where_it_may_be_written_later(tmp_path: Path) -> None:
    check_path(tmp_path / "new" / "folder" / "x.mcap")
    assert not (tmp_path / "new").exists()
    proc = [Path("/proc/x.mcap")] if sys.platform == "linux" else []
    for wrong in (Path("/"), tmp_path, tmp_path / "nul\0.mcap", tmp_path / ("long" * 99), *proc):
        with pytest.raises(ConfigError, match=r"\[record\] path .* set it to a file"):
            check_path(wrong)


def test_a_full_disk_is_no_fault_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    check_path(tmp_path / "x.mcap")


def test_a_daemon_whose_only_device_gave_up_says_so_and_serves_a_replay(
    tmp_path: Path, model: Path
) -> None:
    text = CONFIG.format(model=model).replace("hand_present = false", 'gestures = ["LEFFT"]')
    daemon = Daemon(tmp_path, text)
    fault = "no device feeds frames: idle: unknown gesture 'LEFFT' in `gestures`; choose from "
    try:
        wait_until(lambda: fault in daemon.status()["supervisor"].message, 10, "the status")
        assert daemon.status()["supervisor"].message.count("unknown gesture") == 1
        assert daemon.status()["supervisor"].state == "degraded"
        assert daemon.status()["driver.idle"].message.startswith("unknown gesture 'LEFFT'")
        shown = daemon.hgr("status")
        assert shown.returncode == 1
        assert "no device feeds frames" in " ".join(shown.stdout.split())
        time.sleep(1.5)
        assert daemon.text().count(fault) == 1  # once, not at each beat

        path = tmp_path / "swipe.mcap"
        with Writer(path) as writer:
            for f in swipe_frames(1):
                writer.write(topics.of(f), encode(f), f.time_ns, f.time_ns, f.seq)
        collector = Collector(daemon, "replayed")
        replay = subprocess.Popen(
            [*HGR, "replay", str(path), "--device", "replayed", "--name", "test"], env=daemon.env
        )
        wait_until(
            lambda: "no device" not in daemon.status()["supervisor"].message, 10, "the relief"
        )
        assert replay.wait(20) == 0
        wait_until(lambda: collector.kinds("confirmed"), 10, "recognition")
        wait_until(lambda: fault in daemon.status()["supervisor"].message, 10, "the status again")
    finally:
        daemon.stop()
