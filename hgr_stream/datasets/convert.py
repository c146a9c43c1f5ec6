"""Foreign recordings as streams of canonical frames, and as recordings of our own.

``open_recordings`` is the one way in: whatever the format, it gives recordings whose frames carry
the file's own numbering (``index``) and time. ``import_file`` writes them as MCAP.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from ..messages import Frame, Hand, Truth, encode, joint_bytes
from ..recording import Reader, RecordingError, Writer
from ..stream import topics
from .base import DatasetError, HandSequence
from .leapjs import LeapRecording, load_leapjs
from .shrec17 import FILE_NAMES, load_shrec17_sequences
from .shrec21 import load_shrec21
from .shrec22 import load_shrec22
from .tables import numbered_files, sequence_id

Format = Literal["leapjs", "shrec17", "shrec21", "shrec22", "mcap"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_COLUMNS: Final[dict[int, Format]] = {66: "shrec17", 140: "shrec21", 80: "shrec22"}


_LOADERS: Final[dict[str, Callable[[Path], Sequence[HandSequence]]]] = {
    "shrec17": load_shrec17_sequences,
    "shrec21": load_shrec21,
    "shrec22": load_shrec22,
}
#: How a folder's files of one format end.
_ENDINGS: Final[dict[str, tuple[str, ...]]] = {
    "mcap": (".mcap",),
    "leapjs": (".json", ".json.gz"),
}


@dataclass
class Recording:
    """One sequence of frames. ``frames`` may be iterated again and again.

    name: unique in its file; sequence_id: the benchmark's number ("17"), or the file's stem.
    truths: what is performed in it, if the source says so, on the frames' stream time.
    """

    name: str
    file: Path
    sequence_id: str
    frames: Iterable[Frame]
    truths: list[Truth] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Imported:
    """One recording written by ``import_file``."""

    path: Path
    frames: int
    hands: int
    truths: int


@dataclass
class Report:
    """What ``import_file`` did; ``notes`` are faults of the source, one line each."""

    format: Format
    written: list[Imported] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def guess_format(path: Path) -> Format:
    """The format of a file or folder by its names and, for text, by its columns.

    Raises DatasetError if none fits.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.is_dir():
        if any(path.rglob("positions.npz")):
            return "shrec21"
        if any(path.glob("t*_gestures.txt")) or any(p for n in FILE_NAMES for p in path.rglob(n)):
            return "shrec17"
        for kind in ("mcap", "leapjs"):
            if _ending(path, kind):
                return kind
        numbered = numbered_files(path)
        if numbered:
            return guess_format(numbered[0])
        raise DatasetError(f"{path}: no recordings in this folder (formats: {', '.join(FORMATS)})")
    if path.suffix == ".npz":
        return "shrec21"
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    if path.suffix == ".mcap" or head.startswith(b"\x89MCAP"):
        return "mcap"
    if head.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as packed:
                head = packed.read(64)
        except (OSError, EOFError, zlib.error):
            head = b""
    if head.lstrip()[:1] in {b"{", b"["}:
        return "leapjs"
    line = head.decode("utf-8-sig", "replace").lstrip().partition("\n")[0].strip()
    columns = len(line.rstrip("; \t").split(";")) if ";" in line else len(line.split())
    if columns in _COLUMNS:
        return _COLUMNS[columns]
    raise DatasetError(f"{path}: of no format that is known here ({', '.join(FORMATS)})")


def open_recordings(
    paths: Iterable[Path],
    format: Format | None = None,
    on_error: Callable[[DatasetError], None] | None = None,
) -> Iterator[Recording]:
    """Every recording in files and folders, in order, each file read when its turn comes.

    A file that cannot be read raises DatasetError; with ``on_error`` it goes there instead and
    the next follows.
    """
    for path in map(Path, paths):
        try:
            kind = format or guess_format(path)
            files = _files(path, kind)
        except DatasetError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        for file in files:
            try:
                yield from _open(file, kind)
            except DatasetError as error:
                if on_error is None:
                    raise
                on_error(error)


def frames_of(path: Path, format: Format | None = None) -> Iterator[Frame]:
    """The frames of the one recording in ``path``; raises DatasetError if it holds several."""
    recordings = list(open_recordings([path], format))
    if len(recordings) != 1:
        raise DatasetError(f"{path}: holds {len(recordings)} recordings; name one file of it")
    return iter(recordings[0].frames)


def import_file(format: Format | None, path: Path, out: Path, *, force: bool = False) -> Report:
    """Write ``path`` as MCAP: one file ``out``, or a folder ``out`` with one file a recording.

    Raises DatasetError or RecordingError; a file that could not be finished is removed.
    """
    path, out = Path(path), Path(out)
    report = Report(format or guess_format(path))
    recordings = open_recordings([path], report.format)
    if out.is_dir() or out.suffix != ".mcap":
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(f"{out}: {error.strerror or error}") from None
        for recording in recordings:
            stem = re.sub(r"[^\w.-]+", "_", recording.name)
            _import(recording, out / f"{stem}.mcap", force, report)
        return report
    first = next(recordings, None)
    if first is None:
        raise DatasetError(f"{path}: holds no recordings")
    if next(recordings, None) is not None:
        raise DatasetError(f"{path}: holds several recordings; give a folder for them, not {out}")
    _import(first, out, force, report)
    return report


def _import(recording: Recording, out: Path, force: bool, report: Report) -> None:
    if out.exists() and out.samefile(recording.file):
        raise RecordingError(f"{out}: cannot import a file into itself")
    done = Imported(out, 0, 0, len(recording.truths))
    writer = Writer(out, force=force, source=f"{report.format} {recording.file.name}")
    try:
        with writer:
            pending = sorted(recording.truths, key=lambda truth: truth.offset_ns, reverse=True)
            for frame in recording.frames:
                while pending and pending[-1].offset_ns < frame.time_ns:
                    _write_truth(writer, pending.pop())
                writer.write(
                    topics.of(frame), encode(frame), frame.time_ns, frame.time_ns, frame.seq
                )
                done.frames += 1
                done.hands += len(frame.hands)
            while pending:
                _write_truth(writer, pending.pop())
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    report.written.append(done)
    report.notes += [f"{recording.name}: {note}" for note in recording.notes]


def _write_truth(writer: Writer, truth: Truth) -> None:
    """Logged at its end: that is when it had been performed."""
    writer.write(topics.of(truth), encode(truth), truth.offset_ns, truth.offset_ns)


def _files(path: Path, format: Format) -> list[Path]:
    """What to read one at a time: a folder's files, or the path itself where it must be whole."""
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if path.is_file():
        return [path]
    if format in {"shrec21", "shrec22"}:
        archives = sorted(path.rglob("positions.npz")) if format == "shrec21" else []
        found = archives or numbered_files(path)
    elif format == "shrec17":
        found = [path]
    else:
        found = _ending(path, format)
    if not found:
        raise DatasetError(f"{path}: no {format} recording in this folder")
    return found


def _ending(folder: Path, format: str) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.name.endswith(_ENDINGS[format]) and p.is_file())


def _open(file: Path, format: Format) -> Iterator[Recording]:
    if format == "mcap":
        try:
            reader = Reader(file)
        except RecordingError as error:
            raise DatasetError(str(error)) from None
        truths = list(reader.truths())
        # The list stays the reader's own: what is wrong shows as the frames are read.
        yield Recording(file.stem, file, sequence_id(file), reader, truths, reader.notes)
    elif format == "leapjs":
        recording = load_leapjs(file)
        name = re.sub(r"(\.json)?(\.gz)?$", "", file.name)
        yield Recording(name, file, name, _LeapFrames(recording, name), [], recording.notes)
    else:
        for sequence in _LOADERS[format](file):
            frames = _SequenceFrames(sequence, format)
            truths = [
                Truth(
                    device=format,
                    hand=sequence.side,
                    label=segment.label,
                    onset_ns=int(sequence.time_ns[segment.start]),
                    offset_ns=int(sequence.time_ns[segment.end]),
                )
                for segment in sequence.segments
            ]
            yield Recording(sequence.name, file, sequence.name, frames, truths, sequence.notes)


@dataclass
class _SequenceFrames:
    """A sequence's frames, made as they are asked for."""

    sequence: HandSequence
    device: str

    def __iter__(self) -> Iterator[Frame]:
        s = self.sequence
        for seq, (joints, time_ns, index) in enumerate(
            zip(s.joints, s.time_ns.tolist(), s.index.tolist(), strict=True)
        ):
            hand = Hand(id=1, side=s.side, joints=joint_bytes(joints), lacks=list(s.lacks))
            yield _frame(self.device, s.name, seq, time_ns, index, [hand])


@dataclass
class _LeapFrames:
    """A Leap recording's frames, those without a hand too."""

    recording: LeapRecording
    name: str

    def __iter__(self) -> Iterator[Frame]:
        for seq, f in enumerate(self.recording.frames):
            hands = [
                Hand(id=h.id, side=h.side, joints=joint_bytes(h.joints), confidence=h.confidence)
                for h in f.hands
            ]
            yield _frame("leapjs", self.name, seq, f.device_ns, f.index, hands)


def _frame(device: str, name: str, seq: int, time_ns: int, index: int, hands: list[Hand]) -> Frame:
    """No host saw this frame: its host times are 0."""
    return Frame(
        device=device,
        boot_id=f"import:{name}",
        seq=seq,
        time_ns=time_ns,
        device_ns=time_ns,
        host_ns=0,
        wall_ns=0,
        sent_ns=0,
        index=index,
        hands=hands,
    )
