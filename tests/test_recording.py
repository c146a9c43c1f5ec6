"""Recordings: what goes in comes out, whatever happens to the writer or to the file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter

from hgr_stream import recording_info
from hgr_stream.messages import (
    Event,
    Frame,
    Hand,
    Status,
    Truth,
    Window,
    encode,
    joint_bytes,
)
from hgr_stream.recording import Reader, RecordingError, Writer, recover
from hgr_stream.recording_info import info
from hgr_stream.skeleton import bone_lengths
from hgr_stream.stream import topics

MS = 1_000_000
STEP = 8_333_333  # 120 Hz


def a_hand(scale: float = 1.0, id: int = 7, side: str = "right") -> Hand:
    joints = np.arange(66, dtype=np.float32).reshape(22, 3) * np.float32(0.003 * scale)
    return Hand(id, side, joint_bytes(joints), 0.5)  # type: ignore[arg-type]


def a_frame(i: int, **changed: object) -> Frame:
    fields: dict[str, object] = {
        "device": "leap",
        "boot_id": "b1",
        "seq": i,
        "time_ns": 1_000 * MS + i * STEP,
        "device_ns": 5 + i,
        "host_ns": 9 + i,
        "wall_ns": 1_700_000_000_000_000_000 + i,
        "sent_ns": 10 + i,
        "index": 100 + i,
        "hands": [a_hand(1 + i / 100)],
        **changed,
    }
    return Frame(**fields)  # type: ignore[arg-type]


def a_window() -> Window:
    return Window("leap", "right", "right", "t", 0, 1, 2, 3, joint_bytes(np.zeros((2, 22, 3))))


def an_event(kind: str, label: str = "TAP") -> Event:
    return Event("e1", kind, label, "leap", "right", "right", 1, 2, 0.9)  # type: ignore[arg-type]


def all_kinds() -> list[tuple[str, bytes]]:
    messages = [
        a_frame(0),
        a_window(),
        an_event("begin"),
        an_event("confirmed"),
        Truth("leap", "right", "TAP", 1, 2),
        Status("worker", "b", "up", 1, 2),
    ]
    return [(topics.of(m), encode(m)) for m in messages]  # type: ignore[arg-type]


def write_frames(path: Path, n: int, **changed: object) -> list[bytes]:
    payloads = [encode(a_frame(i, **changed)) for i in range(n)]
    with Writer(path) as writer:
        for i, payload in enumerate(payloads):
            writer.write("frame/leap", payload, 1_000 + i, 1_000 + i, i)
    return payloads


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[bytes]]:
    """A recording of many small chunks, as its bytes, and the messages in it."""
    path = tmp_path_factory.mktemp("cut") / "whole.mcap"
    payloads = [encode(a_frame(i)) for i in range(60)]
    with Writer(path) as writer:
        for i, payload in enumerate(payloads):
            writer.write("frame/leap", payload, i, i, i)
            writer.tick(i * 0.1)
    return path.read_bytes(), payloads


def test_round_trip_is_exact_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    sent = all_kinds()
    with Writer(path) as writer:
        for i, (topic, payload) in enumerate(sent):
            writer.write(topic, payload, 10 + i, 20 + i, 30 + i)
    got = list(Reader(path).messages())
    assert [(m.topic, m.payload) for m in got] == sent
    assert [(m.log_time_ns, m.publish_time_ns, m.sequence) for m in got] == [
        (10 + i, 20 + i, 30 + i) for i in range(len(sent))
    ]
    assert [m.schema for m in got[:3]] == ["hgr.Frame", "hgr.Window", "hgr.Event"]
    assert list(Reader(path)) == [a_frame(0)]
    assert list(Reader(path).truths()) == [Truth("leap", "right", "TAP", 1, 2)]


def test_prefixes_select_topics(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mcap") as writer:
        for topic, payload in all_kinds():
            writer.write(topic, payload, 1, 1)
    reader = Reader(tmp_path / "a.mcap")
    assert {m.topic for m in reader.messages("window/", "status/")} == {
        "window/leap/right",
        "status/worker",
    }
    assert list(reader.messages("frame/leapfrog")) == []


def test_any_messagepack_library_and_any_mcap_reader_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Writer(path, source="a test") as writer:
        writer.write("frame/leap", encode(a_frame(3)), 1, 1)
    with path.open("rb") as file:
        reader = make_reader(file)
        [(schema, channel, message)] = list(reader.iter_messages())
        [metadata] = list(reader.iter_metadata())
    assert channel.message_encoding == "msgpack"
    fields = msgpack.unpackb(message.data)
    assert fields["index"] == 103
    joints = np.frombuffer(fields["hands"][0]["joints"], "<f4").reshape(22, 3)
    assert np.array_equal(joints, a_hand(1.03).array())
    assert schema is not None
    assert (schema.name, schema.encoding) == ("hgr.Frame", "jsonschema")
    assert "hands" in json.loads(schema.data)["$defs"]["Frame"]["properties"]
    assert metadata.metadata["source"] == "a test"
    assert set(metadata.metadata) == {"version", "created", "source"}


def test_record_takes_publish_time_and_sequence_from_the_message(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mcap") as writer:
        writer.record("frame/leap", encode(a_frame(5)), 77)
        writer.record("frame/leap", b"\xc1 no message", 78)
    good, bad = Reader(tmp_path / "a.mcap").messages()
    assert (good.publish_time_ns, good.sequence) == (a_frame(5).wall_ns, 5)
    assert (bad.publish_time_ns, bad.sequence, bad.payload) == (78, 0, b"\xc1 no message")


def test_times_and_sequences_that_the_container_has_not(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.mcap") as writer:
        writer.write("frame/leap", encode(a_frame(0, time_ns=-5)), -5, -5, 2**32 + 3)
    [message] = Reader(tmp_path / "a.mcap").messages()
    assert (message.log_time_ns, message.publish_time_ns, message.sequence) == (0, 0, 3)
    assert [f.time_ns for f in Reader(tmp_path / "a.mcap")] == [-5]


def test_messages_come_in_log_order(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Writer(path) as writer:
        for i in (3, 1, 2, 0):
            writer.write("frame/leap", encode(a_frame(i)), i, i)
            writer.flush()
    assert [f.seq for f in Reader(path)] == [0, 1, 2, 3]
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    assert [f.seq for f in Reader(path)] == [0, 1, 2, 3]


def test_does_not_overwrite_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_frames(path, 3)
    with pytest.raises(RecordingError, match=r"a\.mcap exists; --force overwrites it"):
        Writer(path)
    assert len(list(Reader(path))) == 3
    with Writer(path, force=True):
        pass
    assert list(Reader(path)) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no/such/a\.mcap: No such file or directory"):
        Writer(tmp_path / "no/such/a.mcap")


def test_flush_follows_the_callers_clock(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    writer = Writer(path, flush_s=0.25)
    writer.tick(100.0)
    writer.write("frame/leap", encode(a_frame(0)), 0, 0)
    writer.tick(100.24)
    assert list(Reader(path)) == []
    writer.tick(100.25)
    assert [f.seq for f in Reader(path)] == [0]
    writer.write("frame/leap", encode(a_frame(1)), 1, 1)
    writer.tick(3.0)  # the clock was set back: flushing goes on
    assert [f.seq for f in Reader(path)] == [0, 1]
    writer.close()
    writer.close()
    assert Reader(path).indexed


WRITE_AT_120_HZ = """
    import os, sys, time
    from pathlib import Path
    from hgr_stream.messages import encode
    from hgr_stream.recording import Writer
    from tests.test_recording import a_frame

    writer = Writer(Path(sys.argv[1]))
    began = time.monotonic()
    i = 0
    while True:
        now = time.monotonic()
        while i < (now - began) * 120:
            payload = encode(a_frame(i))
            writer.write("frame/leap", payload, time.monotonic_ns(), 0, i)
            i += 1
            os.write(1, b".")
        writer.tick(now)
        time.sleep(0.004)
"""


def test_a_kill_costs_a_quarter_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.mcap"
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITE_AT_120_HZ), str(path)],
        cwd=root,
        stdout=subprocess.PIPE,
    )
    try:
        give_up_s = time.monotonic() + 30
        while not path.exists() and time.monotonic() < give_up_s:
            time.sleep(0.01)
        time.sleep(1.6)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        written = len(child.communicate()[0])  # a dot for each message
    reader = Reader(path)
    got = list(reader.messages())
    assert [m.sequence for m in got] == list(range(len(got)))
    assert len(got) > 100
    assert written - len(got) <= 0.25 * 120
    assert reader.notes == ["not closed: cut short, or still being written"]

    n, notes = recover(path, tmp_path / "whole.mcap")
    assert (n, notes) == (len(got), reader.notes)
    whole = Reader(tmp_path / "whole.mcap")
    assert whole.indexed
    assert list(whole.messages()) == got


def test_a_long_recording_that_was_cut_is_not_held_in_memory(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "cut.mcap")
    for i in range(10_000):
        writer.write("frame/leap", b"", 10**18 + i, 0)
        if i % 100 == 99:
            writer.flush()
    tracemalloc.start()
    assert sum(1 for _ in Reader(writer.path).messages()) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.close()
    assert peak < 250_000  # their times alone would take 400,000


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fraction=st.floats(0, 1))
def test_cut_anywhere_it_gives_a_prefix(
    tmp_path: Path, chunked: tuple[bytes, list[bytes]], fraction: float
) -> None:
    whole, payloads = chunked
    path = tmp_path / "cut.mcap"
    cut = int(len(whole) * fraction)
    path.write_bytes(whole[:cut])
    reader = Reader(path)
    got = [m.payload for m in reader.messages()]
    assert got == payloads[: len(got)]
    if cut < len(whole):
        assert reader.notes
    # Chunks of 2: at most those of the chunk that was cut, and its neighbour, are missing.
    assert len(got) >= 60 * (cut - 3000) / len(whole) - 6
    found = info(path)
    assert found.frames == len(got)
    if not got:
        with pytest.raises(RecordingError, match="holds no message to recover"):
            recover(path, tmp_path / "recovered.mcap", force=True)
        return
    n, _ = recover(path, tmp_path / "recovered.mcap", force=True)
    assert [m.payload for m in Reader(tmp_path / "recovered.mcap").messages()] == got
    assert n == len(got)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_altered_bytes_never_crash_nor_invent(
    tmp_path: Path, chunked: tuple[bytes, list[bytes]], data: st.DataObject
) -> None:
    whole, payloads = chunked
    damaged = bytearray(whole)
    start = data.draw(st.integers(8, len(whole) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=40))
    damaged[start : start + len(junk)] = junk
    path = tmp_path / "damaged.mcap"
    path.write_bytes(bytes(damaged))
    reader = Reader(path)
    got = [m.payload for m in reader.messages()]
    assert set(got) <= set(payloads)
    assert len(got) == len(payloads) or reader.notes
    assert info(path).messages == len(got)


def test_one_damaged_chunk_costs_only_itself(
    tmp_path: Path, chunked: tuple[bytes, list[bytes]]
) -> None:
    whole, payloads = chunked
    path = tmp_path / "damaged.mcap"
    at = whole.index(b"\x28\xb5\x2f\xfd", len(whole) // 3) + 12  # inside a zstd frame
    path.write_bytes(whole[:at] + b"\xff\x00\xff\x00" + whole[at + 4 :])
    reader = Reader(path)
    got = [m.payload for m in reader.messages()]
    assert 60 - 4 <= len(got) < 60
    assert got == [p for p in payloads if p in set(got)]
    assert any("damaged chunk" in note for note in reader.notes)


@pytest.mark.parametrize("content", [b"not an MCAP file at all", b"\x89PNG\r\n\x1a\n", b"{}"])
def test_what_is_no_mcap_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(content)
    for use in (Reader, info, lambda p: recover(p, tmp_path / "out.mcap")):
        with pytest.raises(RecordingError, match=r"x\.mcap: not an MCAP recording"):
            use(path)
    assert not (tmp_path / "out.mcap").exists()


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        Reader(tmp_path / "none.mcap")
    with pytest.raises(RecordingError, match="directory"):
        Reader(tmp_path)


def test_a_file_cut_before_its_first_message_is_an_empty_recording(tmp_path: Path) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(b"\x89MCA")
    found = info(path)
    assert (found.messages, found.frames, found.indexed) == (0, 0, False)
    assert found.notes


def test_empty_recording(tmp_path: Path) -> None:
    path = tmp_path / "empty.mcap"
    with Writer(path, source="nothing"):
        pass
    found = info(path)
    assert (found.messages, found.frames, found.devices, found.notes) == (0, 0, [], [])
    assert found.metadata["source"] == "nothing"
    nothing = tmp_path / "nothing.mcap"
    nothing.touch()
    (tmp_path / "there.mcap").write_text("precious")
    for source in (path, nothing):
        with pytest.raises(RecordingError, match="holds no message to recover"):
            recover(source, tmp_path / "there.mcap", force=True)
    assert (tmp_path / "there.mcap").read_text() == "precious"


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2")
        schema = writer.register_schema("geometry/Pose", "ros2msg", b"float64 x")
        pose = writer.register_channel("/pose", "cdr", schema, {"qos": "best"})
        other = writer.register_channel("frame/leap", "json", 0)
        for i in range(5):
            writer.add_message(pose, i, b"\x00\x01" * i, i, i)
        writer.add_message(other, 9, b'{"device": "leap"}', 9)
        writer.finish()


def test_an_mcap_of_others_is_told_not_mistaken(tmp_path: Path) -> None:
    path = tmp_path / "ros.mcap"
    foreign(path)
    reader = Reader(path)
    assert list(reader) == []
    assert reader.bad == {"frame/leap: json encoding": 1}
    found = info(path)
    assert [(t.topic, t.messages, t.schema) for t in found.topics] == [
        ("/pose", 5, "geometry/Pose"),
        ("frame/leap", 1, ""),
    ]
    assert found.frames == 0
    assert found.bad_messages == {"frame/leap: json encoding": 1}


def test_recover_keeps_what_others_wrote(tmp_path: Path) -> None:
    foreign(tmp_path / "ros.mcap")
    recover(tmp_path / "ros.mcap", tmp_path / "out.mcap")
    with (tmp_path / "out.mcap").open("rb") as file:
        got = list(make_reader(file).iter_messages())
    schema, channel, message = got[4]
    assert schema is not None
    assert (schema.name, schema.encoding, schema.data) == ("geometry/Pose", "ros2msg", b"float64 x")
    assert (channel.topic, channel.message_encoding) == ("/pose", "cdr")
    assert channel.metadata == {"qos": "best"}
    assert (message.data, message.sequence) == (b"\x00\x01" * 4, 4)


def test_recordings_one_behind_the_other_are_read_as_one(tmp_path: Path) -> None:
    first, second, both = (tmp_path / f"{name}.mcap" for name in ("first", "second", "both"))
    payloads = write_frames(first, 3)
    with Writer(second) as writer:  # another topic has the same channel number there
        writer.write("gesture/leap/right/TAP", encode(an_event("begin")), 2_000, 2_000)
    both.write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
    reader = Reader(both)
    got = [(m.topic, m.payload) for m in reader.messages()]
    event = ("gesture/leap/right/TAP", encode(an_event("begin")))
    twice = [("frame/leap", p) for p in payloads for _ in range(2)]  # their times are the same
    assert got == [*twice, event]
    assert reader.notes == ["3 recordings one behind the other, read as one"]
    assert recover(both, tmp_path / "out.mcap") == (7, reader.notes)
    assert [(m.topic, m.payload) for m in Reader(tmp_path / "out.mcap").messages()] == got


def test_what_is_behind_a_recordings_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_frames(path, 3)
    path.write_bytes(path.read_bytes() + bytes(100))
    reader = Reader(path)
    assert len(list(reader)) == 3
    assert reader.notes == ["the last 100 bytes are of no recording, left out"]


def test_recover_refuses_its_own_file_and_an_existing_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write_frames(path, 3)
    with pytest.raises(RecordingError, match="into itself"):
        recover(path, path, force=True)
    write_frames(tmp_path / "b.mcap", 1)
    with pytest.raises(RecordingError, match="exists"):
        recover(path, tmp_path / "b.mcap")
    assert len(list(Reader(path))) == 3


def test_frames_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with Writer(path) as writer:
        for i, payload in enumerate(
            [
                encode(a_frame(0)),
                b"",
                b"\xc1",
                encode(a_frame(1))[:50],
                encode(a_frame(2, v=9)),
                encode(a_frame(3, hands=[Hand(1, "left", b"short")])),
                encode(a_frame(4)),
            ]
        ):
            writer.write("frame/leap", payload, i, i)
    reader = Reader(path)
    assert [f.seq for f in reader] == [0, 4]
    assert reader.bad.total() == 5
    assert any("schema version 9" in reason for reason in reader.bad)
    assert len(reader.notes) == len(reader.bad)
    assert sum(int(note.split(" unreadable: frame/leap: ")[0]) for note in reader.notes) == 5
    found = info(path)
    assert found.frames == 2
    assert sum(found.bad_messages.values()) == 5


def test_info_tells_gaps_losses_time_and_hands(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    glitch = np.full((22, 3), 15, np.float32)
    nan = a_hand().array().copy()
    nan[3, 1] = np.nan
    frames = [
        *(a_frame(i) for i in range(10)),
        *(a_frame(i) for i in range(14, 20)),  # 4 lost, a gap of 5 periods
        a_frame(20, time_ns=a_frame(5).time_ns),  # time runs back, then jumps forward
        a_frame(21),
        a_frame(21, time_ns=a_frame(21).time_ns),  # twice the same
        a_frame(22, hands=[]),
        a_frame(23, hands=[Hand(8, "right", joint_bytes(glitch)), a_hand(id=3, side="left")]),
        a_frame(24, hands=[Hand(8, "right", joint_bytes(nan))]),
        a_frame(0, boot_id="b2", time_ns=a_frame(25).time_ns),
        a_frame(0, boot_id="b2", time_ns=0, seq=1, hands=[], end=True),
    ]
    with Writer(path) as writer:
        for i, frame in enumerate(frames):
            writer.write("frame/leap", encode(frame), i, i)
        writer.write("window/leap/right", encode(a_window()), 90, 90)
        for kind in ("begin", "confirmed"):
            writer.write("gesture/leap/right/TAP", encode(an_event(kind)), 91, 91)
        writer.write("truth/leap", encode(Truth("leap", "right", "TAP", 1, 2)), 92, 92)
    found = info(path)
    [device] = found.devices
    assert device.frames == found.frames == len(frames) - 1
    assert device.rate_hz == pytest.approx(120, abs=0.01)
    assert device.lost == 4
    assert device.out_of_order == 1
    assert device.boots == 2
    assert device.gaps == 2
    assert device.longest_gap_s == pytest.approx(16 * STEP / 1e9)
    assert device.time_backwards == 1
    assert device.time_standing == 1
    assert device.frames_without_hand == 1
    assert device.bad_joints == 2
    assert device.slots == {"right": 1}
    left, right = device.hands
    assert (left.side, left.ids, left.frames) == ("left", [3], 1)
    assert right.ids == [7, 8]
    assert right.share == pytest.approx((device.frames - 1) / device.frames)
    assert right.bone_median_mm["index_first"] == pytest.approx(1e3 * 0.009 * np.sqrt(3), rel=0.2)
    assert 0 < right.bone_cv["index_first"] < 0.1
    assert found.events == {"TAP": {"begin": 1, "confirmed": 1}}
    assert found.truths == {"TAP": 1}


def test_the_bones_of_a_long_recording_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.mcap"
    with Writer(path) as writer:
        for i in range(1000):
            frame = a_frame(i, hands=[a_hand(1 + i / 1000)])
            writer.write("frame/leap", encode(frame), frame.time_ns, frame.time_ns, i)
    [whole] = info(path).devices[0].hands
    kept = []

    def counted(joints: np.ndarray) -> np.ndarray:
        kept.append(joints)
        return bone_lengths(joints)

    monkeypatch.setattr(recording_info, "bone_lengths", counted)
    monkeypatch.setattr(recording_info, "MOST_BONES", 100)
    [sampled] = info(path).devices[0].hands
    assert len(kept) < 400
    assert sampled.frames == whole.frames == 1000
    for bone, median_mm in whole.bone_median_mm.items():
        assert sampled.bone_median_mm[bone] == pytest.approx(median_mm, rel=0.02)
        assert sampled.bone_cv[bone] == pytest.approx(whole.bone_cv[bone], rel=0.05)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(times=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_info_bears_absurd_stamps(tmp_path: Path, times: list[int]) -> None:
    with Writer(tmp_path / "a.mcap", force=True) as writer:
        for i, t in enumerate(times):
            frame = a_frame(i, time_ns=t)
            writer.write("frame/leap", encode(frame), t, t, i)
    [device] = info(tmp_path / "a.mcap").devices
    assert device.frames == len(times)
    assert device.duration_s == (max(times) - min(times)) / 1e9
