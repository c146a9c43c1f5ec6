"""A Motive to try the natnet driver against: NatNet's requests answered, frames of joints streamed.

It speaks the protocol as OptiTrack's server does, unicast and multicast, on a port of its own.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

from hgr_drivers.network import natnet

from tools.senders import Version, natnet_model, natnet_server_info

LOOPBACK = "127.0.0.1"


class Motive:
    """Answers whoever asks and streams to whoever has connected, or to a group.

    ``requests`` are the messages it got, ``clients`` those it streams to; ``names`` and
    ``fingers`` are the skeletons' and may be changed."""

    def __init__(self, version: Version = (3, 1), names: tuple[str, ...] = ("Fred",)) -> None:
        self.version, self.names, self.fingers = version, names, True
        self.requests: list[int] = []
        self.clients: set[tuple[str, int]] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        own = socket.inet_aton(LOOPBACK)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        self._socket.settimeout(0.05)
        self.port = int(self._socket.getsockname()[1])
        self._running = True
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Motive:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running = False
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while self._running:
            with contextlib.suppress(TimeoutError):
                self._answer(*self._socket.recvfrom(65535))

    def _answer(self, data: bytes, client: tuple[str, int]) -> None:
        message, size = struct.unpack_from("<HH", data)
        if size != len(data) - 4:
            raise ValueError(f"a request of {len(data)} bytes that says {size}")
        self.requests.append(message)
        if message == natnet.CONNECT:
            self.clients.add(client)
            self._socket.sendto(natnet_server_info(self.version), client)
        elif message == natnet.REQUEST_MODEL:
            model = natnet_model(self.names, self.version, fingers=self.fingers)
            self._socket.sendto(model, client)

    def send(self, packet: bytes, group: tuple[str, int] | None = None) -> None:
        """One packet to all clients, or to a multicast group."""
        for client in [group] if group else list(self.clients):
            self._socket.sendto(packet, client)
