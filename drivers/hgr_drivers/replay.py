"""A recording as a device: its frames with their recorded stream time, in its own timing.

Anything that ``hgr_stream.datasets.convert`` reads can be played, our own MCAP files first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from hgr_stream.config import NotNegative, path_of
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.convert import Recording, open_recording
from hgr_stream.messages import Frame
from hgr_stream.playback import Player
from hgr_stream.recording import Reader
from hgr_stream.stream.clock import monotonic_ns

from .base import DeviceError, Driver, EndOfStream, Options, Sample

log = logging.getLogger(__name__)


class ReplayOptions(Options):
    """Keys of a replay's config table."""

    file: str
    speed: float | str = 1.0  #: recorded seconds a second, or "max"
    start_s: NotNegative = 0.0  #: how far into the recording to begin
    step: bool = False  #: a frame for each line on standard input
    device: str = ""  #: another name for the recorded device; further ones become NAME-2, ...
    loop: bool = False  #: begin again at the end, stream time running on


class ReplayDriver(Driver[ReplayOptions]):
    """Plays one file; loses nothing, however slow the pipeline is."""

    name = "replay"
    about: ClassVar[str] = "a recording"
    Options: ClassVar[type[Options]] = ReplayOptions
    lossless = True
    #: A recording may pause for as long as it likes.
    silence_s = float("inf")

    def __init__(self, options: ReplayOptions) -> None:
        super().__init__(options)
        self._player: Player | None = None
        self._recording: Recording | None = None
        self._lines: queue.SimpleQueue[bool] | None = None

    def check(self) -> None:
        """See whether the recording can be played: its beginning is read."""
        self._load()
        self.close()

    def open(self) -> None:
        self._load()
        if self.options.step and self._lines is None:
            self._lines = queue.SimpleQueue()
            threading.Thread(target=_read_lines, args=(self._lines,), daemon=True).start()

    def _load(self) -> None:
        path = path_of(self.options.file)
        try:
            recording = open_recording(path)
            frames = _Played(recording.frames, self.options.device, self.options.loop, self.taken)
            self._player = Player(
                frames, self.options.speed, self.options.start_s, self.options.step
            )
        except (DatasetError, OSError) as error:
            raise DeviceError(str(error), "hgr info FILE tells what it holds", fatal=True) from None
        except ValueError as error:
            raise DeviceError(str(error), fatal=True) from None
        self._recording = recording
        if self._player.ended:
            held = "no frames" if self.options.start_s == 0 else "no frames from there on"
            found = f" ({'; '.join(recording.notes)})" if recording.notes else ""
            self._player = None
            raise DeviceError(f"{path} holds {held}{found}", fatal=True)

    def read(self, timeout_s: float) -> Sample | None:
        player = self._player
        if player is None:
            raise DeviceError("the replay is not open")
        frames = player.due(monotonic_ns(), limit=1)
        if not frames and not player.ended:
            self._wait(player, timeout_s)
            frames = player.due(monotonic_ns(), limit=1)
        if frames:
            frame = frames[0]
            return Sample(device_ns=frame.device_ns, hands=(), index=frame.index, frame=frame)
        if player.ended:
            for note in self._recording.notes if self._recording else ():
                log.warning("%s: %s", self.options.file, note)
            raise EndOfStream
        return None

    def _wait(self, player: Player, timeout_s: float) -> None:
        if self._lines is not None:
            try:
                if not self._lines.get(timeout=timeout_s):
                    raise EndOfStream
                player.step()
            except queue.Empty:
                pass
            return
        deadline_ns = player.next_deadline_ns()
        wait_s = timeout_s
        if deadline_ns is not None:
            wait_s = min(timeout_s, (deadline_ns - monotonic_ns()) / 1e9)
        if wait_s > 0:
            time.sleep(wait_s)

    def close(self) -> None:
        self._player = None

    def counts(self) -> dict[str, int]:
        frames = self._recording.frames if self._recording else None
        return {"bad_messages": frames.bad.total()} if isinstance(frames, Reader) else {}

    @property
    def position_s(self) -> float:
        """How far into the recording the last frame lies."""
        return self._player.position_ns / 1e9 if self._player else 0.0


def _read_lines(lines: queue.SimpleQueue[bool]) -> None:
    """One True a line; False at the end of the input, which ends the replay."""
    # Not through sys.stdin: a thread that waits in its lock would abort the interpreter's exit.
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(sys.stdin.fileno(), 4096):
            for _ in range(chunk.count(b"\n")):
                lines.put(True)
    lines.put(False)


@dataclass
class _Played:
    """The recording's frames under the wanted name, again and again when looped.

    A recorded device that the daemon has too, live, is replayed as NAME-replay: two publishers of
    one name would be taken for one that was started again and again."""

    frames: Iterable[Frame]
    device: str
    loop: bool
    taken: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Frame]:
        shift_ns = 0
        while True:
            names: dict[str, str] = {}
            first_ns = last_ns = step_ns = 0
            n = 0
            for frame in self.frames:
                if frame.end and self.loop:
                    continue
                if not frame.end:  # an end bears no time
                    n += 1
                    if n == 1:
                        first_ns = last_ns = frame.time_ns
                    step_ns = max(frame.time_ns - last_ns, 0) or step_ns
                    last_ns = max(frame.time_ns, last_ns)
                changed = frame
                if not self.device and frame.device in self.taken:
                    changed = msgspec.structs.replace(changed, device=f"{frame.device}-replay")
                if self.device:
                    nth = f"-{len(names) + 1}" if names else ""
                    name = names.setdefault(frame.device, self.device + nth)
                    changed = msgspec.structs.replace(changed, device=name)
                if shift_ns:
                    changed = msgspec.structs.replace(
                        changed,
                        time_ns=frame.time_ns + shift_ns,
                        device_ns=frame.device_ns + shift_ns,
                    )
                yield changed
            if not self.loop or n == 0:
                return
            shift_ns += last_ns - first_ns + max(step_ns, 1)
