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
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from math import ceil, inf
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
import zmq
import zmq.asyncio

from .config import default_endpoint
from .messages import Event, Kind, Message, MessageError, cut_off, decode
from .stream import topics
from .stream.bus import alive

#: One kind, several, or all; gestures likewise: "LEFT" or ("LEFT", "RIGHT").
Kinds = Kind | Literal["all"] | Iterable[Kind]
Labels = str | Iterable[str]
QUEUE: Final = 10_000
IDLE_S: Final = 0.05
#: After how long a silence the gateway is asked whether a gesture is still open.
PATIENCE_S: Final = 2.0


_receipts: Final = msgspec.msgpack.Decoder(tuple[str, int])


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
        self.boot_id = ""  # the gateway's
        self._n: dict[str, int] = {}
        self._known: Counter[str] = Counter()  # topic -> losses counted before its number told
        self._again = False  # the gateway was started again while this subscriber was there

    def take(self, parts: list[bytes]) -> Received | None:
        """The three parts of a public message -> what it is; None for a repeat or a bad one."""
        try:
            topic_bytes, payload, receipt = parts
            topic = topic_bytes.decode()
            boot_id, n = _receipts.decode(receipt)
        except (ValueError, msgspec.MsgspecError):
            self.bad += 1
            return None
        self._booted(boot_id)
        last = self._n.get(topic, 0 if self._again else None)
        if last is not None and n <= last:
            return None  # the snapshot had it already
        self._n[topic] = n
        lost = 0 if last is None else n - last - 1
        self.lost += max(0, lost - self._known.pop(topic, 0))
        return Received(topic, payload, lost)

    def miss(self, topic: str) -> None:
        """Count a message that will not come, known before the next one on its topic tells."""
        self.lost += 1
        self._known[topic] += 1

    def _booted(self, boot_id: str) -> None:
        """A gateway that was started again counts anew, and all that it sent was for us too."""
        if boot_id != self.boot_id:
            self._again = bool(self.boot_id)
            self.boot_id = boot_id
            self._n.clear()

    def take_snapshot(self, reply: bytes) -> list[Received]:
        """The gateway's answer to a snapshot request, less what has come already."""
        answer = msgspec.msgpack.decode(reply)
        if not answer.get("ok"):
            raise ClientError(f"the daemon refused: {answer.get('text')}")
        self._booted(answer["boot_id"])
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


def _snapshot(endpoint: str, prefix: str, timeout_s: float = 0.5) -> bytes:
    """The gateway's answer to a snapshot request; raises ClientError when none comes."""
    message = {"op": "snapshot", "prefix": prefix}
    return request(request_endpoint(endpoint), message, timeout_s)


def snapshot(endpoint: str | None = None, prefix: str = "") -> list[Received]:
    """The present state under a prefix; raises ClientError when the gateway does not answer."""
    return Reception().take_snapshot(_snapshot(endpoint or default_endpoint(), prefix, 2.0))


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

    ``next`` gives a Received, or None when nothing came for ``idle_s``. Ends when none came for
    ``timeout_s`` after the last one that it gave (None: never); what has queued up meanwhile, while
    its user was busy, is given first. ``latest``: of what has queued up on one topic, only the
    newest is given (``skipped`` counts the rest): for frames on a display. ``close``, from this
    thread or another, ends the iteration too.
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
        self._closed = False
        self._using = threading.RLock()  # a socket is of one thread at a time
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
            self._waiting += self.reception.take_snapshot(_snapshot(self.endpoint, prefix))

    def __iter__(self) -> Iterator[Received | None]:
        return self

    def __next__(self) -> Received | None:
        with self._using:
            if self._closed:
                raise StopIteration
            try:
                return self._next()
            except zmq.ZMQError:
                if self._closed:  # by a signal handler, while it waited
                    raise StopIteration from None
                raise

    def _next(self) -> Received | None:
        if self._waiting:
            self._heard_s = time.monotonic()
            return self._waiting.pop(0)
        end_s = inf if self._timeout_s is None else self._heard_s + self._timeout_s
        wait_s = max(0.0, min(self._idle_s, end_s - time.monotonic()))
        if not self._socket.poll(ceil(wait_s * 1000)):
            if time.monotonic() >= end_s:
                raise StopIteration
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
        """Let go of the socket, from any thread. One that iterates meanwhile comes to its end,
        and is waited for: ``idle_s`` at most. A second call does nothing."""
        self._closed = True
        with self._using:
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


class Gestures:
    """The gestures that a subscriber was told of: pure, one per subscription, times in seconds.

    Chooses the events that the subscriber asked for, and sees to it that each gesture of which it
    told a step also ends. When nothing was heard of one for ``PATIENCE_S``, the gateway is to be
    asked (``due``, ``answer``). One that it does not hold as open, and whose end has not come
    when all that waited was taken (``ends``), is told as cancelled. A gateway that was started
    again is given as long once more: the gesture may go on, and its next step shows it. An end
    that comes later still is dropped, so that there are never two; the lost one is counted.
    """

    def __init__(self, reception: Reception, kinds: Kinds, labels: Labels | None) -> None:
        """Raises ValueError for an unknown kind, or none: it would be waited for for ever."""
        self._reception = reception
        self._kinds = None if kinds == "all" else _several(kinds)
        self._labels = None if labels is None else _several(labels)
        for name, asked in (("kinds", self._kinds), ("labels", self._labels)):
            if asked is not None and not asked:
                raise ValueError(f"{name} is empty: no event would come; leave it out")
        if unknown := (self._kinds or frozenset()) - set(get_args(Kind)):
            known = ", ".join(get_args(Kind))
            raise ValueError(f"{min(unknown)!r} is no kind of event: {known}, or 'all'")
        self._open: dict[str, _Open] = {}
        self._given_up: dict[str, str] = {}  # id -> why; to be told at the next silence
        self._ended: set[str] = set()  # ids that were told as cancelled here
        self._boot_id = ""  # of the last answer

    def take(self, received: Received, now_s: float) -> Event | None:
        """The event that a message holds; None for one that was not asked for."""
        try:
            event = received.message()
        except MessageError:
            return None
        if not isinstance(event, Event):
            return None
        if event.final:
            self._open.pop(event.id, None)
        if event.id in self._ended:
            if event.final:
                self._ended.discard(event.id)
            return None
        self._given_up.pop(event.id, None)
        chosen = self._chosen(event)
        if not event.final and (chosen or event.id in self._open):
            self._open[event.id] = _Open(received.topic, event, self._reception.boot_id, now_s)
        return event if chosen else None

    def due(self, now_s: float) -> bool:
        """Whether it is time to ask the gateway for its present state."""
        return any(now_s - g.heard_s >= PATIENCE_S for g in self._open.values())

    def answer(self, reply: bytes | None, now_s: float) -> None:
        """The gateway's answer to a snapshot request; None when it gave none."""
        answer = {} if reply is None else msgspec.msgpack.decode(reply)
        boot_id, held = answer.get("boot_id", ""), set()
        for _, payload, _ in answer.get("messages", ()):
            with contextlib.suppress(MessageError):
                held.add(decode(Event, payload).id)
        for id_, gesture in self._open.items():
            if now_s - gesture.heard_s < PATIENCE_S:
                continue
            self._open[id_] = gesture._replace(heard_s=now_s)
            again = boot_id != gesture.boot_id
            if boot_id and id_ not in held and (not again or boot_id == self._boot_id):
                reason = "the gateway was started again" if again else "its end was lost"
                self._given_up[id_] = reason
        self._boot_id = boot_id

    def ends(self) -> list[Event]:
        """The ends that are told here, now that no message waits."""
        events = []
        for id_, reason in self._given_up.items():
            if (gesture := self._open.pop(id_, None)) is None:
                continue
            self._reception.miss(gesture.topic)
            event = cut_off(gesture.event, reason)
            if self._chosen(event):
                self._ended.add(id_)
                events.append(event)
        self._given_up.clear()
        return events

    def _chosen(self, event: Event) -> bool:
        return (self._kinds is None or event.kind in self._kinds) and (
            self._labels is None or event.label in self._labels
        )


def _several(names: str | Iterable[str]) -> frozenset[str]:
    """A name alone is one name: its letters are never meant."""
    return frozenset([names] if isinstance(names, str) else names)


class _Open(NamedTuple):
    """A gesture that has begun."""

    topic: str
    event: Event  # its last step
    boot_id: str  # of the gateway that told it
    heard_s: float


class Subscription:
    """Gesture events, as an iterator and a context manager; see ``subscribe``."""

    def __init__(self, stream: Stream, gestures: Gestures, timeout_s: float | None) -> None:
        self._stream = stream
        self._gestures = gestures
        self._timeout_s = timeout_s
        self._ends: list[Event] = []

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        asked_s = time.monotonic()
        while not self._ends:
            received = next(self._stream)
            if received is None:
                self._ends = self._gestures.ends()
            elif (event := self._gestures.take(received, time.monotonic())) is not None:
                return event
            waited_s = time.monotonic() - asked_s
            if not self._ends and _is_over(waited_s, self._timeout_s, idle=received is None):
                raise StopIteration
            if self._gestures.due(time.monotonic()):
                reply = None
                with contextlib.suppress(ClientError):
                    reply = _snapshot(self._stream.endpoint, self._stream.prefixes[0])
                self._gestures.answer(reply, time.monotonic())
        return self._ends.pop(0)

    @property
    def lost(self) -> int:
        """How many messages of its topics this subscriber lost."""
        return self._stream.lost

    def close(self) -> None:
        """End it, from any thread: an iteration that waits for an event ends at once."""
        self._stream.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_over(waited_s: float, timeout_s: float | None, *, idle: bool) -> bool:
    """Whether a subscriber has waited for an event for long enough.

    What waits at that moment (``idle``: nothing) is still looked at, but not for long: events that
    were not asked for may come without end.
    """
    return timeout_s is not None and waited_s >= timeout_s + (0.0 if idle else IDLE_S)


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
    labels: Labels | None = None,
    device: str | None = None,
    hand: str | None = None,
    timeout_s: float | None = None,
) -> Subscription:
    """Gesture events as they come, for ever, or until none of those asked for came within
    ``timeout_s`` of asking for the next.

    By default one event a gesture, when it is confirmed. ``kinds="all"`` gives every step
    (``begin``, ``update``, ``early``, ``confirmed``, ``cancelled``, with one ``id``); choose
    ``("early", "cancelled")`` for the lowest delay. ``endpoint``: the gateway's, else
    $HGR_ENDPOINT, else loopback. Raises ClientError for what is no endpoint and ValueError for what
    is no kind, and for no kinds or labels at all; a daemon that is not there yet is waited for.
    ``close``, from any thread, ends it.

    Of a gesture whose end was lost (the gateway was killed, or this subscriber too slow) a
    ``cancelled`` is made here, some seconds later, with the reason; it is counted in ``lost``, and
    an end that comes later still is dropped.
    """
    idle_s = IDLE_S if timeout_s is None else min(IDLE_S, timeout_s)
    stream = Stream([_prefix(device, hand)], endpoint, idle_s=idle_s, snapshot=True)
    try:
        return Subscription(stream, Gestures(stream.reception, kinds, labels), timeout_s)
    except ValueError:
        stream.close()
        raise


async def subscribe_async(
    endpoint: str | None = None,
    *,
    kinds: Kinds = ("confirmed",),
    labels: Labels | None = None,
    device: str | None = None,
    hand: str | None = None,
    timeout_s: float | None = None,
) -> AsyncIterator[Event]:
    """``subscribe`` for asyncio: ``async for event in hgr_stream.subscribe_async(): ...``

    It ends with its task, or by ``aclose``; what it lost is not told, only what ended so.
    """
    public = endpoint or default_endpoint()
    prefix = _prefix(device, hand)
    reception = Reception()
    gestures = Gestures(reception, kinds, labels)
    idle_s = IDLE_S if timeout_s is None else min(IDLE_S, timeout_s)
    context = zmq.asyncio.Context()
    socket = _socket(context, public, [prefix], QUEUE)

    async def ask() -> bytes | None:
        with contextlib.suppress(ClientError):
            return await asyncio.to_thread(_snapshot, public, prefix)
        return None

    try:
        present = await ask()
        waiting = [] if present is None else reception.take_snapshot(present)
        asked_s = time.monotonic()
        while True:
            idle = not waiting and not await socket.poll(ceil(idle_s * 1000))
            if not idle and not waiting:
                taken = reception.take(await socket.recv_multipart())
                waiting = [] if taken is None else [taken]
            told = gestures.ends() if idle else []
            if waiting and (event := gestures.take(waiting.pop(0), time.monotonic())) is not None:
                told = [event]
            for event in told:
                yield event
                asked_s = time.monotonic()
            if _is_over(time.monotonic() - asked_s, timeout_s, idle=idle):
                return
            if gestures.due(time.monotonic()):
                gestures.answer(await ask(), time.monotonic())
    finally:
        socket.close()
        context.term()
