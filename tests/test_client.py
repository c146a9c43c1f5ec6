"""What a subscriber knows: what it lost, and the end of each gesture that it was told of."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec
import pytest
import zmq

from hgr_stream import client
from hgr_stream.cli.demo import free_port
from hgr_stream.client import PATIENCE_S, Gestures, Kinds, Received, Reception, Stream
from hgr_stream.config import default_endpoint
from hgr_stream.messages import Event, encode
from hgr_stream.stream import topics


class Listener:
    """A subscriber's state, and a gateway whose messages it gets or misses."""

    def __init__(self, kinds: Kinds = "all") -> None:
        self.reception = Reception()
        self.gestures = Gestures(self.reception, kinds, None)
        self.restart("a")
        self.now_s = 0.0

    def restart(self, boot_id: str) -> None:
        self.boot_id, self.sent, self.held = boot_id, 0, dict[str, tuple[str, bytes, int]]()

    def step(self, kind: str, id_: str = "g1", *, missed: bool = False) -> list[str]:
        event = Event(id_, kind, "PINCH", "leap", "right", "right", 1, 7, 0.9)  # type: ignore[arg-type]
        topic, payload = topics.of(event), encode(event)
        self.sent += 1
        if kind in ("confirmed", "cancelled"):
            self.held.pop(id_, None)
        else:
            self.held[id_] = (topic, payload, self.sent)
        if missed:
            return []
        receipt = msgspec.msgpack.encode([self.boot_id, self.sent])
        received = self.reception.take([topic.encode(), payload, receipt])
        assert isinstance(received, Received)
        told = self.gestures.take(received, self.now_s)
        return [] if told is None else [told.kind]

    def silence(self, *, answers: bool = True) -> list[Event]:
        """Patience runs out, the gateway is asked (and may be gone), nothing waits."""
        self.now_s += PATIENCE_S
        if self.gestures.due(self.now_s):
            reply = {"ok": True, "boot_id": self.boot_id, "messages": list(self.held.values())}
            encoded = msgspec.msgpack.encode(reply) if answers else None
            self.gestures.answer(encoded, self.now_s)
        return self.gestures.ends()


@pytest.mark.parametrize("kinds", ["all", ("early", "cancelled")])
def test_a_gesture_open_when_the_gateway_was_killed_ends_once(kinds: Kinds) -> None:
    listener = Listener(kinds)
    listener.step("begin")
    listener.step("early")
    assert listener.silence(answers=False) == []
    listener.restart("b")
    assert listener.silence() == []  # it may go on
    [end] = listener.silence()
    assert (end.id, end.kind, end.label) == ("g1", "cancelled", "PINCH")
    assert (end.reason, end.offset_ns) == ("the gateway was started again", 7)
    assert listener.reception.lost == 1
    assert listener.step("confirmed") == []  # too late: it has ended
    assert listener.reception.lost == 1
    assert listener.silence() == []
    listener.step("early", "g2")
    assert listener.step("confirmed", "g2") == (["confirmed"] if kinds == "all" else [])


def test_a_gesture_that_goes_on_past_a_restart_ends_by_itself() -> None:
    for steps in (["confirmed"], ["update", "confirmed"]):
        listener = Listener()
        listener.step("begin")
        listener.restart("b")
        assert listener.silence() == []
        for step in steps:
            assert listener.step(step) == [step]
            assert listener.silence() == []
        assert listener.silence() == []
        assert listener.reception.lost == 0


def test_what_the_new_gateway_sent_before_the_return_is_lost_and_counted_once() -> None:
    listener = Listener()
    listener.step("begin")
    listener.restart("b")
    listener.step("confirmed", missed=True)
    listener.silence()
    assert len(listener.silence()) == 1
    assert listener.reception.lost == 1
    listener.step("begin", "g2", missed=True)
    listener.step("early", "g2")
    assert listener.reception.lost == 2


def test_an_end_lost_by_being_slow_is_told_and_counted_once() -> None:
    listener = Listener()
    listener.step("begin")
    listener.step("confirmed", missed=True)
    [end] = listener.silence()
    assert (end.kind, end.reason) == ("cancelled", "its end was lost")
    listener.step("begin", "g2")
    assert listener.reception.lost == 1


def test_a_gesture_that_the_gateway_holds_stays_open_however_long() -> None:
    listener = Listener()
    listener.step("begin")
    for _ in range(5):
        assert listener.silence() == []
    assert listener.step("confirmed") == ["confirmed"]


def test_who_asked_for_confirmed_alone_gets_it_whenever_it_comes() -> None:
    listener = Listener(("confirmed",))
    listener.step("begin")
    listener.restart("b")
    assert [listener.silence() for _ in range(3)] == [[], [], []]
    assert listener.step("confirmed") == ["confirmed"]
    listener = Listener(("early", "confirmed"))  # no end of ours is told: there is only the other
    listener.step("early")
    listener.restart("b")
    assert [listener.silence() for _ in range(3)] == [[], [], []]
    assert listener.step("confirmed") == ["confirmed"]


def first_two(endpoint: str) -> list[Event]:
    with client.subscribe(endpoint, kinds="all", timeout_s=5) as events:
        return [next(events), next(events)]


def first_two_async(endpoint: str) -> list[Event]:
    async def gather() -> list[Event]:
        got = []
        async for event in client.subscribe_async(endpoint, kinds="all", timeout_s=5):
            got.append(event)
            if len(got) == 2:
                break
        return got

    return asyncio.run(gather())


@pytest.mark.parametrize("listen", [first_two, first_two_async])
def test_over_sockets_a_new_gateway_ends_what_the_old_one_began(
    listen: Callable[[str], list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is published: the silence alone brings the end."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.1)
    port, over = free_port(), threading.Event()
    boots = ["a", *["b"] * 100]  # asked first at the start
    begun = Event("g1", "begin", "PINCH", "leap", "right", "right", 1, 7, 0.9)

    def gateway() -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as public:
            answers = context.socket(zmq.REP)
            public.bind(f"tcp://127.0.0.1:{port}")
            answers.bind(f"tcp://127.0.0.1:{port + 1}")
            while not over.is_set():
                if public.poll(10):
                    public.recv()
                    receipt = msgspec.msgpack.encode(["a", 1])
                    public.send_multipart([topics.of(begun).encode(), encode(begun), receipt])
                if answers.poll(10):
                    answers.recv()
                    reply = {"ok": True, "boot_id": boots.pop(0), "messages": []}
                    answers.send(msgspec.msgpack.encode(reply))
            answers.close(0)

    thread = threading.Thread(target=gateway)
    thread.start()
    try:
        begin, end = listen(f"tcp://127.0.0.1:{port}")
    finally:
        over.set()
        thread.join()
    assert (begin.kind, end.kind, end.id) == ("begin", "cancelled", "g1")
    assert end.reason == "the gateway was started again"


# -- waiting, over sockets --------------------------------------------------------------------


@contextmanager
def gateway(label: str, n: int, *, again_s: float | None = None) -> Iterator[str]:
    """A public socket that tells a subscriber of n confirmed gestures at once, and then of one
    after each ``again_s``; its endpoint."""
    port, over, numbers = free_port(), threading.Event(), count(1)

    def tell(public: zmq.Socket) -> None:
        number = next(numbers)
        event = Event(f"g{number}", "confirmed", label, "leap", "right", "right", 1, 7, 0.9)
        receipt = msgspec.msgpack.encode(["a", number])
        public.send_multipart([topics.of(event).encode(), encode(event), receipt])

    def serve() -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as public:
            public.bind(f"tcp://127.0.0.1:{port}")
            while not over.is_set() and not public.poll(10):
                pass
            for _ in range(n):
                tell(public)
            while not over.wait(again_s or 0.01):
                if again_s:
                    tell(public)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        over.set()
        thread.join()


def listen(endpoint: str, busy_s: float = 0.0, **options: object) -> tuple[list[str], float]:
    """The ids that come until the subscription ends, each keeping its user busy, and how long
    after that the end was."""
    got, end_s = [], time.monotonic()
    with client.subscribe(endpoint, **options) as events:  # type: ignore[arg-type]
        asked_s = time.monotonic()
        for event in events:
            got.append(event.id)
            time.sleep(busy_s)
            asked_s = time.monotonic()
        end_s = time.monotonic()
    return got, end_s - asked_s


def listen_async(endpoint: str, busy_s: float = 0.0, **options: object) -> tuple[list[str], float]:
    """The same with asyncio; the start counts too."""

    async def gather() -> tuple[list[str], float]:
        got, asked_s = [], time.monotonic()
        async for event in client.subscribe_async(endpoint, **options):  # type: ignore[arg-type]
            got.append(event.id)
            await asyncio.sleep(busy_s)
            asked_s = time.monotonic()
        return got, time.monotonic() - asked_s

    return asyncio.run(gather())


both = pytest.mark.parametrize("listened", [listen, listen_async])
FIVE = [f"g{n}" for n in range(1, 6)]


@both
def test_a_timeout_ends_only_what_has_nothing_more_to_give(
    listened: Callable[..., tuple[list[str], float]],
) -> None:
    """The user is busy with each for longer than the timeout; all have come long ago."""
    with gateway("LEFT", 5) as endpoint:
        got, waited_s = listened(endpoint, 0.6, timeout_s=0.5)
    assert got == FIVE
    assert 0.5 <= waited_s < 1.5


@both
def test_a_timeout_is_of_the_events_that_were_asked_for(
    listened: Callable[..., tuple[list[str], float]],
) -> None:
    with gateway("LEFT", 5, again_s=0.01) as endpoint:
        got, waited_s = listened(endpoint, labels=["RIGHT"], timeout_s=0.5)
    assert got == []
    assert 0.5 <= waited_s < 2


def test_a_stream_that_was_not_asked_for_long_gives_what_waits() -> None:
    with gateway("LEFT", 5) as endpoint, Stream(endpoint=endpoint, timeout_s=0.5) as stream:
        got = 0
        for received in stream:
            if received is not None:
                got += 1
                time.sleep(0.6)
    assert got == 5


def test_a_display_is_given_the_newest_alone_and_told_how_many_it_skipped() -> None:
    with gateway("LEFT", 5) as endpoint, Stream(endpoint=endpoint, latest=True) as stream:
        time.sleep(0.5)  # it draws, while all five come
        received = next(r for r in stream if r is not None)
        assert received.message().id == "g5"  # type: ignore[attr-defined]
        assert (stream.skipped, stream.lost) == (4, 0)
        assert next(stream) is None


@both
@pytest.mark.parametrize("options", [{"labels": "LEFT"}, {"kinds": "confirmed"}, {"kinds": "all"}])
def test_one_name_alone_is_one_name(
    listened: Callable[..., tuple[list[str], float]], options: dict[str, str]
) -> None:
    with gateway("LEFT", 5) as endpoint:
        assert listened(endpoint, timeout_s=0.5, **options)[0] == FIVE


@both
@pytest.mark.parametrize("kinds", ["confirm", ("begin", "end"), ["confirmed", "all"]])
def test_an_unknown_kind_is_refused_and_the_known_are_told(
    listened: Callable[..., tuple[list[str], float]], kinds: object
) -> None:
    with pytest.raises(ValueError, match="is no kind of event: begin, update, early, confirmed"):
        listened("tcp://127.0.0.1:1", kinds=kinds)


@both
@pytest.mark.parametrize("nothing", [{"labels": []}, {"kinds": ()}])
def test_asking_for_nothing_is_refused(
    listened: Callable[..., tuple[list[str], float]], nothing: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="is empty: no event would come"):
        listened("tcp://127.0.0.1:1", **nothing)


def test_an_empty_variable_names_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HGR_ENDPOINT", "")
    assert default_endpoint() == "tcp://127.0.0.1:6450"


def test_closing_from_another_thread_ends_the_iteration() -> None:
    """As a window's button does. No daemon is needed: it waits for one."""
    for _ in range(3):
        events = client.subscribe(f"tcp://127.0.0.1:{free_port()}")
        got: list[Event] = []
        faults: list[BaseException] = []

        def listen(events: client.Subscription, got: list, faults: list) -> None:
            try:
                got += events
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=listen, args=(events, got, faults))
        thread.start()
        time.sleep(0.01)
        events.close()
        thread.join(2)
        assert not thread.is_alive()
        assert (got, faults) == ([], [])


def test_a_closed_subscription_is_at_its_end() -> None:
    events = client.subscribe(f"tcp://127.0.0.1:{free_port()}")
    events.close()
    events.close()
    assert list(events) == []
    stream = client.Stream(endpoint=f"tcp://127.0.0.1:{free_port()}")
    stream.close()
    assert list(stream) == []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of signals")
def test_a_signal_handler_may_close_what_its_own_thread_iterates() -> None:
    events = client.subscribe(f"tcp://127.0.0.1:{free_port()}", timeout_s=10)
    before = signal.signal(signal.SIGALRM, lambda *_: events.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.12)
        began_s = time.monotonic()
        assert list(events) == []
        assert time.monotonic() - began_s < 5
    finally:
        signal.signal(signal.SIGALRM, before)
