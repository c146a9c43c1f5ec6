"""What a driver is: one small class that yields what its device sees.

A driver opens a device, is asked for samples, and closes it. It adds no stamps of its own, no
sequence numbers, no reconnecting and no publishing: the runner does that for every driver alike
(``runner``). A driver for a new device is one module with one class, named in the entry-point
group ``hgr_stream.drivers``.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar, Generic, TypeVar

import msgspec

from hgr_stream.config import path_of
from hgr_stream.faults import error_line
from hgr_stream.messages import Frame
from hgr_stream.skeleton import HandSample

__all__ = [
    "DeviceError",
    "Driver",
    "EndOfStream",
    "Found",
    "HandSample",
    "Options",
    "Performed",
    "Sample",
    "kind_of",
]


class DeviceError(Exception):
    """The device cannot be used now; ``cure`` is what the user can do about it, in one line.

    ``fatal``: trying again cannot help (a wrong file, a missing package).
    ``waiting``: nothing is wrong on this side, but nobody sends; the driver stays open."""

    def __init__(
        self, message: str, cure: str = "", *, fatal: bool = False, waiting: bool = False
    ) -> None:
        super().__init__(message)
        self.cure = cure
        self.fatal = fatal
        self.waiting = waiting

    def told(self) -> str:
        """Fault and cure in one line."""
        fault = error_line(self)
        return f"{fault}; {self.cure}" if self.cure else fault


def kind_of(text: str) -> str:
    """What kind of fault a line tells of: the line without its numbers, which may well change."""
    return re.sub(r"\d+", "", text)


class EndOfStream(Exception):  # noqa: N818 - not an error: a recording or a performance is over
    """The source has no more to give."""


@dataclass(slots=True)
class Performed:
    """A gesture that the source knows it performed; times on the device's clock."""

    hand: int
    label: str
    onset_ns: int
    offset_ns: int


@dataclass(slots=True)
class Sample:
    """What the device saw at one instant. ``device_ns``: its own clock; None if it has none."""

    device_ns: int | None
    hands: Sequence[HandSample]
    index: int = 0
    performed: Sequence[Performed] = ()
    frame: Frame | None = None  #: a replayed frame, published with its recorded stream time


@dataclass(frozen=True, slots=True)
class Found:
    """A device that ``find`` saw: what to put into the config, and what to tell a person."""

    driver: str
    id: str
    description: str
    options: dict[str, object] = field(default_factory=dict)
    rate_hz: float | None = None  #: frames a second that it gives, where it can be known unopened


class Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of every driver's options: the keys its config table may have, with their types."""


O = TypeVar("O", bound=Options)  # noqa: E741


class Driver(ABC, Generic[O]):
    """A source of hand samples. Used from one thread, in the order open, read..., close."""

    name: ClassVar[str]
    about: ClassVar[str] = ""  #: what it is the driver of, in a few words for a person
    packages: ClassVar[tuple[str, ...]] = ()  #: modules that it imports when it opens
    extra: ClassVar[str] = ""  #: the extra of hgr-stream that brings them
    Options: ClassVar[type[Options]] = Options
    #: The runner's watchdog tells of it, and reconnects, after ``silence_s`` without a sample.
    silence_s: ClassVar[float] = 2.0
    #: Others connect to this driver or send to it: in a silence it stays open and listens.
    listens: ClassVar[bool] = False
    silence_cure: ClassVar[str] = ""  #: what a person can do about that silence
    #: The unit of the times that a user's own code gives this driver; 0: they are the device's own.
    time_unit_ns: ClassVar[int] = 0
    #: The source waits for the pipeline instead of losing frames (a file, a replay).
    lossless: bool = False

    #: The daemon's devices, set by the runner: names that a replay must not speak under.
    taken: frozenset[str] = frozenset()

    def __init__(self, options: O) -> None:
        self.options = options
        self._said: dict[str, str] = {}

    def say(self, about: str, text: str, level: int = logging.INFO) -> None:
        """A line for the log, unless it is what was said last ``about`` that: a device that gives
        nothing is opened again and again, all night, and finds the same each time."""
        if self._said.get(about) != text:
            self._said[about] = text
            logging.getLogger(type(self).__module__).log(level, "%s", text)

    @abstractmethod
    def open(self) -> None:
        """Connect. Raises DeviceError with its cure; called again, with back-off, after one."""

    @abstractmethod
    def read(self, timeout_s: float) -> Sample | None:
        """The next sample, or None when none came in ``timeout_s``.

        Raises DeviceError when the device is gone and EndOfStream when there is no more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; harmless when it is not open."""

    def counts(self) -> dict[str, int]:
        """What the driver refused or lost on its own side, by name; shown in its status."""
        return {}

    def silence(self) -> DeviceError:
        """What the runner tells, and does, after ``silence_s`` without a sample."""
        silence = f"no frame for {self.silence_s:g} s"
        return DeviceError(silence, self.silence_cure, waiting=self.listens)

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks to use the driver, with the cure; empty: nothing."""
        absent = [name for name in cls.packages if find_spec(name) is None]
        if not absent:
            return ""
        cure = f'pip install "hgr-stream[{cls.extra}]"' if cls.extra else f"install {absent[0]}"
        return f"needs {', '.join(absent)}: {cure}"

    def check(self) -> None:
        """Raise DeviceError for what cannot work whatever is plugged in, as far as that shows with
        no device opened. Called on a driver that is not open, and only by ``hgr run --check``."""
        file = getattr(self.options, "file", "")
        if file and not path_of(file).is_file():
            raise DeviceError(f"{file}: no such file", "set file to a recording", fatal=True)

    def listens_at(self) -> str:
        """The address that ``open`` binds alone, like "tcp://127.0.0.1:6460"; empty: none."""
        return ""

    @classmethod
    def find(cls) -> list[Found]:
        """Devices that can be seen now, without opening them for long. May be empty."""
        return []
