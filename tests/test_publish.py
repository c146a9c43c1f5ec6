"""Hands from one's own program: the publisher, its wire, and the driver at the other end."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq
from hgr_drivers.base import DeviceError
from hgr_drivers.program import ProgramDriver, ProgramOptions
from hgr_drivers.runner import Stamper
from hypothesis import given
from hypothesis import strategies as st

from hgr_stream import Publisher, TrackedHand
from hgr_stream.cli.demo import free_port
from hgr_stream.client import Stream
from hgr_stream.config import ConfigError, convert
from hgr_stream.messages import Frame, MessageError, decode
from hgr_stream.publish import decode_program_frame
from hgr_stream.segmentation import Segmenter, WindowSpec
from hgr_stream.skeleton import MEDIAPIPE_21, OPENXR_26, from_layout
from tests.daemon_process import Daemon, wait_until
from tests.hands import hand_joints

JS = Path(__file__).parent / "js"


@pytest.fixture
def driver():
    made = ProgramDriver(ProgramOptions(endpoint=f"tcp://127.0.0.1:{free_port()}"))
    made.open()
    yield made
    made.close()


def first(driver, publish, timeout_s=5.0):
    """The first sample that ``publish``, called again and again, brings about."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        publish()
        if (sample := driver.read(0.02)) is not None:
            return sample
    pytest.fail("nothing came")


def test_what_is_published_arrives_as_it_was(driver) -> None:
    right, left = hand_joints(0.1), hand_joints(-0.1, side="left")
    with Publisher(driver.options.endpoint) as out:
        sample = first(
            driver,
            lambda: out.send(
                TrackedHand(right, "right", id=3, confidence=0.5),
                TrackedHand(left, "left", id=4, lacks=("tips",)),
                time_ns=12_345,
            ),
        )
    assert sample.device_ns == 12_345
    a, b = sample.hands
    assert (a.id, a.side, a.confidence, a.lacks) == (3, "right", 0.5, ())
    assert (b.id, b.side, b.lacks) == (4, "left", ("tips",))
    np.testing.assert_array_equal(a.joints, right)
    np.testing.assert_array_equal(b.joints, left)


def test_two_hands_without_ids_are_followed_each_by_its_own(driver) -> None:
    segmenter, stamper = Segmenter(WindowSpec(25.0, 1, 1)), Stamper("me", "b", lossless=True)
    windows = []
    with Publisher(driver.options.endpoint) as out:
        for i in range(100):
            right, left = hand_joints(0.15), hand_joints(-0.15, side="left")
            hands = (TrackedHand(right, side="right"), TrackedHand(left, side="left"))
            sample = None
            while sample is None:
                out.send(*hands[:: 1 if i % 2 else -1], time_ns=i * 10_000_000)
                sample = driver.read(0.5)
            windows += segmenter.push(stamper.frame(sample, i * 10_000_000, 0))
    assert segmenter.counts["tracks"] == 2
    assert segmenter.counts["ids_repeated"] == 0
    assert {(w.hand, w.ended) for w in windows} == {("right", ""), ("left", "")}


def test_ids_of_the_wire_are_kept_and_missing_ones_made(driver) -> None:
    good = hand_joints().tobytes()
    hands = [
        {"joints": good, "side": side, **more}
        for side, more in (
            ("right", {}), ("left", {}), ("unknown", {}), ("left", {"id": None}),
            ("left", {"id": 0}), ("right", {"id": -5}),
        )
    ]  # fmt: skip
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(driver.options.endpoint)
    socket.send(msgpack.packb({"source": "a", "seq": 0, "time_ns": 0, "hands": hands}))
    sample = driver.read(5.0)
    socket.close(0)
    assert [h.id for h in sample.hands] == [1, 2, 1, 2, 0, -5]


@pytest.mark.parametrize(("count", "layout"), [(21, MEDIAPIPE_21), (26, OPENXR_26)])
def test_other_layouts_are_known_by_their_number_of_joints(driver, count, layout) -> None:
    points = np.random.default_rng(0).normal(0, 0.1, (count, 3)).astype(np.float32)
    with Publisher(driver.options.endpoint) as out:
        sample = first(driver, lambda: out.send(TrackedHand(points, "right")))
    np.testing.assert_array_equal(sample.hands[0].joints, from_layout(points, layout))


def test_a_frame_without_hands_is_a_sign_of_life(driver) -> None:
    with Publisher(driver.options.endpoint) as out:
        assert first(driver, out.send).hands == []


def test_without_a_daemon_frames_are_dropped_and_counted() -> None:
    with Publisher(f"tcp://127.0.0.1:{free_port()}") as out:
        began_s = time.monotonic()
        assert not any(out.send(TrackedHand(hand_joints())) for _ in range(50))
        assert (out.sent, out.dropped) == (0, 50)
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize("joints", [np.zeros((20, 3)), np.zeros((22, 2)), [1.0, 2.0]])
def test_a_hand_of_another_shape_is_refused_where_it_is_made(joints) -> None:
    with pytest.raises(ValueError, match="a hand is"):
        TrackedHand(joints)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"side": "Left"}, "side 'Left': known are left, right, unknown"),
        ({"side": None}, "side None"),
        ({"confidence": 2}, "confidence 2 "),
        ({"confidence": float("nan")}, "confidence nan"),
        ({"confidence": "high"}, "confidence 'high'"),
        ({"id": 1.5}, "id 1.5 is no whole number"),
        ({"id": "a"}, "id 'a' is no whole number"),
        ({"id": 1 << 64}, "64 bits"),
        ({"lacks": ("thumbs",)}, "lacks 'thumbs'"),
    ],
)
def test_what_the_daemon_would_refuse_is_refused_where_it_is_made(wrong, told) -> None:
    with pytest.raises(ValueError, match=told):
        TrackedHand(hand_joints(), **wrong)


@pytest.mark.parametrize("time_ns", [1.5, "now", 1 << 64, float("nan")])
def test_a_time_that_is_no_whole_number_is_refused_at_once(driver, time_ns) -> None:
    with Publisher(driver.options.endpoint) as out:
        with pytest.raises(ValueError, match="time_ns"):
            out.send(time_ns=time_ns)
        with pytest.raises(ValueError, match="257 hands"):
            out.send(*[TrackedHand(hand_joints())] * 257)
        assert (out.sent, out.dropped) == (0, 0)


def test_numbers_of_numpy_are_numbers(driver) -> None:
    hand = TrackedHand(hand_joints(), "left", id=np.int64(7), confidence=np.float32(0.5))
    with Publisher(driver.options.endpoint) as out:
        sample = first(driver, lambda: out.send(hand, time_ns=np.int64(1_000)))
    assert (sample.device_ns, sample.hands[0].id, sample.hands[0].confidence) == (1_000, 7, 0.5)


def test_the_first_frame_waits_for_its_connection(driver) -> None:
    for _ in range(5):
        with Publisher(driver.options.endpoint) as out:
            assert out.send()
            assert (out.sent, out.dropped) == (1, 0)
        assert driver.read(5.0) is not None


def test_frames_that_are_refused_are_no_silence_and_new_faults_are_told(driver, caplog) -> None:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(driver.options.endpoint)

    def send(source, seq, **hand):
        hands = [{"joints": hand_joints().tobytes(), **hand}]
        socket.send(msgpack.packb({"source": source, "seq": seq, "hands": hands}))
        return driver.read(5.0)

    assert str(driver.silence()) == "no frame for 2 s"
    for seq in range(3):
        assert send("a", seq, side="Left") is None
    assert re.match("3 frames refused: malformed frame: .*'Left'", str(driver.silence()))
    assert "publish.py" in driver.silence().cure
    assert driver.silence().waiting
    assert send("a", 3, confidence=2) is None  # another fault, and the same of another program
    assert send("b", 0, side="Left") is None
    assert send("b", 1, side="Left") is None
    assert send("b", 2, side="L" * 5000) is None
    assert "7 frames refused" in str(driver.silence())
    assert len(str(driver.silence())) < 300
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert ["'Left'" in told[0], "confidence" in told[1], "'Left'" in told[2]] == [True] * 3
    assert len(told) == 4
    assert send("b", 3) is not None
    assert str(driver.silence()) == "no frame for 2 s"
    for _ in range(2):  # a program that does not count its frames
        assert send("b", 3) is None
    assert "2 frames refused: seq 3 is not above 3" in str(driver.silence())
    for i in range(200):  # no flood, whoever sends
        send(f"s{i}", 0, side="Left")
    socket.close(0)
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 64


def test_a_program_whose_frames_are_refused_is_told_why_by_the_daemon(tmp_path) -> None:
    port = free_port()
    config = f'[devices.mine]\ndriver = "program"\nendpoint = "tcp://127.0.0.1:{port}"\n'
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(f"tcp://127.0.0.1:{port}")
    with contextlib.closing(Daemon(tmp_path, config)) as daemon:
        seq = 0

        def told() -> bool:
            nonlocal seq
            for _ in range(5):
                hand = {"joints": hand_joints().tobytes(), "side": "Left"}
                socket.send(msgpack.packb({"source": "a", "seq": seq, "hands": [hand]}))
                seq += 1
            status = daemon.status().get("driver.mine")
            return status is not None and re.match(
                r"\d{3,} frames refused: .*'Left'", status.message
            )

        wait_until(told, 30, "the second complaint")
        assert daemon.status()["driver.mine"].state == "degraded"
        text = daemon.text()
    socket.close(0)
    assert text.count("frames refused") == 1  # its growing number is nothing new
    assert "start the program" not in text


def test_a_clock_that_stands_still_or_is_in_milliseconds_is_told_until_it_is_well(tmp_path) -> None:
    port = free_port()
    config = f'[devices.mine]\ndriver = "program"\nendpoint = "tcp://127.0.0.1:{port}"\n'
    hand = TrackedHand(hand_joints(), "right")
    with (
        contextlib.closing(Daemon(tmp_path, config)) as daemon,
        Publisher(f"tcp://127.0.0.1:{port}") as out,
    ):

        def says(clock, state: str, message: str, at_least_s: float = 0.0) -> None:
            """The driver's status, while frames bear the times of this clock."""
            began_s = time.monotonic()

            def so() -> bool:
                for _ in range(10):
                    out.send(hand, time_ns=clock(time.monotonic()))
                    time.sleep(0.016)
                row = daemon.status().get("driver.mine")
                return (
                    row is not None
                    and (row.state, row.message) == (state, message)
                    and time.monotonic() - began_s > at_least_s
                )

            wait_until(so, 15, f"{state} {message!r}")

        slowly = "advances 1,000,000 times too slowly: is it in milliseconds?"
        says(lambda _: 5, "degraded", "the device's time stands still", 3.5)
        says(lambda s: int(s * 1e9), "up", "")
        says(lambda s: int(s * 1e3), "degraded", f"the device's time {slowly}", 3.5)
        says(lambda s: int(s * 1e9), "up", "", 2.5)
        text = daemon.text()
    assert text.count("the device's time stands still") == 1
    assert text.count(f"the device's time {slowly}") == 1
    assert text.count("the device's time is well") == 2


def test_lost_repeated_malformed_and_mixed_messages_are_counted_and_the_rest_is_kept(
    driver, caplog
) -> None:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(driver.options.endpoint)
    good = hand_joints().tobytes()

    def frame(seq, hands, source="a"):
        return msgpack.packb({"source": source, "seq": seq, "time_ns": seq, "hands": hands})

    for message in (
        frame(0, [{"joints": good, "side": "right"}]),
        frame(3, [{"joints": good[:-4]}, {"joints": good, "id": 2}]),  # 1 and 2 are lost
        frame(3, []),
        b"\xc1 no msgpack",
        msgpack.packb({"hands": 5}),
        frame(0, [], source="b"),
        frame(4, [], source="a"),
        frame(1, [], source="b"),
    ):
        socket.send(message)
    samples = []
    wait_until(lambda: samples.append(driver.read(0.05)) or len(samples) >= 9, what="all messages")
    socket.close(0)
    seen = [s for s in samples if s is not None]
    assert [len(s.hands) for s in seen] == [1, 1, 0, 0, 0]
    assert seen[1].hands[0].id == 2
    counts = driver.counts()
    assert counts["lost"] == 2
    assert counts["repeated"] == 1
    assert counts["message_malformed"] == 2
    assert counts["hand_malformed"] == 1
    assert counts["programs"] == 2
    assert counts["mixed"] == 2
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert len(told) == 4  # once for each kind
    assert any("two programs" in text for text in told)


def test_a_program_that_is_new_with_each_frame_does_not_fill_the_log(driver, caplog) -> None:
    caplog.set_level("INFO", "hgr_drivers")
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(driver.options.endpoint)
    for i in range(12):
        socket.send(msgpack.packb({"source": f"{i}", "hands": []}))
        assert driver.read(5.0) is not None
    socket.close(0)
    told = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert told == ["a program publishes here", "the 10th program publishes here"]
    assert driver.counts()["programs"] == 12


def test_a_busy_endpoint_is_named(driver) -> None:
    with pytest.raises(DeviceError, match="in use") as caught:
        ProgramDriver(driver.options).open()
    assert "another endpoint" in caught.value.cure
    assert "[gateway]" not in str(caught.value)  # its port is not what is in the way


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:6460", "tcp://192.168.1.5:6460", "udp://x"])
def test_only_loopback_is_listened_on(endpoint) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        convert({"endpoint": endpoint}, ProgramOptions, "[devices.program]")


@given(
    st.one_of(
        st.binary(max_size=400),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["hands", "joints", "side", "seq", "source", "layout", "id", "x"]
                    ),
                    inner,
                    max_size=6,
                )
            ),
            max_leaves=20,
        ).map(msgpack.packb),
    )
)
def test_any_bytes_give_a_frame_or_the_one_error(data) -> None:
    with contextlib.suppress(MessageError):
        for hand in decode_program_frame(data).hands:
            assert hand.array().shape == (22, 3)


def test_absurd_numbers_are_the_segmenters_to_refuse() -> None:
    data = msgpack.packb({"hands": [{"joints": [1e300] * 66}]})
    assert np.isinf(decode_program_frame(data).hands[0].array()[0, 0])


@pytest.fixture(scope="module")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    if not (JS / "node_modules").is_dir():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed")
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts"], cwd=JS, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"npm ci: {done.stderr.strip()[-200:]}")
    return found


def test_a_program_in_javascript_is_a_device_of_the_daemon(tmp_path, node) -> None:
    port = free_port()
    config = f'[devices.js]\ndriver = "program"\nendpoint = "tcp://127.0.0.1:{port}"\n'
    with (
        contextlib.closing(Daemon(tmp_path, config)) as daemon,
        Stream(("frame/",), daemon.endpoint) as stream,
    ):
        program = subprocess.Popen(
            [node, "publish.mjs", f"tcp://127.0.0.1:{port}", "150", "5000"], cwd=JS
        )
        frames = []
        end_s = time.monotonic() + 30
        while len(frames) < 100 and time.monotonic() < end_s:
            received = next(stream)
            if received is not None:
                frames.append(decode(Frame, received.payload))
        assert program.wait(10) == 0
        counts = daemon.status()["driver.js"].counts
    frames = [f for f in frames if f.hands]
    assert len(frames) >= 99
    assert {f.device for f in frames} == {"js"}
    xs = np.array([f.hands[0].array()[0, 0] for f in frames])
    np.testing.assert_allclose(xs, 0.2 * np.sin([f.index / 30 for f in frames]), atol=1e-6)
    steps = np.diff([f.device_ns for f in frames])
    assert (steps == 10_000_000).all()
    assert counts.get("lost", 0) == 0
    assert counts.get("message_malformed", 0) == 0
