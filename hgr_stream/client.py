"""Subscribing: gesture events in a program, without torch.

    import hgr_stream
    for event in hgr_stream.subscribe():
        print(event.label, event.confidence)

A subscriber may start before the daemon, outlive it, and be slow: it reconnects by itself, and
what it lost is counted in ``lost`` (the gateway numbers the messages of each topic, see
``daemon.gateway``). One that comes late first gets the present state.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

import msgspec
import zmq
import zmq.asyncio

from .config import default_endpoint
from .messages import Event, Kind, Message, MessageError, decode
from .stream import topics
from .stream.bus import alive

Kinds = Iterable[Kind] | Literal["all"]
QUEUE: Final = 10_000
IDLE_S: Final = 0.05


class ClientError(RuntimeError):
    """The daemon does not answer, or refused; the text says what to do."""


class Received(NamedTuple):
    """One message off the public socket."""

    topic: str
    payload: bytes
    lost: int  #: messages of this topic that never came, just before this one

    def message(self) -> Message | None:
        """Decoded; None for a topic that this version does not know. Raises MessageError."""
        kind = topics.message_type(self.topic)
        return None if kind is None else decode(kind, self.payload)  # type: ignore[type-var]


class Reception:
    """What every subscriber needs to know of what it got: pure, one per subscription.

    ``lost`` counts the numbers that were stepped over; ``bad`` the messages it could not read.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.bad = 0
        self._boot_id = ""
        self._n: dict[str, int] = {}

    def take(self, parts: list[bytes]) -> Received | None:
        """The three parts of a public message -> what it is; None for a repeat or a bad one."""
        try:
            topic_bytes, payload, receipt = parts
            topic = topic_bytes.decode()
            boot_id, n = msgspec.msgpack.decode(receipt, type=tuple[str, int])
        except (ValueError, msgspec.MsgspecError):
            self.bad += 1
            return None
        if boot_id != self._boot_id:  # the gateway was started again, and counts anew
            self._boot_id = boot_id
            self._n.clear()
        last = self._n.get(topic)
        if last is not None and n <= last:
            return None  # the snapshot had it already
        self._n[topic] = n
        lost = 0 if last is None else n - last - 1
        self.lost += lost
        return Received(topic, payload, lost)

    def take_snapshot(self, reply: bytes) -> list[Received]:
        """The gateway's answer to a snapshot request, less what has come already."""
        answer = msgspec.msgpack.decode(reply)
        if not answer.get("ok"):
            raise ClientError(f"the daemon refused: {answer.get('text')}")
        self._boot_id = answer["boot_id"]
        out = []
        for topic, payload, n in answer["messages"]:
            if n > self._n.get(topic, 0):
                out.append(Received(topic, payload, 0))
        # Several open gestures may share a topic, so the numbers are noted after the pass.
        for topic, _, n in answer["messages"]:
            self._n[topic] = max(n, self._n.get(topic, 0))
        return out


def request_endpoint(endpoint: str) -> str:
    """The gateway's request socket: its port + 1."""
    try:
        head, port = endpoint.rsplit(":", 1)
        return f"{head}:{int(port) + 1}"
    except ValueError:
        raise ClientError(f"{endpoint!r} is no endpoint like tcp://127.0.0.1:6450") from None


def request(
    endpoint: str, message: dict[str, Any], timeout_s: float = 2.0, *, purpose: str = "daemon"
) -> bytes:
    """Ask a request socket and wait for its answer; raises ClientError when none comes."""
    context: zmq.Context = zmq.Context.instance()
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ClientError(f"{endpoint!r} is no endpoint: {error}") from None
        socket.send(msgspec.msgpack.encode(message))
        if not socket.poll(round(timeout_s * 1000)):
            raise ClientError(
                f"no {purpose} answers at {endpoint}; start one with: hgr run (or make demo)"
            )
        reply: bytes = socket.recv()
        return reply


def ping(endpoint: str | None = None, timeout_s: float = 1.0) -> dict[str, Any]:
    """The gateway's name card; raises ClientError when there is none."""
    public = endpoint or default_endpoint()
    reply: dict[str, Any] = msgspec.msgpack.decode(
        request(request_endpoint(public), {"op": "ping"}, timeout_s)
    )
    return reply


def _socket(context: Any, endpoint: str, prefixes: Iterable[str], queue: int) -> Any:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
    alive(socket)
    for prefix in prefixes:
        socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ClientError(f"{endpoint!r} is no endpoint: {error}") from None
    return socket


class Stream:
    """All messages under some prefixes, as they come: the iterator under everything here.

    ``next`` gives a Received, or None when nothing came for ``idle_s``. Ends after ``timeout_s``
    without a message (None: never). ``latest``: of what has queued up on one topic, only the
    newest is given (``skipped`` counts the rest): for frames on a display.
    """

    def __init__(
        self,
        prefixes: Iterable[str] = ("",),
        endpoint: str | None = None,
        *,
        timeout_s: float | None = None,
        idle_s: float = IDLE_S,
        snapshot: bool = False,
        latest: bool = False,
        queue: int = QUEUE,
    ) -> None:
        self.endpoint = endpoint or default_endpoint()
        self.prefixes = list(prefixes)
        self.reception = Reception()
        self.skipped = 0
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._latest = latest
        self._context = zmq.Context()
        self._socket = _socket(self._context, self.endpoint, self.prefixes, queue)
        self._waiting: list[Received] = []
        self._heard_s = time.monotonic()
        if snapshot:
            with contextlib.suppress(ClientError):  # no daemon yet: there is no state either
                self._ask_snapshot()

    @property
    def lost(self) -> int:
        """How many messages this subscriber lost (it was too slow, or away)."""
        return self.reception.lost

    def _ask_snapshot(self) -> None:
        for prefix in self.prefixes:
            reply = request(
                request_endpoint(self.endpoint), {"op": "snapshot", "prefix": prefix}, 0.5
            )
            self._waiting += self.reception.take_snapshot(reply)

    def __iter__(self) -> Iterator[Received | None]:
        return self

    def __next__(self) -> Received | None:
        if self._waiting:
            return self._waiting.pop(0)
        wait_s = self._idle_s
        if self._timeout_s is not None:
            left_s = self._heard_s + self._timeout_s - time.monotonic()
            if left_s <= 0:
                raise StopIteration
            wait_s = min(wait_s, left_s)
        if not self._socket.poll(max(1, round(wait_s * 1000))):
            return None
        self._heard_s = time.monotonic()
        if self._latest:
            self._drain_to_latest()
            return self._waiting.pop(0) if self._waiting else None
        return self.reception.take(self._socket.recv_multipart())

    def _drain_to_latest(self) -> None:
        newest: dict[str, Received] = {}
        with contextlib.suppress(zmq.Again):
            for _ in range(QUEUE):
                received = self.reception.take(self._socket.recv_multipart(zmq.NOBLOCK))
                if received is not None:
                    self.skipped += newest.pop(received.topic, None) is not None
                    newest[received.topic] = received
        self._waiting = list(newest.values())

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def raw(
    prefixes: Iterable[str] = ("",), endpoint: str | None = None, timeout_s: float | None = None
) -> Stream:
    """Every message under the prefixes as (topic, payload, lost), None when idle for 50 ms."""
    return Stream(prefixes, endpoint, timeout_s=timeout_s)


class Subscription:
    """Gesture events, as an iterator and a context manager; see ``subscribe``."""

    def __init__(self, stream: Stream, kinds: Kinds, labels: Iterable[str] | None) -> None:
        self._stream = stream
        self._chosen = _Chosen(kinds, labels)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while True:
            received = next(self._stream)
            if received is not None and (event := self._chosen.event(received)) is not None:
                return event

    @property
    def lost(self) -> int:
        """How many messages of its topics this subscriber lost."""
        return self._stream.lost

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Chosen:
    """Which events the subscriber asked for."""

    def __init__(self, kinds: Kinds, labels: Iterable[str] | None) -> None:
        self.kinds = None if kinds == "all" else frozenset(kinds)
        self.labels = None if labels is None else frozenset(labels)

    def event(self, received: Received) -> Event | None:
        try:
            event = received.message()
        except MessageError:
            return None
        if not isinstance(event, Event):
            return None
        if self.kinds is not None and event.kind not in self.kinds:
            return None
        if self.labels is not None and event.label not in self.labels:
            return None
        return event


def _prefix(device: str | None, hand: str | None) -> str:
    if device is None:
        if hand is not None:
            raise ValueError("a hand is chosen together with its device")
        return "gesture/"
    return f"gesture/{device}/" if hand is None else f"gesture/{device}/{hand}/"


def subscribe(
    endpoint: str | None = None,
    *,
    kinds: Kinds = ("confirmed",),
    labels: Iterable[str] | None = None,
    device: str | None = None,
    hand: str | None = None,
    timeout_s: float | None = None,
) -> Subscription:
    """Gesture events as they come, for ever (or until none came for ``timeout_s``).

    By default one event a gesture, when it is confirmed. ``kinds="all"`` gives every step
    (``begin``, ``update``, ``early``, ``confirmed``, ``cancelled``, with one ``id``); choose
    ``("early", "cancelled")`` for the lowest delay. ``endpoint``: the gateway's, else
    $HGR_ENDPOINT, else loopback. Raises ClientError for what is no endpoint; a daemon that is not
    there yet is waited for.
    """
    stream = Stream([_prefix(device, hand)], endpoint, timeout_s=timeout_s, snapshot=True)
    return Subscription(stream, kinds, labels)


async def subscribe_async(
    endpoint: str | None = None,
    *,
    kinds: Kinds = ("confirmed",),
    labels: Iterable[str] | None = None,
    device: str | None = None,
    hand: str | None = None,
    timeout_s: float | None = None,
) -> AsyncIterator[Event]:
    """``subscribe`` for asyncio: ``async for event in hgr_stream.subscribe_async(): ...``"""
    public = endpoint or default_endpoint()
    prefix = _prefix(device, hand)
    chosen, reception = _Chosen(kinds, labels), Reception()
    context = zmq.asyncio.Context()
    socket = _socket(context, public, [prefix], QUEUE)
    try:
        present: list[Received] = []
        with contextlib.suppress(ClientError):
            ask = {"op": "snapshot", "prefix": prefix}
            reply = await asyncio.to_thread(request, request_endpoint(public), ask, 0.5)
            present = reception.take_snapshot(reply)
        for received in present:
            if (event := chosen.event(received)) is not None:
                yield event
        while True:
            try:
                parts = await asyncio.wait_for(socket.recv_multipart(), timeout_s)
            except TimeoutError:
                return
            taken = reception.take(parts)
            if taken is not None and (event := chosen.event(taken)) is not None:
                yield event
    finally:
        socket.close()
        context.term()
