"""The shell that the datagram protocols share: a bounded socket and clear words.

The socket listens on loopback unless ``host`` says otherwise, and to ``senders`` only where they
are named. When packets come faster than they are read, the newest are kept and the rest is
counted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import struct
import sys
from abc import abstractmethod
from collections import Counter, deque
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, ClassVar, Final, Generic, Protocol, TypeVar

from msgspec import Meta

from ..base import DeviceError, Options
from .geometry import Heading
from .packets import BACKLOG, PacketDriver, PacketError

__all__ = ["PacketError", "Port", "Socket", "UdpDriver", "UdpOptions", "UdpSocket"]

log = logging.getLogger(__name__)

MAX_DATAGRAM_BYTES: Final = 65_535
#: Linux tells how many datagrams the socket's buffer had no room for; Python has no name for it.
_SO_RXQ_OVFL: Final = 40
_COUNT: Final = struct.Struct("=I")

Port = Annotated[int, Meta(ge=0, le=65_535)]


class UdpOptions(Options):
    """Keys that every datagram driver has."""

    host: str = "127.0.0.1"  #: own address to listen on; "0.0.0.0": all, for senders elsewhere
    senders: list[str] = []  #: listen to these addresses or networks only; empty: to all
    receive_buffer_bytes: Annotated[int, Meta(ge=4096, le=1 << 26)] = 1 << 20
    heading_deg: Heading = 0.0  #: turn the hands about the vertical


class Socket(Protocol):
    """What a driver of this shell listens on."""

    kind: str
    port: int
    counts: Counter[str]

    def receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        """The next packet and its sender, or None when none came in time."""

    def close(self) -> None:
        """Let go of the port."""


class UdpSocket:
    """A bound datagram socket with a bounded backlog."""

    kind = "UDP"

    def __init__(self, options: UdpOptions, port: int, cure: str, *, group: str = "") -> None:
        """``group``: a multicast group to join. Raises DeviceError naming the port and the cure."""
        self.counts: Counter[str] = Counter()
        self._allowed = networks(options.senders)
        self._group = group
        self._verdicts: dict[str, bool] = {}
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._overflow = 0
        self.socket = self._bound(options, port, cure)
        self.port = int(self.socket.getsockname()[1])

    def _bound(self, options: UdpOptions, port: int, cure: str) -> socket.socket:
        host = options.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        out = socket.socket(family, socket.SOCK_DGRAM)
        try:
            out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.receive_buffer_bytes)
            if sys.platform == "linux":
                out.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            if self._group:  # several receivers may share a group's port
                out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                out.bind(("", port))
                member = socket.inet_aton(self._group) + socket.inet_aton(host)
                out.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            else:
                out.bind((host, port))
            out.setblocking(False)
        except (OSError, OverflowError, TypeError, ValueError) as error:
            out.close()
            code = getattr(error, "errno", None)
            if code in (errno.EADDRINUSE, errno.EACCES):
                why = "is in use" if code == errno.EADDRINUSE else "may not be opened"
                raise DeviceError(f"UDP port {port} on {host} {why}", cure) from None
            # A TypeError is a host that cannot be a name: a label of over 63 characters.
            if code == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror | TypeError):
                raise DeviceError(
                    f"this machine has no address {host}",
                    'set host to one of its own addresses, or to "0.0.0.0"',
                ) from None
            raise DeviceError(f"cannot listen on {host}:{port}: {error}", cure) from None
        return out

    def receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        """The next datagram and its sender's address, or None when none came in time.

        Raises DeviceError when the network is gone."""
        if not self._waiting:
            if not self._drain() and timeout_s > 0:
                # A closed socket and an interrupt both end here; the next drain tells them apart.
                with contextlib.suppress(OSError, ValueError):
                    select.select([self.socket], [], [], timeout_s)
                self._drain()
        elif len(self._waiting) < BACKLOG // 2:
            self._drain()
        return self._waiting.popleft() if self._waiting else None

    def _drain(self) -> bool:
        """Take what the system holds, so that its small buffer stays free."""
        got = False
        for _ in range(BACKLOG):
            try:
                data, address = self._datagram()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionResetError:
                continue  # an earlier answer of ours reached nobody
            except OSError as error:
                raise DeviceError(
                    f"lost UDP port {self.port}: {error}", "check the network"
                ) from None
            self.counts["datagrams"] += 1
            if not self._listens_to(sender := str(address[0])):
                self.counts["foreign_sender"] += 1
                continue
            if len(self._waiting) >= BACKLOG:
                self._waiting.popleft()
                self.counts["overtaken"] += 1
            self._waiting.append((data, sender))
            got = True
        return got

    def _datagram(self) -> tuple[bytes, tuple[object, ...]]:
        if sys.platform == "linux":
            data, ancillary, _, address = self.socket.recvmsg(MAX_DATAGRAM_BYTES, 64)
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL) and len(value) >= 4:
                    total = _COUNT.unpack(value[:4])[0]
                    self.counts["lost_in_full_buffer"] += (total - self._overflow) % (1 << 32)
                    self._overflow = total
        else:
            data, address = self.socket.recvfrom(MAX_DATAGRAM_BYTES)
        return data, address

    def _listens_to(self, sender: str) -> bool:
        if not self._allowed:
            return True
        verdict = self._verdicts.get(sender)
        if verdict is None:
            if len(self._verdicts) > 1000:  # somebody makes addresses up
                self._verdicts.clear()
            verdict = self._verdicts[sender] = among(sender, self._allowed)
            if not verdict:
                log.warning("port %d: %s is not among senders, not heard", self.port, sender)
        return verdict

    def close(self) -> None:
        self.socket.close()


def networks(senders: list[str]) -> list[IPv4Network | IPv6Network]:
    try:
        return [ip_network(sender, strict=False) for sender in senders]
    except ValueError as error:
        raise DeviceError(
            f"senders: {error}", 'write addresses like "192.168.1.20" or "192.168.1.0/24"',
            fatal=True,
        ) from None  # fmt: skip


def among(sender: str, allowed: list[IPv4Network | IPv6Network]) -> bool:
    """Whether an address, as a socket gives it, is in one of the networks."""
    address = ip_address(sender.partition("%")[0])
    # On host = "::" IPv4's addresses come as ::ffff:192.168.1.20; either form may be in senders.
    forms = [address, getattr(address, "ipv4_mapped", None) or address]
    return any(form in network for network in allowed for form in forms)


U = TypeVar("U", bound=UdpOptions)


class UdpDriver(PacketDriver[U], Generic[U]):
    """A driver of one datagram protocol."""

    holder: ClassVar[str] = ""  #: which program usually holds the port when we cannot have it

    def __init__(self, options: U) -> None:
        super().__init__(options)
        self._socket: Socket | None = None
        self._socket_counts: Counter[str] = Counter()

    @abstractmethod
    def _port(self) -> int:
        """The configured port to listen on."""

    @property
    def port(self) -> int:
        """The port that is listened on; the configured one while closed."""
        return self._socket.port if self._socket else self._port()

    def check(self) -> None:
        """DeviceError for senders that are no addresses."""
        networks(self.options.senders)

    def listens_at(self) -> str:
        port = self._port()  # 0: the system chooses one
        return f"udp://{self.options.host}:{port}" if port else ""

    def _connect(self) -> None:
        cure = f"close {self.holder}, or send to another port and set port here"
        self._socket = self._listen(cure)

    def _listen(self, cure: str) -> Socket:
        """The bound socket; raises DeviceError with ``cure`` when the port is not to be had."""
        return UdpSocket(self.options, self._port(), cure)

    def _receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        if self._socket is None:
            raise DeviceError(f"the {self.name} driver is not open")
        return self._socket.receive(timeout_s)

    def _where(self) -> str:
        kind = self._socket.kind if self._socket else UdpSocket.kind
        return f"{kind} {self.options.host}:{self.port}"

    def _nothing(self) -> DeviceError:
        error = super()._nothing()
        if self._socket is not None and self._socket.counts["foreign_sender"]:
            error.cure = "packets of other addresses are ignored: add theirs to senders"
        elif self.options.host in ("127.0.0.1", "::1", "localhost"):
            error.cure += '; a sender on another machine needs host = "0.0.0.0" here'
        return error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket_counts.update(self._socket.counts)
            self._socket = None

    def counts(self) -> dict[str, int]:
        """``datagrams``, those lost (``lost_in_full_buffer``, ``overtaken``) or not heard
        (``foreign_sender``), ``refused_<reason>``, and what the decoder counts."""
        own = self._socket_counts + (self._socket.counts if self._socket else Counter())
        return {**own, **super().counts()}
