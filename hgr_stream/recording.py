"""Recordings: the stream in an MCAP file, written so that a kill costs a quarter of a second.

One channel a topic, the messages exactly as they travelled (MessagePack), each with log time,
publish time and sequence number, in zstd chunks; any MCAP reader opens it, and the schemas say
what the messages hold. The default chunk of 1 MiB lost eight seconds at a SIGKILL (measured), so
the writer ends a chunk every ``flush_s``; a file cut anywhere is read up to its last whole chunk,
and ``recover`` gives it its index back.

The container library stays behind this module.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple

import msgspec
import zstandard
from mcap.exceptions import EndOfFile, McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from . import __version__
from .faults import first_line
from .messages import Frame, M, MessageError, Truth
from .messages import decode as decode_message
from .stream import topics

_MAGIC: Final = b"\x89MCAP0\r\n"
#: The end of a file: summary start, summary offset start, summary's checksum, magic.
_FOOTER: Final = struct.Struct("<QQI8s")
_METADATA: Final = "hgr"
_ENCODING: Final = "msgpack"
#: A chunk record's head: opcode, length, start and end time, unpacked size, checksum, and the
#: length of its compression's name.
_CHUNK_HEAD: Final = struct.Struct("<BQQQQII")
#: The longest head of a zstd frame.
_ZSTD_HEAD: Final = 18
#: Ours hold a quarter of a second; others write a few MiB.
MAX_CHUNK_BYTES: Final = 1 << 27
#: What the library may raise on bytes that were cut or altered: its own errors, and those of the
#: decoders beneath it.
_DAMAGE: Final = (
    McapError,
    struct.error,
    zstandard.ZstdError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
    OSError,
)
#: With what a loop that waits 50 ms adds, a kill costs no more than 0.25 s.
FLUSH_S: Final = 0.2


class RecordingError(ValueError):
    """A file that cannot be written, or is no recording; the text names file and fault."""


def as_text(name: str) -> str:
    """A name, of a file say, that can be written: what is not UTF-8 in it becomes "?"."""
    return name.encode(errors="replace").decode()


class _Stamps(msgspec.Struct):
    """What our messages have in common, for the container's own fields."""

    wall_ns: int = 0
    seq: int = 0


_stamps: Final = msgspec.msgpack.Decoder(_Stamps)


class Recorded(NamedTuple):
    """One message as it was recorded; times in ns on the recorder's clocks."""

    topic: str
    payload: bytes
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    schema: str  #: the channel's schema name ("hgr.Frame"), empty if it has none
    encoding: str  #: the channel's message encoding ("msgpack" for ours)


class Writer:
    """Writes one recording. Call ``tick`` often (its clock is any that runs forward, in s)."""

    def __init__(
        self, path: Path, *, flush_s: float = FLUSH_S, force: bool = False, source: str = ""
    ) -> None:
        """Open ``path``; raises RecordingError if it exists (unless ``force``) or cannot be."""
        self.path = Path(path)
        self.messages = 0
        self._flush_s = flush_s
        self._flushed_s: float | None = None
        self._channels: dict[tuple[str, str], int] = {}
        self._schemas: dict[tuple[str, str, bytes], int] = {}
        try:
            self._file = self.path.open("wb" if force else "xb")
        except FileExistsError:
            raise RecordingError(f"{path} exists; --force overwrites it") from None
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror or error}") from None
        self._writer = McapWriter(self._file, compression=CompressionType.ZSTD)
        self._writer.start(library=f"hgr-stream {__version__}")
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._writer.add_metadata(
            _METADATA, {"version": __version__, "created": created, "source": as_text(source)}
        )
        self.flush()

    def write(
        self,
        topic: str,
        payload: bytes,
        log_time_ns: int,
        publish_time_ns: int,
        sequence: int = 0,
    ) -> None:
        """Append a message. Times before 0 are written as 0 and sequences modulo 2^32: the
        container has no others (a frame's own fields keep the full values)."""
        channel = self._channels.get((topic, _ENCODING))
        if channel is None:
            kind = topics.message_type(topic)
            if kind is None:
                channel = self._channel(topic, _ENCODING, "", "", b"")
            else:
                schema = msgspec.json.encode(msgspec.json.schema(kind))
                channel = self._channel(
                    topic, _ENCODING, f"hgr.{kind.__name__}", "jsonschema", schema
                )
        self._add(channel, payload, log_time_ns, publish_time_ns, sequence)

    def record(self, topic: str, payload: bytes, log_time_ns: int) -> None:
        """``write`` with publish time and sequence as the message itself tells them, if it does."""
        try:
            stamps = _stamps.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            stamps = _Stamps()
        self.write(topic, payload, log_time_ns, stamps.wall_ns or log_time_ns, stamps.seq)

    def tick(self, now_s: float) -> None:
        """Put everything written so far into the file, if ``flush_s`` have passed since."""
        if self._flushed_s is None:
            self._flushed_s = now_s
        if not 0 <= now_s - self._flushed_s < self._flush_s:
            self.flush()
            self._flushed_s = now_s

    def flush(self) -> None:
        """End the chunk and hand it to the system: it survives the death of this process."""
        self._writer.flush()

    @property
    def bytes_written(self) -> int:
        """Size of the file so far (what is not flushed yet is not counted)."""
        return 0 if self._file.closed else self._file.tell()

    def close(self) -> None:
        """Write the index and close; a second call does nothing."""
        if not self._file.closed:
            try:
                self._writer.finish()
            finally:
                self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _channel(
        self,
        topic: str,
        message_encoding: str,
        name: str,
        schema_encoding: str,
        schema: bytes,
        metadata: dict[str, str] | None = None,
    ) -> int:
        schema_id = 0
        if name or schema_encoding or schema:
            key = (name, schema_encoding, schema)
            if key not in self._schemas:
                self._schemas[key] = self._writer.register_schema(name, schema_encoding, schema)
            schema_id = self._schemas[key]
        channel = self._writer.register_channel(topic, message_encoding, schema_id, metadata or {})
        self._channels[topic, message_encoding] = channel
        return channel

    def _add(
        self, channel: int, payload: bytes, log_time_ns: int, publish_time_ns: int, sequence: int
    ) -> None:
        self._writer.add_message(
            channel,
            log_time=max(log_time_ns, 0),
            data=payload,
            publish_time=max(publish_time_ns, 0),
            sequence=sequence & 0xFFFFFFFF,
        )
        self.messages += 1


class _Whole:
    """A binary file that gives all that is asked for or raises: the library takes what a cut
    file still has for the whole, and would try to allocate whatever a damaged length says."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, length: int) -> bytes:
        if length > self._left:
            raise EndOfFile
        data = self._file.read(length)
        self._left -= len(data)
        if len(data) < length:
            raise EndOfFile
        return data


def _summary_intact(file: IO[bytes], size: int) -> bool:
    """Whether the index is as its checksum says (0: it has none): an altered one would leave
    chunks out without a word, and the library does not look."""
    file.seek(size - _FOOTER.size)
    summary_start, _, crc, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    if magic != _MAGIC or not 0 <= summary_start <= size:
        return False
    file.seek(summary_start)
    # Covers everything up to the checksum itself, which is followed by the magic.
    return crc in {0, zlib.crc32(file.read(size - 12 - summary_start))}


def _chunks_checked(file: IO[bytes], size: int, summary: Summary | None) -> bool:
    """Whether there are chunks, none of which unpacks to more than any recorder writes.

    The library would unpack such a one whole; here only the chunks' heads are read, and
    ValueError is raised. A file without chunks it would read with no limit at all."""
    if summary is None or not summary.chunk_indexes:
        return False
    for index in summary.chunk_indexes:
        file.seek(index.chunk_start_offset)
        head = file.read(_CHUNK_HEAD.size)
        if len(head) < _CHUNK_HEAD.size:
            raise EndOfFile
        *_, unpacked, _, n_name = _CHUNK_HEAD.unpack(head)
        name = file.read(min(n_name, 16)).decode("utf-8", "replace")
        (n_bytes,) = struct.unpack("<Q", file.read(8))
        if n_name > 16 or n_bytes > size:
            raise ValueError("a chunk longer than the file")
        _check_unpacked(name, unpacked, file.read(_ZSTD_HEAD))
    return True


def _check_unpacked(compression: str, claimed: int, head: bytes) -> None:
    unpacked = claimed
    if compression == "zstd":
        # -1: the frame does not tell, and the library allocates what the chunk claims.
        unpacked = max(claimed, zstandard.frame_content_size(head))
    if unpacked > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk that unpacks to {unpacked >> 20} MiB")


_Raw = tuple[Schema | None, Channel, Message]


class Reader:
    """Reads a recording, whole or cut; iterating it gives its frames, as often as wanted.

    ``notes`` tells what is wrong with the file, ``bad`` counts messages of ours that could not be
    decoded, by reason; both belong to the latest pass over the file.
    """

    def __init__(self, path: Path) -> None:
        """Look at the file; raises RecordingError when it is not there or is no MCAP file."""
        self.path = Path(path)
        self.notes: list[str] = []
        self.bad: Counter[str] = Counter()
        self.metadata: dict[str, str] = {}
        try:
            with self.path.open("rb") as file:
                head = file.read(len(_MAGIC))
                self.indexed = head == _MAGIC and self._has_index(file)
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror or error}") from None
        if not _MAGIC.startswith(head):
            raise RecordingError(f"{path}: not an MCAP recording")

    def _has_index(self, file: IO[bytes]) -> bool:
        size = self.path.stat().st_size
        try:
            if not _summary_intact(file, size):
                return False
            file.seek(0)
            reader = SeekingReader(file, record_size_limit=size)
            summary = reader.get_summary()
            self._keep_metadata(list(reader.iter_metadata()))
        except _DAMAGE:
            return False
        return summary is not None

    def _keep_metadata(self, found: list[Metadata]) -> None:
        for metadata in found:
            if metadata.name == _METADATA:
                self.metadata = dict(metadata.metadata)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def messages(self, *prefixes: str) -> Iterator[Recorded]:
        """Every message in log order; with ``prefixes``, of topics that begin with one of them."""
        self.notes.clear()
        self.bad.clear()
        for schema, channel, message in self._raw(prefixes):
            yield Recorded(
                channel.topic,
                message.data,
                message.log_time,
                message.publish_time,
                message.sequence,
                schema.name if schema else "",
                channel.message_encoding,
            )

    def frames(self) -> Iterator[Frame]:
        """Every frame in log order; those that cannot be decoded are counted in ``bad``."""
        return self._decoded(Frame, "frame/")

    def truths(self) -> Iterator[Truth]:
        """Every truth (what was really performed) in log order; bad ones are counted."""
        return self._decoded(Truth, "truth/")

    def _decoded(self, kind: type[M], prefix: str) -> Iterator[M]:
        for item in self.messages(prefix):
            message = self.decode(kind, item)
            if message is not None:
                yield message
        for reason, n in self.bad.items():
            self._note(f"{n} unreadable: {reason}")

    def decode(self, kind: type[M], item: Recorded) -> M | None:
        """A recorded message as ``kind``; None, and counted, when it is not one."""
        if item.encoding != _ENCODING:
            self.bad[f"{item.topic}: {item.encoding or 'unknown'} encoding"] += 1
            return None
        try:
            return decode_message(kind, item.payload)
        except MessageError as error:
            self.bad[f"{item.topic}: {error}"] += 1
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _raw(self, prefixes: tuple[str, ...] = ()) -> Iterator[_Raw]:
        """Messages in log order, of topics under ``prefixes`` if there are any."""
        given = 0
        if self.indexed:
            try:
                with self.path.open("rb") as file:
                    size = self.path.stat().st_size
                    reader = SeekingReader(file, validate_crcs=True, record_size_limit=size)
                    if _chunks_checked(file, size, reader.get_summary()):
                        for item in reader.iter_messages(self._topics(reader, prefixes)):
                            yield item
                            given += 1
                        return
            except _DAMAGE as error:
                self._note(f"damaged inside ({first_line(error)}); read without its index")
        # Without the index the messages come in file order, which a recorder keeps nearly always;
        # only otherwise are they held in memory to be sorted.
        times = (message.log_time for _, _, message in self._scan(prefixes))
        if all(a <= b for a, b in pairwise(times)):
            yield from islice(self._scan(prefixes), given, None)
        else:
            ordered = sorted(self._scan(prefixes), key=lambda item: item[2].log_time)
            yield from islice(ordered, given, None)

    @staticmethod
    def _topics(reader: SeekingReader, prefixes: tuple[str, ...]) -> list[str] | None:
        summary = reader.get_summary()
        if not prefixes or summary is None:
            return None
        return [c.topic for c in summary.channels.values() if c.topic.startswith(prefixes)]

    def _scan(self, prefixes: tuple[str, ...]) -> Iterator[_Raw]:
        """From the front to where the file ends or breaks, whole chunks only, in file order.

        Several recordings that were put one behind the other are read as one."""
        size = self.path.stat().st_size
        n = orphans = 0
        with self.path.open("rb") as file:
            while True:
                n += 1
                schemas: dict[int, Schema] = {}
                channels: dict[int, Channel] = {}
                for item in self._records(file, size):
                    if isinstance(item, Schema):
                        schemas[item.id] = item
                    elif isinstance(item, Channel):
                        channels[item.id] = item
                    elif isinstance(item, Metadata):
                        self._keep_metadata([item])
                    elif isinstance(item, Message):
                        channel = channels.get(item.channel_id)
                        if channel is None:
                            orphans += 1
                            continue
                        if not prefixes or channel.topic.startswith(prefixes):
                            yield schemas.get(channel.schema_id), channel, item
                end = file.tell()
                if file.read(len(_MAGIC)) != _MAGIC:
                    break
                file.seek(end)
        if n > 1:
            self._note(f"{n} recordings one behind the other, read as one")
        if end < size:
            self._note(f"the last {size - end} bytes are of no recording, left out")
        if orphans:
            self._note(f"{orphans} messages of an unknown topic, left out")

    def _records(self, file: IO[bytes], size: int) -> Iterator[McapRecord]:
        """One recording's, chunks opened; where it breaks the file is taken to end."""
        source = StreamReader(
            _Whole(file, size - file.tell()),  # type: ignore[arg-type]
            emit_chunks=True,
            record_size_limit=size,
        ).records
        while True:
            try:
                record = next(source)
            except StopIteration:
                return
            except _DAMAGE as error:
                ended = isinstance(error, EndOfFile)
                self._note(
                    "not closed: cut short, or still being written"
                    if ended
                    else f"broken off ({first_line(error)})"
                )
                file.seek(size)
                return
            yield from self._opened(record)

    def _opened(self, record: McapRecord) -> list[McapRecord]:
        if not isinstance(record, Chunk):
            return [record]
        try:
            _check_unpacked(record.compression, record.uncompressed_size, record.data[:_ZSTD_HEAD])
            return breakup_chunk(record, validate_crc=True)
        except _DAMAGE as error:
            at = record.message_start_time
            self._note(f"damaged chunk at log time {at} ns left out ({first_line(error)})")
            return []


def recover(path: Path, out: Path, *, force: bool = False) -> tuple[int, list[str]]:
    """Write what can be read of ``path`` into ``out``, with an index.

    Any MCAP file's channels, schemas and messages are kept as they are. Returns the number of
    messages and what was wrong with the file. Raises RecordingError, also for ``out`` == ``path``,
    and for a file that holds no message at all; ``out`` is not touched then.
    """
    reader = Reader(path)
    if out.exists() and out.samefile(path):
        raise RecordingError(f"{out}: cannot recover a file into itself")
    raw = reader._raw()
    first = next(raw, None)
    if first is None:
        why = f" ({'; '.join(reader.notes)})" if reader.notes else ""
        raise RecordingError(f"{path}: holds no message to recover{why}")
    with Writer(out, force=force, source=f"recovered from {path.name}") as writer:
        channels: dict[tuple[str, int, int], int] = {}
        for schema, channel, message in chain((first,), raw):
            key = (channel.topic, channel.id, channel.schema_id)
            if key not in channels:
                channels[key] = writer._channel(
                    channel.topic,
                    channel.message_encoding,
                    schema.name if schema else "",
                    schema.encoding if schema else "",
                    schema.data if schema else b"",
                    channel.metadata,
                )
            writer._add(
                channels[key],
                message.data,
                message.log_time,
                message.publish_time,
                message.sequence,
            )
        return writer.messages, list(reader.notes)
