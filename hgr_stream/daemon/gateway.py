"""The gateway: the one public door. What the pipeline tells goes out to whoever subscribed.

Wire, for any ZeroMQ SUB socket in any language, on ``tcp://HOST:PORT``: three parts,

    topic      utf-8, see ``stream.topics``
    payload    a MessagePack map, see ``messages``
    receipt    a MessagePack array [gateway's boot id, n]

n counts the messages ever sent on exactly this topic, from 1. Whoever subscribes to a prefix sees
every n of each topic under it: a step over a number is a loss, at this subscriber, whatever its
filter (``client`` counts them). Times are whole nanoseconds, of 64 bits: in JavaScript decode them
as BigInt (``useBigInt64`` of @msgpack/msgpack), or they are rounded. A subscriber that is slow or
stalled fills its own queue (``[gateway] queue``), loses what does not fit, and is felt by nobody
else.

Requests, a MessagePack map to a ROUTER on ``PORT + 1``: {"op": "ping"}, and {"op": "snapshot",
"prefix": P} for the present state: the last status of each stage, every gesture that has begun
and not ended, and the last message of each other topic. (The Clone pattern of the ZeroMQ guide:
subscribe first, ask for the snapshot second, drop what it has already counted.)

A topic travels from the stages to here only while somebody subscribes to it, except those of
which the present state is kept.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec
import zmq

from ..config import Gateway
from ..messages import Event, MessageError, Status, cut_off, decode, encode
from ..stream.bus import NOBLOCK, PORT_CURE, QUEUE, alive, bind, send_parts
from .shell import Shell, decode_request

KEPT: Final = ("gesture/", "status/", "truth/")
MAX_REQUEST_BYTES: Final = 1 << 16
MAX_TOPICS: Final = 10_000


class State:
    """The present state of the stream, and the count of each topic. Pure; bytes in, bytes out."""

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self.sent: dict[str, int] = {}
        self.last: dict[str, bytes] = {}
        self.open: dict[str, tuple[str, bytes]] = {}  # event id -> its last step
        self.worker = ""  # the boot id of the worker that the open gestures are of

    def number(self, topic: str, payload: bytes) -> bytes:
        """Take note of a message; its receipt. Raises MessageError for one that is not ours."""
        if topic not in self.sent and len(self.sent) >= MAX_TOPICS:
            raise MessageError(f"more than {MAX_TOPICS} topics")
        if topic.startswith("gesture/"):
            event = decode(Event, payload)
            if event.final:
                self.open.pop(event.id, None)
            else:
                self.open[event.id] = (topic, payload)
        else:
            self.last[topic] = payload
        n = self.sent[topic] = self.sent.get(topic, 0) + 1
        return self.receipt(n)

    def orphans(self, topic: str, payload: bytes) -> list[tuple[str, bytes]]:
        """The endings of gestures whose worker died, when this message shows that it did.

        Whoever saw them begin must see them end: each is told as cancelled, once."""
        if topic.startswith("gesture/"):
            worker = decode(Event, payload).boot_id
        elif topic == "status/worker":
            status = decode(Status, payload)
            worker = status.boot_id if status.state in ("starting", "up", "degraded") else ""
        else:
            return []
        if worker == self.worker:
            return []
        self.worker = worker
        ended = []
        for open_topic, last in self.open.values():
            event = cut_off(decode(Event, last), "the worker was started again")
            ended.append((open_topic, encode(event)))
        return ended

    def receipt(self, n: int) -> bytes:
        return msgspec.msgpack.encode([self.boot_id, n])

    def snapshot(self, prefix: str) -> list[tuple[str, bytes, int]]:
        """(topic, payload, n) of the present state under a prefix."""
        now = [*self.last.items(), *self.open.values()]
        return [(t, p, self.sent[t]) for t, p in now if t.startswith(prefix)]


class GatewayShell(Shell):
    def __init__(self, run_dir: Path, options: Gateway) -> None:
        super().__init__("gateway", run_dir)
        self.present = State(self.boot_id)
        self.tap = self.context.socket(zmq.XSUB)
        self.tap.setsockopt(zmq.RCVHWM, QUEUE)
        self.tap.setsockopt(zmq.LINGER, 0)
        self.public = self.context.socket(zmq.XPUB)
        self.public.setsockopt(zmq.SNDHWM, options.queue)
        self.public.setsockopt(zmq.LINGER, 300)
        self.requests = self.context.socket(zmq.ROUTER)
        self.requests.setsockopt(zmq.LINGER, 0)
        self.requests.setsockopt(zmq.SNDHWM, 100)
        for socket in (self.public, self.requests):
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            alive(socket)
        # Public first: when a port is taken, nothing has been disturbed yet.
        address = f"tcp://{options.host}"
        bind(self.public, f"{address}:{options.port}", "the public socket", PORT_CURE)
        bind(self.requests, f"{address}:{options.port + 1}", "its requests", PORT_CURE)
        for prefix in KEPT:
            self.tap.send(b"\x01" + prefix.encode())
        bind(self.tap, self.info.sockets["tap"], "the tap")
        for socket in (self.tap, self.public, self.requests):
            self.poller.register(socket, zmq.POLLIN)
        self.wake_socket()
        self.subscriptions: set[bytes] = set()

    def turn(self, timeout_s: float) -> None:
        ready = dict(self.poller.poll(round(timeout_s * 1000)))
        if self.public in ready:
            self._subscriptions()
        if self.tap in ready:
            self._pass_on()
        if self.requests in ready:
            self._request()

    def _pass_on(self, limit: int = 1000) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(limit):
                parts = self.tap.recv_multipart(NOBLOCK)
                try:
                    head, payload = parts
                    topic = head.decode()
                    for orphan in self.present.orphans(topic, payload):
                        self._publish(*orphan)
                        self.counts["cancelled_for_a_dead_worker"] += 1
                    self._publish(topic, payload)
                except (ValueError, MessageError) as error:
                    self.refuse(error)

    def _publish(self, topic: str, payload: bytes) -> None:
        receipt = self.present.number(topic, payload)
        send_parts(self.public, [topic.encode(), payload, receipt])
        self.counts["passed_on"] += 1

    def _subscriptions(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                parts = self.public.recv_multipart(zmq.NOBLOCK)
                data = parts[0]
                if len(parts) != 1 or data[:1] not in (b"\x00", b"\x01") or len(data) > 1024:
                    self.counts["malformed_public"] += 1
                    continue
                if data[:1] == b"\x01":
                    self.subscriptions.add(data[1:])
                else:
                    self.subscriptions.discard(data[1:])
                self.tap.send(data)

    def _request(self) -> None:
        parts = self.requests.recv_multipart()
        reply: dict[str, object]
        try:
            request = decode_request(parts[-1] if len(parts) > 1 else b"")
            if request.get("op") == "ping":
                reply = {"ok": True, "boot_id": self.boot_id, "version": self.info.version}
            elif request.get("op") == "snapshot":
                prefix = str(request.get("prefix", ""))
                reply = {
                    "ok": True,
                    "boot_id": self.boot_id,
                    "messages": self.present.snapshot(prefix),
                }
            else:
                raise ValueError(f"unknown request {request.get('op')!r}; known: ping, snapshot")
        except ValueError as error:
            self.counts["malformed_public"] += 1
            reply = {"ok": False, "text": str(error)}
        with contextlib.suppress(zmq.ZMQError):  # gone, or not reading: its own affair
            self.requests.send_multipart([*parts[:-1], msgspec.msgpack.encode(reply)], zmq.NOBLOCK)

    def beat(self) -> None:
        self.gauges = {
            "subscriptions": float(len(self.subscriptions)),
            "open_gestures": float(len(self.present.open)),
        }

    def finish(self) -> None:
        self._pass_on(10_000)
