"""Every reader of foreign files against wrong ones: the documented error or nothing, in bounded
time and memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hgr_stream.datasets.arrays import load_array
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import FORMATS, Format, guess_format, open_recordings
from hgr_stream.datasets.files import FREE_ITEMS, MIN_ITEM_BYTES, Faults, json_items, whole_items
from hgr_stream.datasets.leapjs import load_leapjs
from hgr_stream.datasets.mediapipe import load_mediapipe
from hgr_stream.messages import Frame, Hand, encode, joint_bytes
from hgr_stream.messages import decode as decode_message
from hgr_stream.recording import _CHUNK_HEAD, Reader, RecordingError, Writer, recover
from hgr_stream.recording_info import info
from tests import foreign_files as foreign
from tests.hands import MS, hand_joints
from tests.leap_frames import texts
from tests.mutations import mutated


def rows(columns: int, separator: str, n: int = 6, head: Callable[[int], str] | None = None) -> str:
    lines = []
    for i in range(n):
        values = [f"{0.01 * j + 0.001 * i:.4f}" for j in range(columns)]
        lines.append(separator.join([*([head(i)] if head else []), *values]))
    return "\n".join(lines) + "\n"


def npz() -> bytes:
    out = io.BytesIO()
    points = np.arange(5 * 60, dtype=np.float32).reshape(5, 20, 3)
    np.savez_compressed(out, seq_001=points, seq_002=points.astype(np.float64))
    return out.getvalue()


def own_hand() -> np.ndarray:
    return np.stack([hand_joints(0.01 * i) for i in range(4)])


def saved(save: Callable[..., None], *arrays: np.ndarray, **options: str) -> bytes:
    out = io.BytesIO()
    save(out, *arrays, **options)
    return out.getvalue()


def mcap(path: Path) -> bytes:
    with Writer(path, force=True) as writer:
        for i in range(12):
            hand = Hand(1, "right", joint_bytes(hand_joints(0.01 * i)))
            frame = Frame("d", "b", i, i * 10 * MS, 0, 0, 0, 0, hands=[hand])
            writer.write("frame/d", encode(frame), frame.time_ns, 0)
            if i % 4 == 3:
                writer.flush()
    return path.read_bytes()


def packed_leap() -> str:
    """LeapJS's formatVersion 2."""
    frame = json.loads(texts(1, (7, "right"))[0])

    def structure(of: Any) -> Any:
        return [
            {key: [structure(value[0])]}
            if isinstance(value, list) and value[:1] and isinstance(value[0], dict)
            else key
            for key, value in of.items()
        ]

    def row(of: Any) -> Any:
        return [
            [row(item) for item in value]
            if isinstance(value, list) and value[:1] and isinstance(value[0], dict)
            else value
            for value in of.values()
        ]

    return json.dumps(
        {"metadata": {"formatVersion": 2}, "frames": [structure(frame), row(frame), row(frame)]}
    )


FILES: dict[str, tuple[Format, str, bytes]] = {
    "alphapose": ("alphapose", "a.json", json.dumps(foreign.alphapose(3)).encode()),
    "mmpose": ("alphapose", "a.json", json.dumps(foreign.mmpose(3)).encode()),
    "openpose": (
        "openpose",
        foreign.openpose_name(3),
        foreign.openpose(
            foreign.openpose_person(foreign.flat_hand(), foreign.flat_hand(side="left")),
            foreign.openpose_person(foreign.flat_hand(at=(90, 90)), person_id=4),
        ).encode(),
    ),
    **{
        f"mediapipe-{api}": (
            "mediapipe",
            "a.json",
            json.dumps(foreign.mediapipe(3, api=api)).encode(),
        )
        for api in ("tasks", "js", "legacy", "legacy-js")
    },
    "mediapipe-lines": (
        "mediapipe",
        "a.jsonl",
        "\n".join(map(json.dumps, foreign.mediapipe(3))).encode(),
    ),
    "openxr-json": ("openxr", "a.json", json.dumps(foreign.openxr_json(3)).encode()),
    "openxr-csv": ("openxr", "a.csv", foreign.openxr_csv(4).encode()),
    "bvh": ("bvh", "a.bvh", foreign.bvh(3).encode()),
    "bvh-six": ("bvh", "a.bvh", foreign.bvh(3, six=True).encode()),
    "leapjs": ("leapjs", "a.json", f"[{','.join(texts(3, (7, 'right'), (8, 'left')))}]".encode()),
    "leapjs-packed": ("leapjs", "a.json", packed_leap().encode()),
    "leapjs-gz": ("leapjs", "a.json.gz", gzip.compress(packed_leap().encode())),
    "shrec17": ("shrec17", "skeletons_world.txt", rows(66, " ").encode()),
    "shrec21": ("shrec21", "1.txt", rows(140, ";").encode()),
    "shrec22": ("shrec22", "1.txt", rows(78, ";", head=lambda i: f"{i};{0.05 * i:.3f}").encode()),
    "npz": ("shrec21", "positions.npz", npz()),
    "own-npy": ("arrays", "a.npy", saved(np.save, own_hand())),
    "own-npz": ("arrays", "a.npz", saved(np.savez, own_hand(), own_hand()[:2])),
    "own-csv": ("arrays", "a.csv", saved(np.savetxt, own_hand().reshape(4, -1), delimiter=",")),
}


def read_all(path: Path, format_: Format | None) -> int:
    """How many frames came out; only the documented errors may be raised."""
    n, fault = 0, ""
    try:
        for recording in open_recordings([path], format_):
            for frame in recording.frames:
                # What came out is fit for the stream, to the last joint.
                assert decode_message(Frame, encode(frame)) == frame
                assert all(np.isfinite(hand.array()).all() for hand in frame.hands)
                n += 1
            assert all("\n" not in note and len(note) < 1000 for note in recording.notes)
    except (DatasetError, RecordingError) as error:
        fault = str(error)
    assert "\n" not in fault
    assert len(fault) < 1500
    return n


#: Nobody at a terminal is to read of overflows in casts.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def test_a_note_quotes_no_more_of_a_file_than_a_line() -> None:
    faults = Faults()
    faults.add("frames unreadable", "[" * 5000)
    faults.add("frames unreadable", "short")
    (note,) = faults.notes()
    assert note.startswith("2 frames unreadable; first: [[[")
    assert len(note) < 300


@pytest.mark.parametrize("name", FILES)
def test_the_unharmed_file_is_read(tmp_path: Path, name: str) -> None:
    format_, file, data = FILES[name]
    (tmp_path / file).write_bytes(data)
    assert read_all(tmp_path / file, format_) > 0
    assert guess_format(tmp_path / file) == format_


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_mutations_of_a_valid_file(tmp_path: Path, name: str, data: st.DataObject) -> None:
    format_, file, valid = FILES[name]
    (tmp_path / file).write_bytes(data.draw(mutated(valid)))
    began_s = time.monotonic()
    read_all(tmp_path / file, format_)
    read_all(tmp_path / file, None)
    assert time.monotonic() - began_s < 20


@FUZZ
@given(noise=st.binary(max_size=300), format_=st.sampled_from([*FORMATS, None]))
def test_noise(tmp_path: Path, noise: bytes, format_: Format | None) -> None:
    (tmp_path / "a.json").write_bytes(noise)
    read_all(tmp_path / "a.json", format_)


@FUZZ
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    ),
    data=st.data(),
)
def test_any_value_in_any_place_of_json(tmp_path: Path, value: Any, data: st.DataObject) -> None:
    """One place of a valid file holds something else."""
    name = data.draw(st.sampled_from([n for n, (_, file, _) in FILES.items() if file == "a.json"]))
    format_, file, valid = FILES[name]
    tree = json.loads(valid)
    place: Any = tree
    for _ in range(data.draw(st.integers(1, 8))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)):
            break
        if data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    (tmp_path / file).write_text(json.dumps(tree))
    read_all(tmp_path / file, format_)


@FUZZ
@given(data=st.data())
def test_mutations_of_annotations(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "1.txt").write_bytes(FILES["shrec22"][2])
    valid = b"1;TAP;0;2;GRAB;3;5;\n2;TAP;1;2;\n"
    (tmp_path / "annotations.txt").write_bytes(data.draw(mutated(valid)))
    read_all(tmp_path, "shrec22")


@FUZZ
@given(data=st.data())
def test_mutations_of_a_recording(tmp_path: Path, data: st.DataObject) -> None:
    valid = mcap(tmp_path / "valid.mcap")
    path = tmp_path / "a.mcap"
    path.write_bytes(data.draw(mutated(valid)))
    read_all(path, "mcap")
    try:
        found = info(path)
        messages, _ = recover(path, tmp_path / "b.mcap", force=True)
        assert messages == found.messages
    except RecordingError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - either outcome is right


# ---- bombs: small files that ask for much --------------------------------------------------------


def gzip_bomb(mib: int, inner: bytes = b"[") -> bytes:
    packer = zlib.compressobj(wbits=31)
    out = packer.compress(inner)
    block = b" " * (1 << 20)
    for _ in range(mib):
        out += packer.compress(block)
    return out + packer.flush()


def npz_bomb(mib: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("seq_001.npy", npy((mib * 1024 * 1024 // 240, 20, 3)) + bytes(mib << 20))
    return out.getvalue()


def npy(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """The head alone."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def npz_lie(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("seq_001.npy", npy(shape, dtype) + bytes(240))
    return out.getvalue()


def people_bomb(n: int) -> bytes:
    person = foreign.openpose_person(foreign.flat_hand())
    return foreign.openpose(*[person] * n).encode()


DEEP = b"[" * 300_000
JSON_BOMBS = {
    "nested lists": DEEP,
    "nested objects": b'{"a":' * 60_000,
    "nested frames": b'{"frames":' + DEEP,
    "closed nesting": b"[" * 60_000 + b"]" * 60_000,
    "quotes in an open string": b'["' + b'\\"' * 60_000,
    "open strings": b'["' * 60_000,
    "empty items": b"[" + b"[]," * 60_000 + b"[]]",
    "empty objects": b"[" + b"{}," * 60_000 + b"{}]",
    "cut empty objects": b"[" + b"{}," * 60_000,
    "a long number": b'[{"frame":' + b"9" * 300_000 + b"}]",
    "numbers": b"[" + b"1e5," * 60_000 + b"1]",
    "many lines": b"{}\n" * 20_000,
    "gzip": gzip_bomb(400),
}


@pytest.mark.parametrize("format_", ["alphapose", "leapjs", "mediapipe", "openpose", "openxr"])
@pytest.mark.parametrize("bomb", JSON_BOMBS)
def test_json_bombs(tmp_path: Path, format_: Format, bomb: str) -> None:
    path = tmp_path / "a_1_keypoints.json"
    path.write_bytes(JSON_BOMBS[bomb])
    _within(path, format_)


TINY = 2_000_000
TINY_ITEMS = {
    "numbers": b"[" + b"0," * TINY + b"0]",
    "numbers in an object": b'{"frames": [' + b"0," * TINY + b"0]}",
    "numbers after a string": b'["[\\"",' + b"0," * TINY + b"0]",
    "lines": b"{}\n" * TINY,
}


@pytest.mark.parametrize("load", [load_leapjs, load_mediapipe])
@pytest.mark.parametrize("bomb", TINY_ITEMS)
def test_many_tiny_items_are_refused_before_they_are_made(
    tmp_path: Path, bomb: str, load: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TINY_ITEMS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=r"a\.json"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_cut_list_of_tiny_items_gives_the_first_of_them() -> None:
    text = b"[" + b"[]," * 800_000
    items, whole = whole_items(text)
    assert (len(items), whole) == (len(text) // MIN_ITEM_BYTES, False)


def test_a_list_too_long_for_its_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(TINY_ITEMS["numbers"])
    for load in (load_leapjs, load_mediapipe):
        with pytest.raises(DatasetError, match=r"a\.json: a list of 2,000,001 items in"):
            load(path)


def test_only_the_lists_own_items_count(tmp_path: Path) -> None:
    item = rb'{"a":[1,2,3,4,5,6,7,8],"b":{"c":"[,,\",","d":"\\\\"},"e":"{"}'
    n = 20_000
    assert n < FREE_ITEMS < n * item.count(b",")
    for text in (
        b"[" + b",".join([item] * n) + b"]",
        b'{"frames":[' + b",".join([item] * n) + b"]}",
    ):
        (tmp_path / "a.json").write_bytes(text)
        notes: list[str] = []
        assert json_items(tmp_path / "a.json", notes, ("frames",)).items == [item] * n
        assert notes == []


OTHER_BOMBS: dict[str, tuple[Format, str, bytes]] = {
    "npz": ("shrec21", "positions.npz", npz_bomb(150)),
    "npz with a huge shape": ("shrec21", "positions.npz", npz_lie((2**40, 20, 3))),
    "npz with an empty dtype": ("shrec21", "positions.npz", npz_lie((2**40, 20, 3), "|V0")),
    "npz of objects": ("shrec21", "positions.npz", npz_lie((1, 20, 3), "|O")),
    "bvh of nested joints": (
        "bvh",
        "a.bvh",
        b"HIERARCHY\n" + b"JOINT LeftHandIndex1\n{\n" * 20_000,
    ),
    "bvh of joints in a row": (
        "bvh",
        "a.bvh",
        b"HIERARCHY\nROOT a\n{\n" + b"JOINT LeftHandIndex1\n{\n}\n" * 20_000,
    ),
    "csv of one long field": (
        "openxr",
        "a.csv",
        foreign.openxr_csv(1).encode() + b'0.5,right,"' + b"1" * 1_000_000,
    ),
    "csv of many columns": ("openxr", "a.csv", b"wrist_x," * 60_000 + b"\n" + b"1," * 60_000),
    "marks": ("shrec22", "1.txt", FILES["shrec22"][2]),
    "people": ("openpose", "a_1_keypoints.json", people_bomb(500)),
}


@pytest.mark.parametrize("name", OTHER_BOMBS)
def test_other_bombs(tmp_path: Path, name: str) -> None:
    format_, file, data = OTHER_BOMBS[name]
    (tmp_path / file).write_bytes(data)
    if name == "marks":
        (tmp_path / "annotations.txt").write_text("1;" + "TAP;0;5;" * 100_000)
    _within(tmp_path / file, format_)


def _within(path: Path, format_: Format, *, most_mib: int = 300, most_s: float = 30) -> None:
    """At most so much memory and time. 300 MiB: a guard against gigabytes, not a figure."""
    tracemalloc.start()
    try:
        began_s = time.monotonic()
        read_all(path, format_)
        assert time.monotonic() - began_s < most_s
        assert tracemalloc.get_traced_memory()[1] < most_mib << 20
    finally:
        tracemalloc.stop()


def test_arrays_that_lie_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for data in (npy((2**40, 3)), npy((3,), "|O"), b"\x93NUMPY\x09\x00", b"\x93NUMPY"):
        path.write_bytes(data)
        with pytest.raises(DatasetError, match=r"a\.npy"):
            load_array(path)
    np.save(path, np.ones((4, 3)))
    assert load_array(path).shape == (4, 3)
    np.savez(path.with_suffix(".npz"), a=np.ones((4, 3)))
    assert load_array(path.with_suffix(".npz")).shape == (4, 3)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_recording_with_a_chunk_that_explodes(tmp_path: Path, indexed: bool) -> None:
    """A chunk of 1 GiB of zeros is 33 kB of zstd; it is left out, and the rest is read."""
    import zstandard

    path = tmp_path / "a.mcap"
    data = mcap(path)
    n_frames = len(list(Reader(path)))
    packer = zstandard.ZstdCompressor().compressobj(size=1 << 30)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    # The second chunk: the first one also says which topics there are.
    start = data.index(b"zstd", data.index(b"zstd") + 4) - _CHUNK_HEAD.size
    (length,) = struct.unpack_from("<Q", data, start + 1)
    times = data[start + 9 : start + 25]
    body = (
        times + struct.pack("<QII", 1 << 30, 0, 4) + b"zstd" + struct.pack("<Q", len(bomb)) + bomb
    )
    chunk = b"\x06" + struct.pack("<Q", len(body)) + body
    path.write_bytes(data[:start] + chunk + data[start + 9 + length :])
    if indexed:  # an index that still leads to it: what follows is untouched and stays in place
        path.write_bytes(
            data[:start]
            + b"\x06"
            + struct.pack("<Q", length)
            + times
            + struct.pack("<Q", 1 << 40)
            + data[start + 33 :]
        )
    tracemalloc.start()
    try:
        reader = Reader(path)
        got = list(reader)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert 0 < len(got) < n_frames
    assert any("damaged chunk" in note and "unpacks to" in note for note in reader.notes)
