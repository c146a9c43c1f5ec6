"""The shell of the datagram drivers: ports, senders, backlogs, and a daemon around it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hgr_drivers.base import DeviceError, Driver, Sample
from hgr_drivers.network.clock import FrameNumbers, LoopingClock
from hgr_drivers.network.headset import HeadsetDriver, HeadsetOptions
from hgr_drivers.network.lsl import LslDriver
from hgr_drivers.network.manus import ManusDriver
from hgr_drivers.network.natnet import NatNetDriver, NatNetOptions
from hgr_drivers.network.packets import BACKLOG, HandIds, PacketError
from hgr_drivers.network.quest import QuestDriver, QuestOptions
from hgr_drivers.network.rokoko import RokokoDriver, RokokoOptions
from hgr_drivers.network.vmc import VmcDriver
from hgr_drivers.network.xsens import XsensDriver
from hgr_drivers.registry import available
from hgr_drivers.runner import Stamper

from hgr_stream import config
from hgr_stream.messages import encode
from tests.daemon_process import Daemon, wait_until
from tests.hands import hand_joints
from tests.models import save_palm_model
from tests.network_hands import LOOPBACK, complaint, opened, read, refusal_to_open, sending_to
from tools.senders import rokoko_packet, xsens_datagrams

ROOT = Path(__file__).resolve().parent.parent
HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}
PACKET = rokoko_packet({"Ann": HANDS}, 1.0)


def driver(**options: object) -> RokokoDriver:
    return RokokoDriver(RokokoOptions(**{"port": 0, **options}))


def test_busy_port_names_the_port_its_holder_and_the_cure() -> None:
    with opened(driver()) as first:
        second = driver(port=first.port)
        error = refusal_to_open(second, f"UDP port {first.port} on 127.0.0.1 is in use")
        assert (
            "close the other receiver (a Rokoko plugin in Blender, Unity or Unreal)" in error.cure
        )
        assert "set port" in error.cure
        assert not error.fatal
    second.open()  # and goes on when the port is free
    with sending_to(second) as send:
        send(PACKET)
        read(second, 1)
    second.close()
    with pytest.raises(DeviceError, match="not open"):
        second.read(0)


def test_address_of_another_machine() -> None:
    error = refusal_to_open(driver(host="192.0.2.1"), "this machine has no address 192.0.2.1")
    assert "0.0.0.0" in error.cure


@pytest.mark.parametrize("host", ["192.168..5", "é" * 64])
@pytest.mark.parametrize(
    "make",
    [
        lambda host: driver(host=host),
        lambda host: HeadsetDriver(HeadsetOptions(host=host)),
        lambda host: QuestDriver(QuestOptions(host=host, transport="tcp")),
        lambda host: NatNetDriver(NatNetOptions(server=host)),
    ],
    ids=["rokoko", "headset", "quest", "natnet"],
)
def test_a_host_that_cannot_be_a_name_is_told(make: Callable[[str], Driver], host: str) -> None:
    refusal_to_open(make(host), re.escape(host))


def test_senders_that_are_no_addresses() -> None:
    error = refusal_to_open(driver(senders=["gloves"]), "senders: 'gloves'")
    assert error.fatal


def test_only_named_senders_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgr_drivers.network.packets.SILENCE_S", 0.05)
    with (
        opened(driver(host="0.0.0.0", senders=["127.0.0.8/30", "10.0.0.1"])) as device,
        sending_to(device, "127.0.0.2") as stranger,
        sending_to(device, "127.0.0.9") as friend,
    ):
        error = complaint(device, "no packet on UDP", lambda: stranger(PACKET))
        assert "add theirs to senders" in error.cure
        friend(PACKET)
        assert len(read(device, 1)[0].hands) == 2
        assert device.counts()["foreign_sender"] > 0


def test_driver_listens_on_loopback_only_unless_told() -> None:
    with opened(driver()) as device:
        assert device._socket.socket.getsockname()[0] == LOOPBACK
    with opened(driver(host="0.0.0.0")) as device, sending_to(device, "127.0.0.3") as send:
        send(PACKET)
        read(device, 1)


def test_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
            out.bind(("::1", 0))
            with opened(driver(host="::1", senders=["::1"])) as device:
                out.sendto(PACKET, ("::1", device.port))
                read(device, 1)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.parametrize("senders", ["127.0.0.1", "127.0.0.0/24", "::ffff:127.0.0.1"])
def test_ipv4_senders_are_known_on_an_ipv6_socket(senders: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with (
        opened(driver(host="::", senders=[senders])) as device,
        sending_to(device, "127.0.0.1") as friend,
        sending_to(device, "127.0.1.1") as stranger,
    ):
        stranger(PACKET)
        friend(PACKET)
        read(device, 1)
        assert device.read(0.05) is None
        assert device.counts()["foreign_sender"] == 1


def test_newest_are_kept_and_the_rest_is_counted() -> None:
    n = BACKLOG + 40
    packets = [rokoko_packet({"A": {"left": HANDS["left"]}}, i / 100, fps=100) for i in range(n)]
    with opened(driver(receive_buffer_bytes=1 << 24)) as device, sending_to(device) as send:
        waiting = device._socket
        for packet in packets:
            send(packet)
        while waiting._drain():  # as when the reader was away
            pass
        samples = read(device, BACKLOG)
        assert device.read(0) is None
        counts = device.counts()
    assert counts["overtaken"] == 40
    assert samples[-1].device_ns == round((n - 1) / 100 * 1e9)


@pytest.mark.skipif("linux" not in __import__("sys").platform, reason="Linux tells of it")
def test_what_the_system_had_no_room_for_is_counted() -> None:
    with opened(driver(receive_buffer_bytes=4096)) as device, sending_to(device) as send:
        for _ in range(50):
            send(PACKET)
        n = 0
        while device.read(0) is not None:
            n += 1
        send(PACKET)  # bears the count
        read(device, 1)
        assert n < 50
        assert device.counts()["lost_in_full_buffer"] == 50 - n


def test_counts_survive_a_reopening() -> None:
    with opened(driver()) as device:
        for _ in range(2):
            with sending_to(device) as send:
                send(b"rubbish", PACKET)
                read(device, 1)
            device.open()
        assert device.counts() == {"datagrams": 4, "refused_not_json": 2}


def test_two_devices_side_by_side() -> None:
    with opened(driver()) as one, opened(driver()) as two:
        assert one.port != two.port
        with sending_to(one) as to_one, sending_to(two) as to_two:
            to_one(PACKET)
            to_two(rokoko_packet({"Bob": {"right": HANDS["right"]}}, 0.0))
            assert len(read(one, 1)[0].hands) == 2
            assert len(read(two, 1)[0].hands) == 1


def test_flood_of_useless_packets_does_not_hold_the_runner() -> None:
    with opened(driver()) as device, sending_to(device) as send:
        for _ in range(200):
            send(b"{}" + b" " * 1000)
        began_s = time.monotonic()
        assert device.read(0.01) is None
        assert time.monotonic() - began_s < 1.0


def test_hand_ids_are_bounded() -> None:
    ids = HandIds()
    assert [ids.of(k) for k in ("a", "b", "a")] == [1, 2, 1]
    for k in range(HandIds.LIMIT - 2):
        ids.of(k)
    with pytest.raises(PacketError, match="more than 64"):
        ids.of("one more")
    assert ids.of("b") == 2


def test_hand_ids_of_who_has_long_gone_are_free_again() -> None:
    ids = HandIds(2)
    assert [ids.of(k) for k in ("a", "b")] == [1, 2]
    for _ in range(HandIds.GONE - 2):
        assert ids.of("b") == 2
    with pytest.raises(PacketError, match="more than 2 different hands"):
        ids.of("c")
    assert ids.of("c") == 1
    assert ids.of("b") == 2


def test_frame_numbers() -> None:
    numbers = FrameNumbers()
    lost = [numbers.push(n) for n in (250, 251, 251, 253, 254, 3, 4, 9)]  # started anew at 3
    assert lost == [0, 0, 0, 1, 0, 0, 0, 4]
    wrapping = FrameNumbers(modulus=256)
    assert [wrapping.push(n) for n in (254, 255, 0, 2)] == [0, 0, 0, 1]


def test_a_clock_that_leaps_to_and_fro_stays_within_64_bits() -> None:
    clock = LoopingClock()
    stamper = Stamper("suit", "boot", lossless=False)
    for i in range(100):
        device_ns = clock.push((-1) ** i * 999_999_999.0, None)
        encode(stamper.frame(Sample(device_ns, [], i), i, i))
    assert clock.loops == 50


def test_in_the_daemon_silence_is_told_and_frames_arrive(tmp_path: Path) -> None:
    if not {"rokoko", "xsens"} <= available().keys():
        pytest.skip("the installed package does not name these drivers: pip install -e . again")
    ports = {"rokoko": free_udp_port(), "xsens": free_udp_port()}
    model = save_palm_model(tmp_path / "palm.pt")
    tables = [f'[devices.{n}]\ndriver = "{n}"\nport = {port}\n' for n, port in ports.items()]
    daemon = Daemon(tmp_path, "".join(tables) + f'[model]\nuse = "{model}"\n')
    try:
        for device in ports:
            stage = f"driver.{device}"
            wait_until(lambda s=stage: "no packet" in said(daemon, s), 15, f"{stage}'s complaint")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for i in range(60):
                out.sendto(rokoko_packet({"A": HANDS}, i / 60), (LOOPBACK, ports["rokoko"]))
                for part in xsens_datagrams(HANDS, i, 16 * i):
                    out.sendto(part, (LOOPBACK, ports["xsens"]))
                time.sleep(1 / 60)
        for device in ports:
            stage = f"driver.{device}"
            wait_until(lambda s=stage: daemon.count(s, "frames") == 60, 10, f"{stage}'s frames")
            assert daemon.count(stage, "reconnects") == 0
    finally:
        daemon.stop()


def said(daemon: Daemon, stage: str) -> str:
    row = daemon.status().get(stage)
    return row.message if row else ""


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


DRIVERS = [RokokoDriver, VmcDriver, XsensDriver, NatNetDriver, ManusDriver, LslDriver]


@pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.name)
def test_config_file_shows_the_defaults(kind: type) -> None:
    text = (ROOT / "configs" / f"{kind.name}.toml").read_text()
    table = config.parse(text).devices[kind.name]
    assert table.pop("driver") == kind.name
    defaults = kind.Options()
    assert msgspec.convert(table, kind.Options) == defaults
    assert set(table) == set(kind.Options.__struct_fields__)
    # What is commented out is a table that works, too.
    shown = config.parse(re.sub(r"^# (?=\[devices|\w+ = )", "", text, flags=re.MULTILINE))
    for name, other in shown.devices.items():
        assert other.pop("driver") == kind.name, name
        assert isinstance(msgspec.convert(other, kind.Options), kind.Options)


@pytest.mark.parametrize("kind", DRIVERS, ids=lambda kind: kind.name)
def test_unknown_and_wrong_options_are_refused(kind: type) -> None:
    for bad in ({"prot": 1}, {"heading_deg": "north"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, kind.Options)


def test_a_socket_that_dies_is_an_error_with_a_cure() -> None:
    with opened(driver()) as device:
        device._socket.socket.close()
        complaint(device, "lost UDP port")
