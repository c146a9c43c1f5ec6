"""End to end, as a user has it: a Leap Motion service, the daemon, a subscriber.

The service is ``tools/leapd.py`` with real recordings: a real WebSocket, leapd's own protocol.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgr_stream.cli.demo import free_port
from hgr_stream.client import Stream
from hgr_stream.messages import Event, Frame
from tests.daemon_process import Daemon, wait_until
from tests.models import save_palm_model
from tools.leapd import LeapdServer

CONFIG = """
[devices.leap]
driver = "leap"
url = "ws://127.0.0.1:{port}/v6.json"
[model]
use = "{model}"
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Daemon]:
    model = save_palm_model(tmp_path / "palm.pt")
    running = Daemon(tmp_path, CONFIG.format(port=port, model=model))
    yield running
    running.stop()


def test_from_a_leap_to_a_subscriber_through_every_trouble(
    shared_data: Path, daemon: Daemon, port: int
) -> None:
    # The service is absent: told once, with its cure, and tried again.
    wait_until(lambda: "driver.leap: " in daemon.text(), 10, "word of the absent service")
    assert daemon.text().count("trying again") == 1
    assert daemon.status()["driver.leap"].state == "degraded"

    recording = shared_data / "leap_recordings" / "leapjs_playback" / "confidence-demo.json.gz"
    frames: list[Frame] = []
    events: list[Event] = []
    with (
        Stream(["frame/leap", "gesture/leap/"], daemon.endpoint) as stream,
        LeapdServer(recording, port=port, loop=True) as leapd,
    ):

        def listen(seconds: float) -> None:
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                received = next(stream)
                message = received.message() if received else None
                if isinstance(message, Frame):
                    frames.append(message)
                elif isinstance(message, Event):
                    events.append(message)

        wait_until(lambda: leapd.clients == 1, 15, "the connection")
        listen(11.0)  # the recording lasts 10 s: a right hand that moves to the left and back
        assert '{"focused":true}' in leapd.received
        assert stream.lost == 0
        assert {h.side for f in frames for h in f.hands} == {"right"}
        confirmed = [e.label for e in events if e.kind == "confirmed"]
        assert confirmed[:3] == ["LEFT", "RIGHT", "RIGHT"]

        leapd.restart(down_s=1.0)
        wait_until(lambda: leapd.clients == 1, 15, "the return after the restart")
        before = len(frames)
        listen(2.0)
        assert len(frames) > before + 50

        leapd.silence()
        wait_until(lambda: daemon.count("driver.leap", "silent") >= 1, 15, "the watchdog")
        leapd.silence(False)
        before = len(frames)
        wait_until(lambda: leapd.clients >= 1, 15, "the return after the silence")
        listen(3.0)
        assert len(frames) > before + 50

        leapd.send_raw("not json")
        leapd.send_raw('{"id": 1, "timestamp": "x"}')
        wait_until(
            lambda: daemon.count("driver.leap", "message_malformed") >= 1, 5, "counting bad frames"
        )

    times = [f.time_ns for f in frames]
    assert times == sorted(set(times))
    assert [f.seq for f in frames] == list(range(frames[0].seq, frames[0].seq + len(frames)))
    status = daemon.status()
    assert status["driver.leap"].counts["reconnects"] >= 3
    assert status["segmenter"].counts["lost"] == 0
    assert status["supervisor"].counts["restarts"] == 0
    assert "Traceback" not in daemon.text()


def test_an_older_service_is_named(shared_data: Path, daemon: Daemon, port: int) -> None:
    recording = shared_data / "leap_recordings" / "leapjs_playback" / "wave.json.gz"
    with LeapdServer(recording, port=port, version=5):
        wait_until(lambda: "does not speak protocol 6" in daemon.text(), 15, "word of it")
        # Its status goes out after the word in the log.
        wait_until(lambda: daemon.status()["driver.leap"].state == "degraded", 5, "its state")
    assert "Traceback" not in daemon.text()


def test_both_hands_at_the_recordings_own_rate(
    shared_data: Path, daemon: Daemon, port: int
) -> None:
    recording = shared_data / "leap_recordings" / "leapjs_playback" / "three-claps.json.gz"
    with LeapdServer(recording, port=port, loop=True) as leapd:
        wait_until(lambda: leapd.clients == 1, 15, "the connection")
        time.sleep(1.0)
        hz = json.loads(daemon.hgr("hz", "--seconds", "3", "--json").stdout)
    assert 100 < hz["frame/leap"]["rate_hz"] < 125
    assert 23 < hz["window/leap/left"]["rate_hz"] < 27
    assert 23 < hz["window/leap/right"]["rate_hz"] < 27
    assert sum(row["lost"] for row in hz.values()) == 0
