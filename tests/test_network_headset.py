"""Headsets with OpenXR hands: JSON over a real WebSocket, from real HoloLens recordings."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import numpy as np
import pytest
from hgr_drivers.base import DeviceError
from hgr_drivers.network.headset import (
    CLOSE_S,
    MAX_MESSAGE_BYTES,
    HeadsetDecoder,
    HeadsetDriver,
    HeadsetOptions,
)
from hgr_drivers.network.packets import BACKLOG, PacketError
from hgr_drivers.runner import Stamper
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection

from hgr_stream.cli.demo import free_port
from hgr_stream.client import Stream
from hgr_stream.messages import Frame, decode, encode
from hgr_stream.skeleton import OPENXR_26, bone_lengths, chirality, from_layout, mirrored
from tests.daemon_process import Daemon, wait_until
from tests.hands import hand_joints
from tests.network_hands import collect, hololens_file
from tools.senders import headset_message, openxr_points


@pytest.fixture(scope="module")
def rows(shared_data, tmp_path_factory):
    """Real HoloLens frames in canonical axes, (T, 26, 3), in OpenXR's order."""
    file = hololens_file(shared_data, tmp_path_factory.mktemp("shrec22"))
    table = [line.rstrip(";\n").split(";")[2:80] for line in file.open()]
    points = np.array(table, dtype=float).reshape(-1, 26, 3) * [1, 1, -1]  # see datasets.shrec22
    points = points[np.linalg.norm(points[:, 0] - points[:, 7], axis=1) > 0.02]
    points[:, [0, 1]] = points[:, [1, 0]]  # the file has the wrist first
    return points


def message(points, side="right", time_ms=0.0, webxr=False) -> str:
    return headset_message({side: points}, time_ms, webxr=webxr)


@pytest.mark.parametrize("webxr", [False, True])
def test_real_hands_come_back_as_they_were(rows, webxr) -> None:
    decoder = HeadsetDecoder()
    for i, points in enumerate(rows[:300]):
        sample = decoder.push(message(points, time_ms=i * 16.0, webxr=webxr).encode(), "h")
        hand = sample.hands[0]
        np.testing.assert_allclose(hand.joints, from_layout(points, OPENXR_26), atol=1e-6)
        assert (sample.device_ns, sample.index) == (i * 16_000_000, i + 1)
        assert (hand.side, hand.lacks) == ("right", ())
    signs = [
        float(chirality(decoder.push(message(p).encode(), "h").hands[0].joints)) for p in rows[:300]
    ]
    assert np.median(signs) > 0  # a closed fist alone may look like either
    lengths = bone_lengths(decoder.push(message(rows[0]).encode(), "h").hands[0].joints)
    assert (lengths > 0.01).all()
    assert (lengths < 0.13).all()


def test_unity_axes_are_turned(rows) -> None:
    unity = rows[0] * [1, 1, -1]
    sample = HeadsetDecoder("unity").push(message(unity).encode(), "h")
    np.testing.assert_allclose(sample.hands[0].joints, from_layout(rows[0], OPENXR_26), atol=1e-6)


def test_a_bad_hand_costs_itself_alone() -> None:
    right, left = openxr_points(hand_joints()), openxr_points(mirrored(hand_joints()))
    good = {"side": "right", "joints": right.tolist()}
    untracked = {"side": "left", "joints": [None, *left[1:].tolist()]}  # only the palm: not needed
    lost = {"side": "left", "joints": [*left[:-1].tolist(), None]}
    short = {"side": "left", "joints": left[:20].tolist()}
    empty = {"side": "left", "joints": np.zeros((26, 3)).tolist()}
    far = {"side": "left", "joints": (left + 1e6).tolist()}
    decoder = HeadsetDecoder()
    sample = decoder.push(
        json.dumps({"hands": [good, untracked, lost, short, empty, far]}).encode(), "h"
    )
    assert [hand.side for hand in sample.hands] == ["right", "left"]
    assert sample.device_ns is None
    assert dict(decoder.counts) == {"hand_untracked": 2, "hand_refused": 2}


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_time_beyond_64_bits_is_refused_and_the_next_frame_is_taken(sign) -> None:
    decoder = HeadsetDecoder()
    points = openxr_points(hand_joints())
    for time_ms in (1e13, 1e15):
        with pytest.raises(PacketError) as caught:
            decoder.push(message(points, time_ms=sign * time_ms).encode(), "h")
        assert caught.value.reason == "malformed"
    sample = decoder.push(message(points, time_ms=sign * 9e12).encode(), "h")
    frame = Stamper("headset", "boot", lossless=False).frame(sample, 1, 1)
    assert decode(Frame, encode(frame)).device_ns == sign * 9 * 10**18


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["hands", "joints", "side", "time_ms"]), inner, max_size=4
                )
            ),
        ).map(json.dumps),
        st.integers(1, 60_000).map(lambda n: "[" * n),
    )
)
def test_any_text_gives_a_sample_or_the_one_error(text) -> None:
    with contextlib.suppress(PacketError):
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        for hand in HeadsetDecoder().push(data, "h").hands:
            assert np.isfinite(hand.joints).all()


@pytest.fixture
def driver():
    made = HeadsetDriver(HeadsetOptions(port=free_port(), origins=["http://localhost:8080"]))
    made.open()
    yield made
    made.close()


def url(driver) -> str:
    return f"ws://127.0.0.1:{driver.port}"


def test_frames_over_a_websocket_and_a_headset_that_comes_back(driver, caplog) -> None:
    caplog.set_level("INFO")
    text = message(openxr_points(hand_joints()))
    for _ in range(2):
        with connect(url(driver)) as headset:
            for _ in range(20):
                headset.send(text)
            assert len(collect(driver, 20)) == 20
    with connect(url(driver)) as old:
        # Connected is not yet served: of two at once either may come first.
        wait_until(lambda: driver.counts()["connections"] == 3, what="the old one")
        with connect(url(driver)) as new:
            wait_until(lambda: driver.counts()["connections"] == 4, what="the new one")
            new.send(text)
            assert len(collect(driver, 1)) == 1
            with pytest.raises(ConnectionClosed, match="another headset"):
                old.recv(timeout=5)
    wait_until(lambda: caplog.text.count("has gone") == 4, what="goodbyes")
    assert "ERROR" not in caplog.text


@contextlib.contextmanager
def half_dead(driver):
    """A headset that connects and then answers nothing, as one that has left the Wi-Fi."""
    before = driver.counts().get("connections", 0)
    with socket.create_connection(("127.0.0.1", driver.port)) as peer:
        peer.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        wait_until(lambda: driver.counts().get("connections") == before + 1, what="it")
        yield peer


def test_a_headset_that_comes_back_is_read_at_once_whatever_its_old_connection_does(driver) -> None:
    text = message(openxr_points(hand_joints()))
    with half_dead(driver), connect(url(driver)) as new:
        new.send(text)
        assert len(collect(driver, 1, CLOSE_S / 2)) == 1
        time.sleep(CLOSE_S)  # past the old one's end
        new.send(text)
        assert len(collect(driver, 1)) == 1


def test_closing_does_not_wait_long_for_a_headset_that_is_half_dead(driver) -> None:
    with half_dead(driver):
        began_s = time.monotonic()
        driver.close()
        assert time.monotonic() - began_s < CLOSE_S + 2


def test_closing_does_not_wait_long_for_one_that_connects_and_says_nothing(driver) -> None:
    with socket.create_connection(("127.0.0.1", driver.port)):
        time.sleep(0.1)  # until it is accepted: else it is none of the server's
        began_s = time.monotonic()
        driver.close()
        assert time.monotonic() - began_s < CLOSE_S + 2


def test_a_server_that_can_accept_no_more_is_opened_again(driver) -> None:
    assert driver.read(0.01) is None
    driver._server.socket.shutdown(socket.SHUT_RDWR)  # accepting fails, as without a free file
    wait_until(lambda: not driver._thread.is_alive(), what="the end of the server")
    with pytest.raises(DeviceError, match="takes no connections") as caught:
        driver.read(0.01)
    assert not caught.value.waiting
    driver.open()
    with connect(url(driver)) as headset:
        headset.send(message(openxr_points(hand_joints())))
        assert len(collect(driver, 1)) == 1


def test_who_only_tries_the_port_does_not_fill_the_log(driver, caplog) -> None:
    caplog.set_level("INFO")
    for text in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", driver.port)) as probe:
            probe.sendall(text)
            probe.shutdown(socket.SHUT_WR)
            probe.settimeout(5)
            while probe.recv(4096):  # until the server has closed it
                pass
    driver.close()
    assert caplog.messages == []


def test_what_a_headset_sent_before_it_went_is_read(driver, monkeypatch) -> None:
    def address(_: ServerConnection) -> None:
        raise OSError(9, "Bad file descriptor")  # as a socket's that is closed already

    monkeypatch.setattr(ServerConnection, "remote_address", property(address))
    with connect(url(driver)) as headset:
        for _ in range(20):
            headset.send(message(openxr_points(hand_joints())))
        assert len(collect(driver, 20)) == 20


def test_malformed_oversized_and_overtaken_are_counted_and_the_next_is_read(driver) -> None:
    text = message(openxr_points(hand_joints()))
    with connect(url(driver)) as headset:
        headset.send("{}")
        headset.send("no json")
        headset.send(text)
        assert len(collect(driver, 1)) == 1
        headset.send("x" * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed):
            headset.recv(timeout=5)
    with connect(url(driver)) as headset:
        for _ in range(BACKLOG + 40):
            headset.send(text)
        wait_until(lambda: driver.counts().get("overtaken", 0) == 40, what="40 overtaken")
        assert len(collect(driver, BACKLOG)) == BACKLOG
    counts = driver.counts()
    assert counts["refused_malformed"] == 2
    assert counts["refused_oversized"] == 1


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://localhost:8080", True), ("https://evil.example", False), (None, True)],
)
def test_web_pages_connect_only_from_the_origins_that_are_allowed(driver, origin, allowed) -> None:
    if allowed:
        with connect(url(driver), origin=origin) as page:
            page.send(message(openxr_points(hand_joints())))
            assert len(collect(driver, 1)) == 1
    else:
        with pytest.raises(InvalidStatus, match="403"):
            connect(url(driver), origin=origin)


def test_a_busy_port_is_named(driver) -> None:
    with pytest.raises(DeviceError, match=str(driver.port)) as caught:
        HeadsetDriver(HeadsetOptions(port=driver.port)).open()
    assert "set port" in caught.value.cure


def test_a_silent_headset_is_told_of_and_its_port_stays_open(tmp_path, monkeypatch) -> None:
    port = free_port()
    config = f'[devices.visor]\ndriver = "headset"\nport = {port}\n'
    with (
        contextlib.closing(Daemon(tmp_path, config)) as daemon,
        Stream(("frame/",), daemon.endpoint) as stream,
    ):
        stage = "driver.visor"
        wait_until(lambda: daemon.status()[stage].state == "degraded", what="the complaint")
        assert "start the headset's app" in daemon.status()[stage].message
        with connect(f"ws://127.0.0.1:{port}") as headset:
            end_s = time.monotonic() + 10
            received = None
            while received is None and time.monotonic() < end_s:
                headset.send(message(openxr_points(hand_joints())))
                received = next(stream)
        assert received is not None
        frame = decode(Frame, received.payload)
        assert (frame.device, frame.hands[0].side) == ("visor", "right")
        wait_until(lambda: daemon.status()[stage].state == "up", what="its recovery")
        assert daemon.count(stage, "reconnects") == 0
