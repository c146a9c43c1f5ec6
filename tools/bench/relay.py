"""Bare pyzmq processes: the floor that the pipeline is held against. No work, only bytes.

    relay.py source OUT --hz 120 --size 420           paced frames, a send stamp in each
    relay.py relay IN OUT --size 420 --share 0.208    passes on that share of what comes
    relay.py gate IN OUT --size 300                   the same, to an XPUB that binds OUT
    relay.py sink IN... [--tap ENDPOINT]              receives and forgets

A message is the sender's monotonic nanoseconds (8 bytes, little-endian) and padding. IN is bound,
OUT connected to, as in the daemon. Every one ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

import zmq


def end_with_stdin() -> None:
    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def source(out: zmq.Socket, hz: float, size: int) -> None:
    padding = bytes(size - 8)
    began_ns, k = time.monotonic_ns(), 0
    while True:
        k += 1
        wait_s = (began_ns + k * 1e9 / hz - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            time.sleep(wait_s)
        out.send(time.monotonic_ns().to_bytes(8, "little") + padding)


def relay(inlet: zmq.Socket, out: zmq.Socket, size: int, share: float, topic: bytes) -> None:
    padding, due = bytes(size - 8), 0.0
    while True:
        data = inlet.recv()
        due += share
        if due >= 1.0 - 1e-9:
            due -= 1.0
            message = data[:8] + padding
            if topic:
                out.send_multipart([topic, message])
            else:
                out.send(message)


def sink(inlets: list[zmq.Socket]) -> None:
    poller = zmq.Poller()
    for inlet in inlets:
        poller.register(inlet, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            socket.recv_multipart()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", choices=["source", "relay", "gate", "sink"])
    parser.add_argument("endpoints", nargs="+")
    parser.add_argument("--hz", type=float, default=120.0)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--tap", default="")
    arguments = parser.parse_args()
    end_with_stdin()
    context = zmq.Context()

    def bound(kind: int, endpoint: str) -> zmq.Socket:
        socket = context.socket(kind)
        socket.bind(endpoint)
        return socket

    def push(endpoint: str) -> zmq.Socket:
        socket = context.socket(zmq.PUSH)
        socket.connect(endpoint)
        return socket

    match arguments.role, arguments.endpoints:
        case "source", [out]:
            source(push(out), arguments.hz, arguments.size)
        case "relay", [inlet, out]:
            inlet_socket = bound(zmq.PULL, inlet)
            relay(inlet_socket, push(out), arguments.size, arguments.share, b"")
        case "gate", [inlet, out]:
            inlet_socket, public = bound(zmq.PULL, inlet), bound(zmq.XPUB, out)
            relay(inlet_socket, public, arguments.size, arguments.share, b"gesture/relay")
        case "sink", endpoints:
            taps = [bound(zmq.XSUB, arguments.tap)] if arguments.tap else []
            sink([bound(zmq.PULL, e) for e in endpoints] + taps)
        case role, _:
            parser.error(f"{role}: wrong number of endpoints")


if __name__ == "__main__":
    main()
