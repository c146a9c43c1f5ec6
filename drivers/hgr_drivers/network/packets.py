"""What every driver of packets shares: the decoder's form, its one exception, and plain words.

The decoder is pure: bytes in, samples out. ``PacketDriver`` feeds it, counts what it refuses, and
explains a silence: nothing comes, or what comes is of no use.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import Counter
from typing import ClassVar, Final, Protocol

from ..base import DeviceError, Driver, O, Sample

log = logging.getLogger(__name__)

#: Packets waiting to be decoded; beyond it the oldest is dropped. Two seconds of 120 Hz.
BACKLOG: Final = 256
#: Nothing usable for so long: say why. Shorter than the runner's own watchdog, which knows less.
SILENCE_S: Final = 2.0
_GRACE_S: Final = 0.05


class PacketError(ValueError):
    """A packet that is refused. ``reason`` is its count's name, the text one line for a person;
    with a ``cure`` the sender must be set up differently: no packet of this kind can do."""

    def __init__(self, reason: str, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.cure = cure


class Decoder(Protocol):
    """Packets to samples; plain state, no sockets, no clock."""

    counts: Counter[str]

    def push(self, data: bytes, sender: str) -> Sample | None:
        """A sample, or None while there is none to tell; raises PacketError and nothing else."""


class HandIds:
    """Small numbers for the hands of named performers: stable while they are heard of."""

    LIMIT: Final = 64
    #: Who was not heard of while others were so often has gone, or has another address now, as with
    #: some networks every day; the number is free again.
    GONE: Final = 10_000

    def __init__(self, limit: int = LIMIT, what: str = "hands") -> None:
        """``limit``: how many ``what`` there may be at once."""
        self._limit = limit
        self._what = what
        self._asked = 0
        #: key -> its number, when it was asked for last; longest ago first
        self._ids: dict[object, tuple[int, int]] = {}

    def of(self, key: object) -> int:
        """The id of a hand, from 1; raises PacketError when there are absurdly many."""
        self._asked += 1
        number = self._ids.pop(key, (0, 0))[0] or self._free()
        self._ids[key] = number, self._asked
        return number

    def _free(self) -> int:
        if len(self._ids) < self._limit:
            return len(self._ids) + 1
        longest = next(iter(self._ids))
        number, asked = self._ids[longest]
        if self._asked - asked <= self.GONE:
            raise PacketError("too_many_hands", f"more than {self._limit} different {self._what}")
        del self._ids[longest]
        return number


class PacketDriver(Driver[O]):
    """A driver of one protocol: what differs is the decoder, the transport and the words."""

    #: The runner's watchdog is the second one: ``read`` explains a silence before it.
    silence_s: ClassVar[float] = 2 * SILENCE_S
    listens: ClassVar[bool] = True
    switch_on: ClassVar[str] = ""  #: what to switch on at the sender when nothing comes

    def __init__(self, options: O) -> None:
        super().__init__(options)
        self.decoder = self._decoder()
        self._refusals: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._heard_s = 0.0  # the last sample, or the opening
        self._packet_s = 0.0
        self._refused: PacketError | None = None

    @abstractmethod
    def _decoder(self) -> Decoder:
        """A fresh decoder for the options."""

    @abstractmethod
    def _connect(self) -> None:
        """Open the transport; raises DeviceError."""

    @abstractmethod
    def _receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        """The next packet and its sender, or None; raises DeviceError when the transport is gone,
        and when it was never opened."""

    @abstractmethod
    def _where(self) -> str:
        """What is listened to, for a person."""

    def _nothing(self) -> DeviceError:
        """The error of a transport on which nothing at all has come."""
        return DeviceError(
            f"no packet on {self._where()} for {SILENCE_S:g} s", self.switch_on, waiting=True
        )

    def open(self) -> None:
        self.close()
        counts = self.decoder.counts
        self.decoder = self._decoder()  # a sender that was started anew counts anew
        self.decoder.counts.update(counts)
        self._refused = None
        self._connect()
        self._heard_s = self._packet_s = time.monotonic()
        self.say("place", f"listening on {self._where()}")

    def read(self, timeout_s: float) -> Sample | None:
        now_s = time.monotonic()
        deadline_s = now_s + timeout_s
        while True:
            received = self._receive(max(deadline_s - now_s, 0.0))
            now_s = time.monotonic()
            if received is not None:
                self._packet_s = now_s
                sample = self._decoded(*received)
                if sample is not None:
                    self._heard_s = now_s
                    return sample
            # A frame may be many packets: those that are here already are taken past the deadline,
            # but a flood of useless ones does not hold the runner.
            if now_s >= deadline_s and (received is None or now_s >= deadline_s + _GRACE_S):
                self._explain_silence(now_s)
                return None

    def _decoded(self, data: bytes, sender: str) -> Sample | None:
        try:
            return self.decoder.push(data, sender)
        except PacketError as error:
            self._refusals[f"refused_{error.reason}"] += 1
            self._refused = error
            if error.reason not in self._warned:  # once for each kind; the counts tell the rest
                self._warned.add(error.reason)
                log.warning("%s: packet of %s refused: %s", self._where(), sender, error)
            return None

    def _explain_silence(self, now_s: float) -> None:
        """Raise DeviceError when nothing usable has come for too long: why, and what to do."""
        if now_s - self._heard_s < SILENCE_S:
            return
        self._heard_s = now_s  # complain again after as long a silence
        if now_s - self._packet_s >= SILENCE_S:
            raise self._nothing()
        if self._refused is not None:
            raise DeviceError(
                f"packets on {self._where()}, none of use: {self._refused}",
                self._refused.cure or self.switch_on,
                waiting=True,
            )
        raise DeviceError(
            f"packets on {self._where()}, but no hands in them", self.switch_on, waiting=True
        )

    def counts(self) -> dict[str, int]:
        """``refused_<reason>``, and what the decoder counts."""
        return {**self._refusals, **self.decoder.counts}
