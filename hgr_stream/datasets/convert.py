"""Foreign recordings as streams of canonical frames, and as recordings of our own.

``open_recordings`` is the one way in: whatever the format, it gives recordings whose frames carry
the file's own numbering (``index``) and time. ``import_file`` writes them as MCAP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from ..messages import Frame, Truth, encode
from ..recording import Reader, RecordingError, Writer
from ..stream import topics
from .alphapose import load_alphapose
from .base import DatasetError, HandFrame, HandFrames, HandSequence
from .bvh import load_bvh
from .guess import VIDEO_ENDINGS, Format, guess_file
from .leapjs import load_leapjs
from .mediapipe import load_mediapipe
from .openpose import load_openpose
from .openxr import load_openxr, recording_name
from .own_arrays import ENDINGS, load_own_arrays
from .shrec17 import FILE_NAMES, load_shrec17_sequences
from .shrec21 import load_shrec21
from .shrec22 import load_shrec22
from .stream_frames import StreamFrames, truths_of
from .tables import numbered_files, sequence_id

if TYPE_CHECKING:
    from .takes import Takes

__all__ = [
    "FORMATS",
    "SOURCES",
    "Format",
    "Imported",
    "Recording",
    "Report",
    "Source",
    "guess_format",
    "import_file",
    "open_recording",
    "open_recordings",
]

IMPORTERS: Final = "hgr_stream.importers"
Loader = Callable[[Path, float | None], Sequence[HandSequence | HandFrames]]


@dataclass(frozen=True)
class Source:
    """A foreign format: how one of its files is read, and what a person is told of it.

    load: the recordings of a path; its second argument is ``fps``. fps: whether that means
    anything to it, because its files have no time or may have none. files: what there is to read
    one at a time under a folder.
    """

    about: str
    load: Loader
    files: Callable[[Path], Sequence[Path]]
    fps: bool = False


def _ending(*endings: str) -> Callable[[Path], Sequence[Path]]:
    return lambda folder: sorted(
        p for p in folder.rglob("*") if p.name.endswith(endings) and p.is_file()
    )


def _openpose_folders(folder: Path) -> Sequence[Path]:
    return sorted({p.parent for p in folder.rglob("*_keypoints.json")}) or _json(folder)


def _leapjs(path: Path) -> list[HandFrames]:
    recording = load_leapjs(path)
    frames = [HandFrame(f.device_ns, f.index, f.hands) for f in recording.frames]
    return [HandFrames(recording.name, frames, recording.notes)]


_LINES: Final = (".jsonl", ".jsonl.gz", ".ndjson")
_json: Final = _ending(".json", ".json.gz")


def _openxr_files(folder: Path) -> Sequence[Path]:
    """Without a CSV that is called as another recording, or beside a CSV ``NAME.truth.csv``: that
    one's truth."""
    found = _ending(".csv", ".tsv", ".txt", ".json", ".json.gz", *_LINES)(folder)
    others = {p.with_name(recording_name(p)) for p in found if p.suffix != ".csv"}
    others |= {p.with_suffix(".truth") for p in found if p.suffix == ".csv"}
    return [p for p in found if p.suffix != ".csv" or p.with_suffix("") not in others]


def _array_files(folder: Path) -> Sequence[Path]:
    """Without the labels and the truth that lie beside them."""
    return [p for p in _ending(*ENDINGS)(folder) if guess_file(p) == "arrays"]


def _of_package(name: str) -> Loader:
    """A loader that lives where its libraries do: in the entry-point group
    ``hgr_stream.importers``. Nothing is imported before it is asked for."""

    def load(path: Path, fps: float | None) -> Sequence[HandFrames]:
        found = entry_points(group=IMPORTERS, name=name)
        if not found:
            raise DatasetError(f"{path}: no importer of {name} (is hgr-stream installed?)")
        frames: Sequence[HandFrames] = next(iter(found)).load()(path)
        return frames

    return load


#: Every format that is imported: the one table from which choices and help are made.
SOURCES: Final[dict[Format, Source]] = {
    "alphapose": Source(
        "AlphaPose or MMPose results: whole bodies of 133 or 136 points (2D)",
        load_alphapose,
        _json,
        fps=True,
    ),
    "arrays": Source(
        "one's own hands as .npy, .npz or CSV, a frame a row (frames x joints x 3, metres)",
        load_own_arrays,
        _array_files,
        fps=True,
    ),
    "azure": Source(
        "Azure Kinect recordings (.mkv): MediaPipe's hands, and depth",
        _of_package("azure"),
        _ending(".mkv"),
    ),
    "bvh": Source("BVH motion capture with fingers", load_bvh, _ending(".bvh"), fps=True),
    "leapjs": Source(
        "Leap Motion frames as LeapJS records them", lambda path, fps: _leapjs(path), _json
    ),
    "mediapipe": Source(
        "MediaPipe hand landmarks written as JSON or JSON lines",
        load_mediapipe,
        _ending(".json", ".json.gz", *_LINES),
        fps=True,
    ),
    "openpose": Source(
        "OpenPose's --write_json: a folder, or one file (2D)",
        load_openpose,
        _openpose_folders,
        fps=True,
    ),
    "openxr": Source(
        "OpenXR or WebXR joints as CSV, JSON or JSON lines",
        load_openxr,
        _openxr_files,
        fps=True,
    ),
    "shrec17": Source(
        "SHREC'17 and DHG sequences",
        lambda path, fps: load_shrec17_sequences(path),
        lambda folder: [folder],
    ),
    "shrec21": Source(
        "SHREC'21 online sequences",
        lambda path, fps: load_shrec21(path),
        lambda folder: sorted(folder.rglob("positions.npz")) or numbered_files(folder),
    ),
    "shrec22": Source(
        "SHREC'22 online sequences", lambda path, fps: load_shrec22(path), numbered_files
    ),
    "video": Source(
        "any video: MediaPipe's hands (their distance is estimated)",
        _of_package("video"),
        _ending(*VIDEO_ENDINGS),
    ),
}
#: All that can be opened: what is imported, and our own recordings.
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_mcap: Final = _ending(".mcap")


@dataclass
class Recording:
    """One sequence of frames. ``frames`` may be iterated again and again.

    name: unique in its file; of a benchmark's sequence it is its number ("17").
    truths: what is performed in it, if the source says so, on the frames' stream time. silent: it
    is known that nothing is. takes: the isolated gestures that it was spliced of.
    """

    name: str
    file: Path
    frames: Iterable[Frame]
    truths: list[Truth] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    silent: bool = False
    takes: Takes | None = None


@dataclass
class Imported:
    """One recording written by ``import_file``."""

    path: Path
    name: str
    frames: int
    hands: int
    truths: int
    lacks: dict[str, int] = field(default_factory=dict)  #: how many hands lack what


@dataclass
class Report:
    """What ``import_file`` did; ``notes`` are faults of the source, one line each."""

    format: Format
    written: list[Imported] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def guess_format(path: Path) -> Format:
    """The format of a file or folder by its names and by how its files begin.

    Raises DatasetError if none fits.
    """
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if not path.is_dir():
        found = guess_file(path)
        if found is None:
            raise DatasetError(f"{path}: of no format that is known here ({', '.join(FORMATS)})")
        return found
    if any(path.rglob("positions.npz")):
        return "shrec21"
    if any(path.glob("t*_gestures.txt")) or any(p for n in FILE_NAMES for p in path.rglob(n)):
        return "shrec17"
    if _mcap(path):
        return "mcap"
    for files in (_ending(".bvh"), _json, _ending(*_LINES), _ending(".csv"), numbered_files):
        found = next((f for file in files(path)[:1] if (f := guess_file(file))), None)
        if found is not None:
            return found
    if _array_files(path):
        return "arrays"
    raise DatasetError(f"{path}: no recordings in this folder (formats: {', '.join(FORMATS)})")


def open_recordings(
    paths: Iterable[Path],
    format: Format | None = None,
    on_error: Callable[[DatasetError], None] | None = None,
    fps: float | None = None,
    rate_hz: float | None = None,
) -> Iterator[Recording]:
    """Every recording in files and folders, in order, each file read when its turn comes.

    ``fps``: frames a second of formats that do not tell their time (see ``Source``). ``rate_hz``:
    the same, but for motion capture, which always tells its own. A file that cannot be read raises
    DatasetError; with ``on_error`` it goes there instead and the next follows.
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
        told = rate_hz if fps is None and kind != "bvh" else fps
        for file in files:
            try:
                yield from _open(file, kind, told)
            except DatasetError as error:
                if on_error is None:
                    raise
                on_error(error)


def open_recording(path: Path) -> Recording:
    """The one recording in ``path``; raises DatasetError if it holds none, or several."""
    recordings = open_recordings([path])
    recording = next(recordings, None)
    if recording is None:
        raise DatasetError(f"{path}: holds no recordings")
    if next(recordings, None) is not None:
        raise DatasetError(f"{path}: holds several recordings; name one file of it")
    return recording


def import_file(
    format: Format | None,
    path: Path,
    out: Path,
    *,
    force: bool = False,
    fps: float | None = None,
) -> Report:
    """Write ``path`` as MCAP: one file ``out``, or a folder ``out`` with one file a recording.

    Recordings that lie in several folders are named by their paths ("anna/take" becomes
    anna_take.mcap): those of several people are often called alike. Raises DatasetError or
    RecordingError, also where two would become one file; a file that could not be finished is
    removed.
    """
    path, out = Path(path), Path(out)
    report = Report(format or guess_format(path))
    recordings = open_recordings([path], report.format, fps=fps)
    if out.is_dir() or out.suffix != ".mcap":
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(f"{out}: {error.strerror or error}") from None
        apart = len({_folder(file) for file in _files(path, report.format)}) > 1
        sources: dict[str, Path] = {}  # by the name written, without case: some systems see none
        for recording in recordings:
            if apart:
                recording.name = _path_name(recording, path)
            file = out / (re.sub(r"[^\w.-]+", "_", recording.name) + ".mcap")
            if (other := sources.get(file.name.casefold())) is not None:
                raise RecordingError(
                    f"{recording.file}: would become {file}, which holds {other} now; "
                    "give it another name, or import it by itself"
                )
            sources[file.name.casefold()] = recording.file
            _import(recording, file, force, report)
        return report
    first = next(recordings, None)
    if first is None:
        raise DatasetError(f"{path}: holds no recordings")
    if next(recordings, None) is not None:
        raise DatasetError(f"{path}: holds several recordings; give a folder for them, not {out}")
    _import(first, out, force, report)
    return report


def _folder(file: Path) -> Path:
    """Where a source lies; some formats' are folders."""
    return file if file.is_dir() else file.parent


def _path_name(recording: Recording, root: Path) -> str:
    """A recording's name after the folders below ``root`` that it lies in; one that is called as
    its folder is not named twice."""
    folders = _folder(recording.file).relative_to(root)
    own = sequence_id(folders) if folders.name else ""
    return ((folders.parent if own == recording.name else folders) / recording.name).as_posix()


def _import(recording: Recording, out: Path, force: bool, report: Report) -> None:
    if out.exists() and out.samefile(recording.file):
        raise RecordingError(f"{out}: cannot import a file into itself")
    done = Imported(out, recording.name, 0, 0, len(recording.truths))
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
                for lack in (lack for hand in frame.hands for lack in hand.lacks):
                    done.lacks[lack] = done.lacks.get(lack, 0) + 1
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
    found = _mcap(path) if format == "mcap" else SOURCES[format].files(path)
    if not found:
        raise DatasetError(f"{path}: no {format} recording in this folder")
    return list(found)


def _open(file: Path, format: Format, fps: float | None) -> Iterator[Recording]:
    if format == "mcap":
        try:
            reader = Reader(file)
        except RecordingError as error:
            raise DatasetError(str(error)) from None
        truths = list(reader.truths())
        # The list stays the reader's own: what is wrong shows as the frames are read.
        yield Recording(file.stem, file, reader, truths, reader.notes)
        return
    for source in SOURCES[format].load(file, fps):
        frames = StreamFrames(source, format)
        truths = truths_of(source, format) if isinstance(source, HandSequence) else []
        yield Recording(source.name, file, frames, truths, source.notes)
