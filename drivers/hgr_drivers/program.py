"""Hands that somebody's own program publishes, in any language.

``hgr_stream.publish`` has the wire and a publisher in Python; this is the other end: a bound PULL
socket on loopback. One program a device: two on one endpoint are told of, since their hands mix.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Annotated, ClassVar, Final

import zmq

from hgr_stream.config import LOOPBACK, worded
from hgr_stream.faults import error_line, worth_telling
from hgr_stream.messages import MAX_MESSAGE_BYTES, MessageError
from hgr_stream.publish import (
    DEFAULT_PROGRAM_ENDPOINT,
    QUEUE,
    ProgramFrame,
    decode_program_frame,
    id_by_side,
    sender_of,
)
from hgr_stream.stream.bus import BusError, alive, bind

from .base import DeviceError, Driver, HandSample, Options, Sample, kind_of

log = logging.getLogger(__name__)

#: Programs and kinds of faults that are remembered.
MOST: Final = 64
LINE: Final = 200
#: The socket is not encrypted: nobody else's machine may reach it.
Endpoint = Annotated[
    str,
    worded(
        rf"^(tcp://{LOOPBACK}:\d{{1,5}}|ipc://.+)$",
        'an address on this machine, like "tcp://127.0.0.1:6460" or "ipc:///tmp/hands.ipc"',
    ),
]


class ProgramOptions(Options):
    """Keys of a device's table in the config."""

    endpoint: Endpoint = DEFAULT_PROGRAM_ENDPOINT


class ProgramDriver(Driver[ProgramOptions]):
    """Frames of one program, with its own clock and ids."""

    name: ClassVar[str] = "program"
    about: ClassVar[str] = "your own program, in any language"
    Options: ClassVar[type[Options]] = ProgramOptions
    listens: ClassVar[bool] = True
    time_unit_ns: ClassVar[int] = 1
    silence_cure: ClassVar[str] = (
        "start the program that publishes here (it must send frames without hands too)"
    )

    def __init__(self, options: ProgramOptions) -> None:
        super().__init__(options)
        self._context = zmq.Context()
        self._socket: zmq.Socket | None = None
        self._counts: Counter[str] = Counter()
        self._seen: dict[str, int] = {}  # source -> its last number
        self._source = ""
        self._warned: set[tuple[str, str, str]] = set()  # source, count, kind of fault
        self._refused = (0, "")  # frames since the last good one, and why the last was

    def listens_at(self) -> str:
        return self.options.endpoint

    def open(self) -> None:
        self.close()
        socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, QUEUE)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        alive(socket)
        try:
            bind(socket, self.options.endpoint, "a program's hands", "another device has it")
        except BusError as error:
            socket.close(0)
            raise DeviceError(str(error), "set another endpoint for this device") from None
        self._socket = socket

    def read(self, timeout_s: float) -> Sample | None:
        socket = self._socket
        if socket is None:
            raise DeviceError("the program driver is not open")
        if not socket.poll(round(timeout_s * 1000)):
            return None
        parts = socket.recv_multipart()
        try:
            if len(parts) != 1:
                raise MessageError(f"a message of {len(parts)} parts; a frame is one part")
            return self._sample(decode_program_frame(parts[0]))
        except MessageError as error:
            text = error_line(error)[:LINE]  # it may quote what was sent
            self._complain("message_malformed", text, sender_of(parts[0]))
            self._refused = (self._refused[0] + 1, text)
            return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def silence(self) -> DeviceError:
        """Whether nobody sends, or nothing that comes is of use, and why."""
        refused, why = self._refused
        if not refused:
            return super().silence()
        wire = "the wire is described in hgr_stream/publish.py"
        return DeviceError(f"{refused} frames refused: {why}", wire, waiting=True)

    def counts(self) -> dict[str, int]:
        """``lost``: gaps in the program's numbers; ``repeated``: frames that came again or late;
        ``message_malformed``, ``hand_malformed``: refused; ``programs``: how many have been."""
        return dict(self._counts)

    def _sample(self, frame: ProgramFrame) -> Sample | None:
        last = self._seen.get(frame.source)
        if last is None:
            self._counts["programs"] += 1
            if len(self._seen) > MOST:  # restarts: the oldest will not speak again
                del self._seen[next(iter(self._seen))]
            n = self._counts["programs"]
            if worth_telling(n):  # some are a new one for each frame
                text = "a program publishes here" if n == 1 else f"the {n}th program publishes here"
                log.info("%s: %s", self.options.endpoint, text)
        elif frame.seq <= last:
            self._counts["repeated"] += 1
            why = f"seq {frame.seq} is not above {last}; count up, with a new source at every start"
            self._refused = (self._refused[0] + 1, why)
            return None
        else:
            self._counts["lost"] += frame.seq - last - 1
            if frame.source != self._source:
                both = " ".join(sorted((frame.source, self._source)))
                self._complain(
                    "mixed", "two programs publish to this device; give each its own", both
                )
        self._seen[frame.source], self._source = frame.seq, frame.source
        hands = []
        for hand in frame.hands:
            try:
                joints = hand.array()
            except MessageError as error:  # the others of this frame are still good
                self._complain("hand_malformed", str(error), frame.source)
                continue
            id_ = id_by_side(hand.side) if hand.id is None else hand.id
            hands.append(HandSample(id_, hand.side, joints, hand.confidence, tuple(hand.lacks)))
        self._refused = (0, "")
        return Sample(frame.time_ns, hands, frame.seq)

    def _complain(self, count: str, text: str, source: str) -> None:
        self._counts[count] += 1
        # Once for each kind of each program, within limits; the counts tell the rest.
        fault = (source, count, kind_of(text))
        if fault not in self._warned and len(self._warned) < MOST:
            self._warned.add(fault)
            log.warning("%s: %s", self.options.endpoint, text)
