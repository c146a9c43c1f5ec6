"""The Leap driver against a true server: real sockets, real frames, and every way to go wrong."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hgr_drivers import leap
from hgr_drivers.base import DeviceError, Sample
from hgr_drivers.leap import LeapDriver, LeapOptions
from leap_frames import frame, texts
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from hgr_stream import config
from hgr_stream.datasets.leap_json import ServiceVersion
from hgr_stream.datasets.leapjs import load_leapjs
from tools.leapd import SERIAL, LeapdServer

ROOT = Path(__file__).resolve().parent.parent
LEAPD = ROOT / "tools" / "leapd.py"
FOCUS = ['{"background":true}', '{"focused":true}', '{"optimizeHMD":false}']
PATIENCE_S = 5.0


@contextmanager
def opened(url: str, **options: Any) -> Iterator[LeapDriver]:
    with closing(LeapDriver(LeapOptions(url=url, **options))) as driver:
        driver.open()
        yield driver


def read(driver: LeapDriver, count: int) -> list[Sample]:
    """The next samples; fails when they do not come."""
    samples: list[Sample] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(samples) < count:
        assert time.monotonic() < deadline_s, f"{len(samples)} of {count} samples came"
        if (sample := driver.read(0.1)) is not None:
            samples.append(sample)
    return samples


def until(condition: Callable[[], object], driver: LeapDriver | None = None) -> None:
    """Wait for it, while the driver goes on reading."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came"
        if driver is None:
            time.sleep(0.005)
        else:
            driver.read(0.005)


def falls_silent(client: ClientConnection) -> bool:
    for _ in range(1000):
        try:
            client.recv(0.1)
        except TimeoutError:
            return True
    return False


def fails_to_open(url: str, **options: Any) -> DeviceError:
    with closing(LeapDriver(LeapOptions(url=url, **options))) as driver:
        with pytest.raises(DeviceError) as caught:
            driver.open()
        with pytest.raises(DeviceError, match="not open"):
            driver.read(0)
    assert caught.value.cure
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def server() -> Iterator[LeapdServer]:
    with LeapdServer(texts(20, (7, "right")), fps=200, loop=True) as running:
        yield running


# --- the way things should be


def test_real_recording_arrives_frame_by_frame(shared_data: Path) -> None:
    path = shared_data / "leap_recordings/leapjs_playback/confidence2.json.gz"
    expected = load_leapjs(path).frames[:60]
    with LeapdServer(path) as server, opened(server.url) as driver:
        started_s = time.monotonic()
        samples = read(driver, len(expected))
        took_s = time.monotonic() - started_s
        assert driver.counts() == {"attached": 1, "wrist_estimated": 120}
    for sample, truth in zip(samples, expected, strict=True):
        assert (sample.device_ns, sample.index) == (truth.device_ns, truth.index)
        assert {(h.id, h.side) for h in sample.hands} == {(123, "left"), (124, "right")}
        for got, true in zip(sample.hands, truth.hands, strict=True):
            assert (got.id, got.confidence, got.lacks) == (true.id, true.confidence, ())
            np.testing.assert_array_equal(got.joints, true.joints)
    span_s = (expected[-1].device_ns - expected[0].device_ns) * 1e-9
    assert span_s - 0.1 < took_s < span_s + PATIENCE_S


def test_gemini_frame_with_both_hands(shared_data: Path) -> None:
    text = (shared_data / "devices/leap_wire/gemini_ws_two_hands.json").read_text()
    with LeapdServer([text], fps=100, loop=True) as server, opened(server.url) as driver:
        [sample] = read(driver, 1)
    assert [(h.id, h.side) for h in sample.hands] == [(280, "right"), (281, "left")]


def test_handshake_is_exact(server: LeapdServer) -> None:
    with opened(server.url) as driver:
        read(driver, 1)  # the first message is enough for that
        until(lambda: len(server.received) == 3)
        assert server.received == FOCUS
        assert driver.service == ServiceVersion(6, "2.3.1+33747")
        assert driver.device is not None
        assert (driver.device.id, driver.device.attached) == (SERIAL, True)
    until(lambda: server.clients == 0)
    with opened(server.url, background=False, optimize_hmd=True) as driver:
        read(driver, 1)
        until(lambda: len(server.received) == 6)
        assert server.received[3:] == [
            '{"background":false}',
            '{"focused":true}',
            '{"optimizeHMD":true}',
        ]
    assert all(len(text) < 32 for text in server.received)


def test_server_sends_nothing_to_a_client_without_focus(server: LeapdServer) -> None:
    with connect(server.url) as client:
        assert json.loads(client.recv(1)) == {"serviceVersion": "2.3.1+33747", "version": 6}
        assert json.loads(client.recv(1))["event"]["type"] == "deviceEvent"
        with pytest.raises(TimeoutError):
            client.recv(0.05)
        client.send('{"background": true}')
        assert "hands" in json.loads(client.recv(1))


def test_refused_background_leave_still_gives_frames() -> None:
    with (
        LeapdServer(texts(5, (7, "left")), fps=200, loop=True, require_focus=True) as server,
        opened(server.url) as driver,
    ):
        assert [h.side for h in read(driver, 1)[0].hands] == ["left"]


def test_head_mounted_axes() -> None:
    frames = texts(2, (7, "right"))
    with LeapdServer(frames, fps=100, loop=True) as server:
        with opened(server.url) as driver:
            desktop = read(driver, 1)[0].hands[0].joints
        with opened(server.url, optimize_hmd=True) as driver:
            mounted = read(driver, 1)[0].hands[0].joints
    np.testing.assert_array_equal(mounted, -desktop[:, [0, 2, 1]])  # (-x, -z, -y)


def test_ids_that_change_and_hands_that_leave() -> None:
    frames = [
        *texts(3, (7, "right"), first=1),
        *texts(2, first=4),
        *texts(3, (9, "right"), (11, "left"), first=6),
    ]
    with LeapdServer(frames, fps=200) as server, opened(server.url) as driver:
        samples = read(driver, 12)
    assert [s.index for s in samples] == list(range(1, 13))
    ids = [tuple(h.id for h in s.hands) for s in samples]
    # After the recording the sensor goes on, and sees nobody.
    assert ids == [(7,)] * 3 + [()] * 2 + [(9, 11)] * 3 + [()] * 4


def test_time_goes_on_when_the_recording_begins_again() -> None:
    with (
        LeapdServer(texts(4, (7, "right"), step_us=3000), loop=True) as server,
        opened(server.url) as driver,
    ):
        samples = read(driver, 11)
    assert [s.index for s in samples] == list(range(1, 12))
    times_ns = [s.device_ns for s in samples if s.device_ns is not None]
    assert np.diff(times_ns).tolist() == [3_000_000] * 10


# --- devices and services that come and go


def test_hot_plug(server: LeapdServer) -> None:
    with opened(server.url) as driver:
        read(driver, 1)
        server.detach()
        until(lambda: driver.counts().get("detached"), driver)
        assert driver.device is not None
        assert not driver.device.attached
        assert driver.read(0.05) is None
        server.attach()
        read(driver, 3)
        assert driver.counts()["attached"] == 2
        server.detach(frames_go_on=True)
        until(lambda: driver.counts()["detached"] == 2, driver)
        read(driver, 3)


def test_sensor_that_stays_unplugged(server: LeapdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leap, "UNPLUGGED_S", 0.05)
    server.detach()
    for _ in range(2):  # a service without its sensor still takes connections
        with opened(server.url) as driver, pytest.raises(DeviceError, match=SERIAL) as caught:
            read(driver, 1)
        assert caught.value.cure == "plug it in"
    with opened(server.url) as driver:
        server.attach()
        read(driver, 1)


def test_a_sensor_that_is_unplugged_all_night_does_not_fill_the_log(
    server: LeapdServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leap, "UNPLUGGED_S", 0.05)
    caplog.set_level("INFO", "hgr_drivers")
    server.detach()
    with opened(server.url) as driver:
        for _ in range(3):  # as the runner does
            with pytest.raises(DeviceError, match=SERIAL):
                read(driver, 1)
            driver.close()
            driver.open()
        server.attach()
        read(driver, 1)
    told = [record.getMessage().removeprefix(f"{server.url}: ") for record in caplog.records]
    assert told[1:] == [f"sensor {SERIAL} unplugged", f"sensor {SERIAL} attached"]
    assert told[0].startswith("Leap service")


def test_focus_taken_by_another_program_is_asked_for_again(server: LeapdServer) -> None:
    with opened(server.url, refocus_s=0.05) as driver:
        until(lambda: server.received == FOCUS)
        server.take_focus()
        until(lambda: driver.counts().get("focus_sent_again"), driver)
        read(driver, 3)
        until(lambda: server.received == FOCUS * (1 + driver.counts()["focus_sent_again"]))


def test_silent_service_gives_none_and_its_frames_when_it_wakes(server: LeapdServer) -> None:
    with opened(server.url, refocus_s=0.03) as driver:
        read(driver, 1)
        server.silence()
        until(lambda: driver.counts().get("focus_sent_again", 0) >= 2, driver)
        started_s = time.monotonic()
        assert driver.read(0.1) is None
        assert 0.09 < time.monotonic() - started_s < PATIENCE_S
        server.silence(False)
        read(driver, 1)


def test_service_that_hangs_after_some_frames() -> None:
    with (
        LeapdServer(texts(5, (7, "right")), fps=500, loop=True, silent_after=7) as server,
        opened(server.url) as driver,
    ):
        read(driver, 7)
        assert driver.read(0.05) is None
        assert server.clients == 1


@pytest.mark.parametrize("abrupt", [False, True])
def test_service_that_restarts(server: LeapdServer, abrupt: bool) -> None:
    with opened(server.url) as driver:
        read(driver, 2)
        server.restart(abrupt=abrupt)
        with pytest.raises(DeviceError, match="lost the Leap service") as caught:
            read(driver, 1000)
        assert not caught.value.fatal
        assert "start the Leap service" in caught.value.cure
        driver.open()
        assert read(driver, 1)[0].index == 1  # a new service counts from the beginning
        assert driver.counts()["attached"] == 2


def test_service_that_closes_every_now_and_then() -> None:
    with LeapdServer(texts(5, (7, "right")), fps=500, loop=True, close_after=6) as server:
        for _ in range(2):
            with opened(server.url) as driver:
                read(driver, 6)
                with pytest.raises(DeviceError, match="1001"):
                    read(driver, 1)


def test_absent_service(server: LeapdServer) -> None:
    server.stop()
    error = fails_to_open(server.url)
    assert "no Leap service at ws://127.0.0.1" in str(error)
    assert "leapd" in error.cure
    assert not error.fatal


def test_service_of_an_older_protocol() -> None:
    with LeapdServer(texts(1, (7, "right")), version=5) as server:
        error = fails_to_open(server.url)
        assert "does not speak protocol 6 (it closed with 1001)" in str(error)
        assert "update" in error.cure
        error = fails_to_open(server.url.replace("v6", "v4"))
        assert "protocol 4" in str(error)
        assert "too old" in str(error)
        assert "update" in error.cure


def test_other_things_on_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = fails_to_open(f"ws://127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.2)
        assert "no answer" in str(error)

    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            with web.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        error = fails_to_open(f"ws://127.0.0.1:{web.getsockname()[1]}/v6.json")
        assert "not as a Leap service" in str(error)

    def chatter(connection: ServerConnection) -> None:
        try:
            while True:
                connection.send("hello")
                time.sleep(0.01)
        except ConnectionClosed:
            return

    with serve(chatter, "127.0.0.1", 0) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        port = other.socket.getsockname()[1]
        error = fails_to_open(f"ws://127.0.0.1:{port}", connect_timeout_s=0.2)
        assert "does not tell its version" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6437/v6.json",
        "6437",
        "",
        "ws://127.0.0.1:99999/v6.json",
        "ws://127.0.0.1:abc/v6.json",
        "ws://[::1/v6.json",
        "ws://127.0.0..1:6437/v6.json",
    ],
)
def test_bad_url_is_final(url: str) -> None:
    error = fails_to_open(url)
    assert error.fatal
    assert "ws://127.0.0.1:6437/v6.json" in error.cure


def test_missing_library_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    error = fails_to_open(leap.DEFAULT_URL)
    assert error.fatal
    assert error.cure == 'pip install "hgr-stream[leap]"'


def test_unknown_and_wrong_options_are_refused() -> None:
    assert msgspec.convert({}, LeapOptions).url == leap.DEFAULT_URL
    for bad in ({"ulr": "ws://x"}, {"background": "yes"}, {"connect_timeout_s": 0}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, LeapOptions)


def test_config_file_shows_the_defaults() -> None:
    text = (ROOT / "configs" / "leap.toml").read_text()
    table = config.parse(text).devices["leap"]
    assert table.pop("driver") == LeapDriver.name
    assert msgspec.convert(table, LeapOptions) == LeapOptions()
    assert set(table) == set(LeapOptions.__struct_fields__)
    # What is commented out is true as well.
    stages = text[text.index("[segmentation]") :]
    shown = config.parse(re.sub(r"^# (?=\[|\w+ = )", "", stages, flags=re.MULTILINE))
    for name in ("segmentation", "model", "gateway"):
        assert getattr(shown, name) == getattr(config.Config(), name), name


# --- messages that are not what they should be


def test_bad_messages_are_counted_and_the_next_one_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LeapdServer(texts(1), fps=200) as server, opened(server.url) as driver:
        read(driver, 1)
        good = frame((7, "right"), (8, "left"), index=555)
        del good["pointables"][2]
        server.send_raw("{")
        server.send_raw("[1]")
        server.send_raw('{"id": 5}')
        server.send_raw(b"\x00\x01")
        server.send_raw(json.dumps({"timestamp": 1, "junk": "x" * leap.MAX_MESSAGE_BYTES}))
        server.send_raw('{"event":{"type":"somethingNew"}}')
        server.send_raw('{"version":6}')
        server.send_raw(json.dumps(good))
        while (sample := read(driver, 1)[0]).index != 555:
            assert not sample.hands
        assert [h.id for h in sample.hands] == [8]
        assert driver.counts() == {
            "attached": 1,
            "message_malformed": 3,
            "message_binary": 1,
            "message_oversized": 1,
            "hand_incomplete": 1,
        }
        read(driver, 3)
    assert caplog.text.count("malformed message refused") == 1
    assert caplog.text.count("hand refused: a finger or a joint is missing") == 1


def test_message_too_large_to_take_in_ends_the_connection(server: LeapdServer) -> None:
    with opened(server.url) as driver:
        read(driver, 1)
        server.send_raw("x" * (17 << 20))
        with pytest.raises(DeviceError):
            read(driver, 10_000)
        assert driver.counts()["message_oversized"] == 1
        driver.open()
        read(driver, 1)


# --- UltraleapTrackingWebSocket


def test_ultraleap_server() -> None:
    with (
        LeapdServer(texts(5, (7, "right")), fps=200, loop=True, ultraleap_quirks=True) as server,
        opened(server.url) as driver,
    ):
        assert driver.service == ServiceVersion(6)
        read(driver, 3)
        assert driver.device is None
        with connect(server.url) as other:
            assert other.recv(1) == '{"version":6}'
            # It compares byte by byte: these two have no effect, the third has.
            other.send('{"background": false}')
            other.send('{"background":false}' + " " * 20)
            until(lambda: len(server.received) == 5, driver)
            for _ in range(20):
                assert "hands" in json.loads(other.recv(1))
            other.send('{"background":false}')
            assert falls_silent(other)
    with LeapdServer(texts(1), ultraleap_quirks=True) as server:
        error = fails_to_open(server.url.replace("v6", "v5"))
        assert "closed the connection at once" in str(error)
        assert "/v6.json" in error.cure


def test_ultraleap_server_splits_frames_between_two_clients() -> None:
    with (
        LeapdServer(texts(400, (7, "right")), fps=400, ultraleap_quirks=True) as server,
        opened(server.url) as one,
        opened(server.url) as two,
    ):
        until(lambda: server.clients == 2)
        seen: tuple[set[int], set[int]] = (set(), set())
        for _ in range(20):
            seen[0].add(read(one, 1)[0].index)
            seen[1].add(read(two, 1)[0].index)
    assert not seen[0] & seen[1]


# --- find, and the server as a program


def test_find(server: LeapdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leap, "DEFAULT_URL", server.url)
    [found] = LeapDriver.find()
    assert (found.driver, found.id) == ("leap", SERIAL)
    for part in ("2.3.1+33747", "protocol 6", server.url, "attached"):
        assert part in found.description
    server.stop()
    started_s = time.monotonic()
    assert LeapDriver.find() == []
    assert time.monotonic() - started_s < 2


def test_find_without_device_events(monkeypatch: pytest.MonkeyPatch) -> None:
    with LeapdServer(texts(3), fps=100, loop=True, ultraleap_quirks=True) as server:
        monkeypatch.setattr(leap, "DEFAULT_URL", server.url)
        [found] = LeapDriver.find()
    assert found.id == "leap"
    assert "sensor" not in found.description


def test_leapd_as_a_program(tmp_path: Path) -> None:
    recording = tmp_path / "made.json"
    recording.write_text("[" + ",".join(texts(10, (7, "right"))) + "]")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run(
            [sys.executable, LEAPD, recording, "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    command = [sys.executable, str(LEAPD), str(recording), "--port", str(port), "--fps", "200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert f"ws://127.0.0.1:{port}/v6.json" in process.stdout.readline()
            with opened(f"ws://127.0.0.1:{port}/v6.json") as driver:
                read(driver, 15)
            process.send_signal(signal.SIGTERM)
            assert "frames sent" in process.stdout.read()
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_leapd_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    result = subprocess.run(
        [sys.executable, LEAPD, empty], capture_output=True, text=True, timeout=30, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == f"Error: {empty}: no frames"
