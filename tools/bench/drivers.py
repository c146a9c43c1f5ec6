"""Network drivers at 120 frames a second: what is lost on loopback, and what it costs.

Each driver runs in the process that the daemon would run it in, with the same runner; it publishes
to this process, which only receives. The sender plays moving hands in the vendor's packet format
at an even pace. The floor is the same process with a decoder that takes every packet for a ready
hand: socket, stamps, encoding and publishing, which a driver cannot do without.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil  # type: ignore[import-untyped]
import zmq
from harness import FPS, Report, cpu_shares, end, free_port, json_option, progress, synthetic_frames

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hgr_drivers.base import Driver, HandSample, Sample
from hgr_drivers.network import headset, lsl, manus, natnet, quest, rokoko, vmc, xsens
from hgr_drivers.network.geometry import t_pose_hand
from hgr_drivers.network.udp import UdpDriver, UdpOptions
from hgr_drivers.program import ProgramDriver

from hgr_stream import Publisher, TrackedHand, __version__
from hgr_stream.messages import Frame, MessageError, Status, decode
from hgr_stream.skeleton import Float32, Side, mirrored
from hgr_stream.stream.bus import DaemonInfo, private_sockets, write_daemon_file
from tools import senders
from tools.motive import Motive

TARGET_PERCENT = 10.0
START_S, SETTLE_FRAMES = 20.0, 60
Hands = dict[Side, Float32]


class _Ready:
    """Any packet is the same hand: the floor's decoder."""

    def __init__(self, n_hands: int) -> None:
        self.counts: Counter[str] = Counter()
        sides: tuple[Side, ...] = ("right", "left")
        self._hands = [HandSample(i, s, t_pose_hand(s)) for i, s in enumerate(sides[:n_hands])]
        self._index = 0

    def push(self, data: bytes, sender: str) -> Sample | None:
        self._index += 1
        return Sample(self._index * 8_333_333, self._hands, self._index)


class FloorOptions(UdpOptions):
    port: int = 0
    hands: int = 1


class FloorDriver(UdpDriver[FloorOptions]):
    name = "floor"
    Options = FloorOptions

    def _port(self) -> int:
        return self.options.port

    def _decoder(self) -> _Ready:
        return _Ready(self.options.hands)


DRIVERS: dict[str, type[Driver]] = {
    kind.name: kind
    for kind in (
        FloorDriver,
        rokoko.RokokoDriver,
        vmc.VmcDriver,
        xsens.XsensDriver,
        natnet.NatNetDriver,
        manus.ManusDriver,
        lsl.LslDriver,
        quest.QuestDriver,
        headset.HeadsetDriver,
        ProgramDriver,
    )
}


def child(name: str, run_dir: str, options: str) -> int:
    """The driver's process."""
    import msgspec
    from hgr_drivers.runner import run

    kind = DRIVERS[name]
    driver = kind(msgspec.convert(json.loads(options), kind.Options))
    return run(driver, name, Path(run_dir), supervised=True)


# -- senders ---------------------------------------------------------------------------------------


@dataclass
class Sender:
    """One protocol's: the options of the driver, and what sends frame ``i``."""

    options: dict[str, Any]
    send: Callable[[int], None]


def _sends(out: socket.socket, port: int, frames: Sequence[Sequence[bytes]]) -> Sender:
    def send(i: int) -> None:
        for packet in frames[i % len(frames)]:
            out.sendto(packet, ("127.0.0.1", port))

    return Sender({"port": port}, send)


@contextlib.contextmanager
def sender(name: str, motion: list[Hands]) -> Iterator[Sender]:
    """What plays ``motion`` round and round to a driver."""
    n = len(motion)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        port = free_port()
        if name == "floor":
            made = _sends(out, port, [[bytes(2000)]])
            made.options["hands"] = len(motion[0])
            yield made
        elif name == "rokoko":
            packets = [
                [senders.rokoko_packet({"A": h}, i / FPS, fps=FPS)] for i, h in enumerate(motion)
            ]
            yield _sends(out, port, packets)
        elif name == "xsens":
            yield _sends(
                out,
                port,
                [senders.xsens_datagrams(h, i, round(1e3 * i / FPS)) for i, h in enumerate(motion)],
            )
        elif name == "vmc":
            yield _sends(
                out,
                port,
                [senders.vmc_packets(senders.vmc_bones(h), i / FPS) for i, h in enumerate(motion)],
            )
        elif name == "natnet":
            server = stack.enter_context(Motive())
            frames = [senders.natnet_frame([h], i, i / FPS) for i, h in enumerate(motion)]
            yield Sender(
                {"command_port": server.port}, lambda i: server.send(frames[i % len(frames)])
            )
        elif name == "quest":

            def from_quest(i: int) -> None:
                # Both hands in one packet: apart they are two frames.
                packet = b"".join(
                    senders.quest_packet(j, s, i + 1, round(1e9 * i / FPS))
                    for s, j in motion[i % n].items()
                )
                out.sendto(packet, ("127.0.0.1", port))

            yield Sender({"port": port}, from_quest)
        elif name == "headset":
            hands = [{s: senders.openxr_points(j) for s, j in h.items()} for h in motion]
            yield Sender({"port": port}, _Headset(port, hands).send)
        elif name == "program":
            endpoint = f"tcp://127.0.0.1:{port}"
            publisher = stack.enter_context(Publisher(endpoint))

            def from_program(i: int) -> None:
                publisher.send(
                    *(TrackedHand(j, s) for s, j in motion[i % n].items()),
                    time_ns=round(1e9 * i / FPS),
                )

            yield Sender({"endpoint": endpoint}, from_program)
        elif name == "manus":
            context = stack.enter_context(zmq.Context())
            push = stack.enter_context(context.socket(zmq.PUSH))
            push.setsockopt(zmq.LINGER, 0)
            endpoint = f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}"
            ids: dict[Side, str] = {"left": "aaaa", "right": "bbbb"}
            texts = [senders.manus_message([(ids[s], j) for s, j in h.items()]) for h in motion]

            def to_glove(i: int) -> None:
                with contextlib.suppress(
                    zmq.Again
                ):  # nobody is connected: the bridge drops it, too
                    push.send(texts[i % n], zmq.NOBLOCK)

            yield Sender({"endpoint": endpoint, "left": "aaaa", "right": "bbbb"}, to_glove)
        else:
            import pylsl

            stream = f"bench-{os.getpid()}-{port}"
            outlets = {
                side: pylsl.StreamOutlet(lsl.stream_info(stream, side, f"{stream}-{side}", FPS))
                for side in motion[0]
            }
            values = [{s: j.ravel().tolist() for s, j in h.items()} for h in motion]

            def send(i: int) -> None:
                for side, outlet in outlets.items():
                    outlet.push_sample(values[i % n][side])

            yield Sender({"stream": stream}, send)


class _Headset:
    """A headset's app: it connects as soon as somebody listens."""

    def __init__(self, port: int, hands: list[dict[Side, Any]]) -> None:
        self._url, self._hands = f"ws://127.0.0.1:{port}", hands
        self._connection: Any = None

    def send(self, i: int) -> None:
        from websockets.sync.client import connect

        if self._connection is None:
            try:
                self._connection = connect(self._url, compression=None)
            except OSError:
                return
        message = senders.headset_message(self._hands[i % len(self._hands)], 1e3 * i / FPS)
        self._connection.send(message)


# -- one run ---------------------------------------------------------------------------------------


@dataclass
class Result:
    sent: int = 0
    received: int = 0
    percent: float = 0.0
    hands: int = 0
    told: str = ""  #: what the driver itself counts as lost or refused


def measure(name: str, n_hands: int, seconds: float) -> Result:
    """One driver for ``seconds`` at 120 frames a second."""
    sides: tuple[Side, ...] = ("right", "left")[:n_hands]
    right = [frame.hands[0].array() for frame in synthetic_frames(4.0, pause_s=0.2) if frame.hands]
    motion: list[Hands] = [
        {side: j if side == "right" else mirrored(j) for side in sides} for j in right
    ]
    result = Result()
    with (
        tempfile.TemporaryDirectory(prefix="hgr-bench-") as folder,
        zmq.Context() as context,
        sender(name, motion) as source,
    ):
        run_dir = Path(folder)
        sockets = private_sockets(run_dir)
        write_daemon_file(
            run_dir, DaemonInfo(os.getpid(), "bench", __version__, "", sockets, [name], "")
        )
        with contextlib.ExitStack() as stack:
            inlets = {}
            for key, kind in (("frames", zmq.PULL), ("status", zmq.PULL), ("tap", zmq.XSUB)):
                inlet = stack.enter_context(context.socket(kind))
                inlet.setsockopt(zmq.LINGER, 0)
                inlet.bind(sockets[key])
                inlets[key] = inlet
            argv = [sys.executable, __file__, "child", name, folder, json.dumps(source.options)]
            thrifty = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            popen = subprocess.Popen(argv, stdin=subprocess.PIPE, env=thrifty)
            stack.callback(end, popen)
            _run(name, source, inlets, psutil.Process(popen.pid), seconds, result)
    return result


def _run(
    name: str,
    source: Sender,
    inlets: dict[str, zmq.Socket],
    process: psutil.Process,
    seconds: float,
    result: Result,
) -> None:
    received = itertools.count()
    seen = {"n": 0, "hands": 0}
    status: dict[str, Status] = {}
    stop = threading.Event()

    def receive() -> None:
        poller = zmq.Poller()
        for inlet in inlets.values():
            poller.register(inlet, zmq.POLLIN)
        while not stop.is_set():
            for inlet, _ in poller.poll(100):
                data = inlet.recv_multipart()[-1]
                if inlet is inlets["frames"]:
                    seen["n"] = next(received) + 1
                    if seen["n"] % 50 == 1:
                        seen["hands"] = len(decode(Frame, data).hands)
                elif inlet is inlets["status"]:
                    with contextlib.suppress(MessageError):
                        status["last"] = decode(Status, data)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        number = itertools.count()
        started_s = time.monotonic()
        while seen["n"] == 0:  # until the driver listens and is connected
            if time.monotonic() > started_s + START_S:
                raise click.ClickException(f"no frame of {name} came")
            source.send(next(number))
            time.sleep(0.2)
        time.sleep(0.5)
        warm = seen["n"]
        shares: dict[str, float] = {}
        measuring = threading.Thread(
            target=lambda: shares.update(cpu_shares({name: process}, seconds))
        )
        began_s = time.monotonic()
        total = SETTLE_FRAMES + round(FPS * seconds) + round(FPS / 4)
        for i in range(total):
            time.sleep(max(0.0, began_s + i / FPS - time.monotonic()))
            source.send(next(number))
            if i == SETTLE_FRAMES:
                measuring.start()
        measuring.join()
        with contextlib.suppress(click.ClickException):
            _await(lambda: seen["n"] - warm >= total, "all frames", 1.0)
        time.sleep(1.1)  # its last status
        result.sent, result.received = total, seen["n"] - warm
        result.percent, result.hands = shares[name], seen["hands"]
        result.told = ", ".join(
            f"{k} {v}"
            for k, v in status["last"].counts.items()
            if v and k not in ("frames", "datagrams", "messages", "sent", "clock_loops")
        )
    finally:
        stop.set()
        thread.join()


def _await(condition: Callable[[], bool], what: str, timeout_s: float = START_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise click.ClickException(f"{what} did not come")
        time.sleep(0.01)


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/drivers.py
  python tools/bench/drivers.py --only vmc --only xsens --seconds 10 --hands 2
""",
)
@click.option("--seconds", default=6.0, show_default=True, help="Of each driver.")
@click.option("--hands", default=1, show_default=True, type=click.IntRange(1, 2))
@click.option("--only", multiple=True, type=click.Choice(sorted(set(DRIVERS) - {"floor"})))
@json_option
def main(seconds: float, hands: int, only: tuple[str, ...], as_json: bool) -> None:
    report = Report("network drivers")
    rows: list[dict[str, Any]] = []
    floor = 0.0
    for name in ["floor", *(n for n in DRIVERS if n != "floor" and (not only or n in only))]:
        progress(f"{name}: {seconds:g} s, {hands} hand(s)")
        try:
            result = measure(name, hands, seconds)
        except click.ClickException as error:
            report.notes.append(f"{name}: {error.message}")
            continue
        sent = result.sent * (hands if name == "lsl" else 1)
        lost = sent - result.received
        floor = floor or result.percent
        if name != "floor":
            report.add(
                f"{name}, {hands} hand(s) at {FPS:g} fps",
                result.percent / hands,
                "% of a core a hand",
                floor=floor / hands,
                spread=f"{lost} of {sent} lost",
                target=f"< {TARGET_PERCENT:g} %, none lost",
                holds=result.percent / hands < TARGET_PERCENT and lost == 0,
            )
        rows.append(
            {
                "driver": name,
                "sent": sent,
                "received": result.received,
                "lost": lost,
                "hands in a frame": result.hands,
                "CPU %": round(result.percent, 2),
                "told": result.told,
            }
        )
    report.tables["each run"] = rows
    report.show(as_json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        sys.exit(child(*sys.argv[2:5]))
    main()
