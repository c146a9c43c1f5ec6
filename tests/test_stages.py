"""The daemon's stages as objects in this process: what they do when nothing comes, or goes out."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import zmq

from hgr_stream.client import Received
from hgr_stream.config import Segmentation
from hgr_stream.daemon import recorder as recorder_module
from hgr_stream.daemon import worker as worker_module
from hgr_stream.daemon.recorder import RecorderShell
from hgr_stream.daemon.segmenter import SegmenterShell
from hgr_stream.daemon.worker import WorkerShell
from hgr_stream.messages import Status, Window, decode, encode
from hgr_stream.recording import Reader
from hgr_stream.segmentation import Segmenter, WindowSpec
from hgr_stream.stream.bus import (
    BusError,
    DaemonInfo,
    Inlet,
    Outlet,
    bind,
    private_sockets,
    write_daemon_file,
)
from tests.hands import MS, frame, hand_joints
from tests.models import save_palm_model


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """That of a daemon of which no other process runs."""
    sockets = private_sockets(tmp_path)
    write_daemon_file(tmp_path, DaemonInfo(1, "test", "0", "tcp://127.0.0.1:1", sockets, [], ""))
    return tmp_path


@contextlib.contextmanager
def worker_with(run_dir: Path, hop: int, max_gap_s: float) -> Iterator[WorkerShell]:
    model = save_palm_model(run_dir / "palm.pt", hop=hop)
    worker = WorkerShell(run_dir, str(model), 1, None, Segmentation(max_gap_s=max_gap_s))
    try:
        yield worker
    finally:
        worker.close()


@contextlib.contextmanager
def watched_segmenter(run_dir: Path) -> Iterator[tuple[SegmenterShell, Inlet]]:
    """And what its supervisor hears of it."""
    segmenter = SegmenterShell(run_dir, WindowSpec(25.0, 1, 1), Segmentation())
    try:
        yield segmenter, Inlet(segmenter.context, segmenter.info.sockets["status"], "status")
    finally:
        segmenter.close()


def give(worker: WorkerShell, windows: list[Window]) -> None:
    """Over its socket, and until they are through."""
    with worker.context.socket(zmq.PUSH) as out:
        out.connect(worker.info.sockets["windows"])
        for window in windows:
            out.send(encode(window))
        while worker.counts["windows"] < len(windows):
            worker.turn(1.0)


@pytest.mark.parametrize(
    ("hop", "max_gap_s", "held_s"), [(1, 0.6, 2.5), (1, 5.0, 7.0), (100, 0.6, 6.5)]
)
def test_a_live_hand_is_held_as_long_as_the_segmenter_may_bridge(
    run_dir: Path, hop: int, max_gap_s: float, held_s: float
) -> None:
    """held_s: gap and hop, and the time in which the segmenter tells that the hand is lost."""
    segmenter = Segmenter(WindowSpec(25.0, hop, hop), Segmentation(max_gap_s=max_gap_s))
    windows = [
        w
        for i in range(200)
        for w in segmenter.push(frame(i, i * 40 * MS, hand_joints(), lossless=False))
    ]
    with worker_with(run_dir, hop, max_gap_s) as worker:
        give(worker, windows)
        now_s = time.monotonic()
        worker.forget_silent(now_s + held_s)
        assert (worker.engine.recogniser.hands, worker.counts["hands_silent"]) == (1, 0)
        worker.forget_silent(now_s + held_s + 2.0)
        assert (worker.engine.recogniser.hands, worker.counts["hands_silent"]) == (0, 1)


def test_the_segmenters_beat_keeps_what_its_shell_counts(run_dir: Path) -> None:
    segmenter = SegmenterShell(run_dir, WindowSpec(25.0, 1, 1), Segmentation())
    try:
        segmenter.refuse(ValueError("no frame"))
        segmenter.segmenter.push(frame(0, 0, hand_joints()))
        for _ in range(60):  # nobody takes them: those for which there is no room are dropped
            segmenter.send_status()
        dropped = segmenter.counts["status_dropped"]
        assert dropped > 20
        segmenter.beat()
        assert segmenter.counts["status_dropped"] == dropped
        assert (segmenter.counts["malformed"], segmenter.counts["frames"]) == (1, 1)
    finally:
        segmenter.close()


def test_a_worker_that_stood_still_does_not_take_its_hands_for_silent(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(WindowSpec(25.0, 1, 1))
    with worker_with(run_dir, 1, 0.6) as worker:
        for i in range(8):  # from which on a hand is believed
            give(worker, segmenter.push(frame(i, i * 40 * MS, hand_joints(), lossless=False)))
        began_s = time.monotonic()
        held = []
        for after_s in (0, 1, 6, 7, 8, 9):  # for four seconds it did not listen
            clock = SimpleNamespace(monotonic=lambda now_s=began_s + after_s: now_s)
            monkeypatch.setattr(worker_module, "time", clock)
            worker.turn(0.0)
            held.append(worker.engine.recogniser.hands)
            monkeypatch.undo()
        assert held == [1, 1, 1, 1, 0, 0]


def test_a_segmenter_that_waits_for_the_worker_is_not_silent(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgr_stream.stream.bus.QUEUE", 1)
    with watched_segmenter(run_dir) as (segmenter, supervisor):
        threading.Timer(0.2, segmenter.stop).start()
        for i in range(9):  # nobody takes the windows, which come from the eighth on
            segmenter._frame(encode(frame(i, i * 40 * MS, hand_joints())))
        assert supervisor.socket.poll(2000)
        assert decode(Status, supervisor.drain()[0]).counts["sent"] == 1


def test_a_busy_segmenter_beats_and_loses_no_hand_whose_frames_still_wait(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgr_stream.daemon.shell.HEARTBEAT_S", 0.0)
    sent_ns = time.monotonic_ns()
    with (
        watched_segmenter(run_dir) as (segmenter, supervisor),
        segmenter.context.socket(zmq.PUSH) as out,
    ):
        out.connect(segmenter.info.sockets["frames"])
        for i, device in enumerate(("still", *["other"] * 8, "still")):
            stamps = {"sent_ns": sent_ns, "lossless": False}
            out.send(encode(frame(i, i * 40 * MS, hand_joints(), device=device, **stamps)))
        segmenter._silence_ns = 0  # whoever is not heard before the next beat is lost
        while segmenter.segmenter.counts["frames"] < 10:
            segmenter.turn(1.0)
            assert not segmenter.segmenter.counts["tracks_ended_lost"]
        for _ in range(5):  # of the beats between the frames
            assert supervisor.socket.poll(2000)
            supervisor.socket.recv()
        segmenter.beat()  # nothing waits any more
        assert segmenter.segmenter.counts["tracks_ended_lost"] == 2


def test_a_recorder_begins_new_files_and_waits_while_the_disk_is_full(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FILE_S", "ROOM_S"):
        monkeypatch.setattr(recorder_module, name, 0.0)
    recorder = RecorderShell(run_dir, run_dir / "new" / "r.mcap")
    received = Received("status/x", b"\x80", 0)
    free = shutil.disk_usage(run_dir).free
    for room, state, files in (
        (free, "up", 1),
        (free, "up", 2),
        (0, "degraded", 2),
        (free, "up", 3),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: SimpleNamespace(free=room))
        recorder.turn(0.0)
        recorder._record(received)
        assert (recorder.state, len(list((run_dir / "new").iterdir()))) == (state, files)
    recorder.finish()
    recorder.close()
    assert (recorder.counts["messages"], recorder.counts["not_recorded"]) == (3, 1)
    found = [list(Reader(path).messages()) for path in (run_dir / "new").iterdir()]
    assert [len(messages) for messages in found] == [1, 1, 1]


def test_a_recorder_whose_file_is_moved_away_begins_another(run_dir: Path) -> None:
    recorder = RecorderShell(run_dir, run_dir / "new" / "r.mcap")
    for moved in ("first", "second"):
        recorder.turn(0.0)
        recorder._record(Received("status/x", b"\x80", 0))
        (path,) = (run_dir / "new").iterdir()
        path.rename(run_dir / moved)
        recorder.beat()
    recorder.turn(0.0)
    recorder.finish()
    recorder.close()
    assert [len(list(Reader(run_dir / name).messages())) for name in ("first", "second")] == [1, 1]
    assert Reader(run_dir / "first").indexed
    assert len(list((run_dir / "new").iterdir())) == 1


@pytest.mark.timeout(20)
def test_a_recorder_ends_though_messages_come_without_a_pause(run_dir: Path) -> None:
    recorder = RecorderShell(run_dir, run_dir / "r.mcap")
    recorder.turn(0.0)
    recorder.stream.close()
    recorder.stream = Endless()  # type: ignore[assignment]
    recorder.finish()
    recorder.close()
    (path,) = run_dir.glob("r-*.mcap")
    assert Reader(path).indexed
    assert recorder.counts["messages"] > 0


class Endless:
    """A stream that a replay goes on to feed."""

    def __iter__(self) -> Iterator[Received]:
        return itertools.repeat(Received("status/x", b"\x80", 0))

    def close(self) -> None:
        """As a stream's."""


def test_what_a_tap_was_asked_for_does_not_pile_up(run_dir: Path) -> None:
    sockets = private_sockets(run_dir)
    with zmq.Context() as context, context.socket(zmq.XSUB) as gateway:
        gateway.bind(sockets["tap"])
        outlet = Outlet(context, sockets, None)
        for n in range(500):
            gateway.send(b"\x01frame/%d" % n)
        while not outlet.wait_for_tap(0.01):
            gateway.poll(0)  # it only now learns that somebody has connected
        while not gateway.poll(10):  # until the last one has come, too
            outlet.tell("frame/499", b"")
        outlet.tell("frame/499", b"")
        assert not outlet._tap.poll(0)
        assert outlet.wait_for_tap(0)
        outlet.close()


@pytest.mark.parametrize(
    ("platform", "number", "told"),
    [
        ("linux", zmq.EADDRINUSE, "is in use: stop it"),
        ("linux", errno.EACCES, "cannot be bound: Permission denied"),
        ("win32", zmq.EADDRINUSE, "is in use: stop it"),
        ("win32", errno.EACCES, "is kept by Windows, or in use: stop it"),
    ],
)
def test_a_port_that_cannot_be_had_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, platform: str, number: int, told: str
) -> None:
    monkeypatch.setattr("hgr_stream.stream.bus.sys", SimpleNamespace(platform=platform))
    socket = Mock(bind=Mock(side_effect=zmq.ZMQError(number)))
    with pytest.raises(BusError, match=rf"^tcp://127\.0\.0\.1:80 \(the port\) {told}"):
        bind(socket, "tcp://127.0.0.1:80", "the port", "stop it")
