"""Real hands for the tests of the network drivers, and a driver that listens on a free port."""

from __future__ import annotations

import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.base import DeviceError, Driver, HandSample, Sample
from hgr_drivers.network.udp import UdpDriver

from hgr_stream.datasets.leapjs import load_leapjs
from hgr_stream.skeleton import N_JOINTS, PALM, TIPS, Float32, Side, bone_lengths, chirality

LOOPBACK = "127.0.0.1"
PATIENCE_S = 5.0
Hands = dict[Side, Float32]
#: What a source without tips tells; the palm is computed.
KNOWN_WITHOUT_TIPS = tuple(i for i in range(N_JOINTS) if i != PALM and i not in TIPS)


@cache
def clapping(shared_data: Path) -> list[Hands]:
    """A real recording of both hands: three claps, 403 frames of Leap Motion."""
    path = shared_data / "leap_recordings/leapjs_playback/three-claps.json.gz"
    frames = [{hand.side: hand.joints for hand in f.hands} for f in load_leapjs(path).frames]
    assert all(frame.keys() == {"left", "right"} for frame in frames)
    return frames


def hololens_file(shared_data: Path, folder: Path) -> Path:
    """A real recording of one right hand by a HoloLens, SHREC'22's text form."""
    with tarfile.open(shared_data / "shrec22_online_train.tar.xz") as archive:
        name = next(n for n in archive.getnames() if n.endswith("/1.txt"))
        archive.extract(name, folder, filter="data")
    return folder / name


def collect(driver: Driver, count: int, timeout_s: float = PATIENCE_S) -> list[Sample]:
    """The samples that come within ``timeout_s``, ``count`` at most."""
    samples: list[Sample] = []
    end_s = time.monotonic() + timeout_s
    while len(samples) < count and time.monotonic() < end_s:
        if (sample := driver.read(0.05)) is not None:
            samples.append(sample)
    return samples


@contextmanager
def opened(driver: Driver) -> Iterator[Driver]:
    with closing(driver):
        driver.open()
        yield driver


@contextmanager
def sending_to(driver: UdpDriver, source: str = LOOPBACK) -> Iterator[Callable[..., None]]:
    """A socket that sends packets to the driver's port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind((source, 0))

        def send(*packets: bytes) -> None:
            for packet in packets:
                out.sendto(packet, (LOOPBACK, driver.port))

        yield send


def read(driver: Driver, count: int) -> list[Sample]:
    """The next samples; fails when they do not come."""
    samples: list[Sample] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(samples) < count:
        assert time.monotonic() < deadline_s, f"{len(samples)} of {count}: {driver.counts()}"
        if (sample := driver.read(0.1)) is not None:
            samples.append(sample)
    return samples


def send_and_read(
    driver: UdpDriver, frames: Iterable[Iterable[bytes]], expected: int
) -> list[Sample]:
    """Each frame's packets over a real socket, the samples read in step."""
    samples: list[Sample] = []
    with sending_to(driver) as send:
        for packets in frames:
            send(*packets)
            if (sample := driver.read(0)) is not None:
                samples.append(sample)
    return samples + read(driver, expected - len(samples))


def read_for(driver: Driver, seconds: float, send: Callable[[], object] = lambda: None) -> None:
    """Go on reading, and sending between; an error ends it."""
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        send()
        driver.read(0.02)


def complaint(driver: Driver, match: str, send: Callable[[], object] = lambda: None) -> DeviceError:
    """The one line that a driver, open or not to be opened, soon complains with."""
    with pytest.raises(DeviceError, match=match) as caught:
        read_for(driver, PATIENCE_S, send)
    return checked(caught.value)


def refusal_to_open(driver: Driver, match: str) -> DeviceError:
    with closing(driver), pytest.raises(DeviceError, match=match) as caught:
        driver.open()
    return checked(caught.value)


def checked(error: DeviceError) -> DeviceError:
    """An error is one line, with a cure in one line."""
    assert error.cure
    assert "\n" not in f"{error}{error.cure}"
    return error


def by_side(sample: Sample) -> dict[Side, HandSample]:
    assert len({hand.side for hand in sample.hands}) == len(sample.hands)
    return {hand.side: hand for hand in sample.hands}


def assert_same_hands(
    samples: list[Sample],
    truth: list[Hands],
    joints: tuple[int, ...] = tuple(range(22)),
    *,
    within_m: float = 1e-5,
    tips_within_m: float = 0.012,
) -> None:
    """Sides, joints (those named to a tolerance, others to what is extrapolated), bones and
    handedness of a stretch."""
    assert len(samples) == len(truth)
    got: dict[Side, list[Float32]] = {"left": [], "right": []}
    for sample, hands in zip(samples, truth, strict=True):
        seen = by_side(sample)
        assert seen.keys() == hands.keys()
        for side, hand in seen.items():
            assert hand.joints.dtype == np.float32
            apart = np.linalg.norm(hand.joints - hands[side], axis=1)
            # The palm is ours everywhere; in the recording it is the same midpoint.
            assert apart[list(joints)].max() < within_m
            assert apart.max() < tips_within_m
            got[side].append(hand.joints)
    assert_natural({side: np.array(stretch) for side, stretch in got.items() if stretch})


def assert_natural(stretches: Mapping[Side, Float32]) -> None:
    for side, stretch in stretches.items():
        bones = np.median(bone_lengths(stretch), axis=0)
        assert 0.075 < bones[9] < 0.115  # wrist to middle base
        assert ((bones > 0.008) & (bones < 0.12))[np.r_[2:21]].all()
        sign = 1 if side == "right" else -1
        assert sign * float(np.mean(chirality(stretch))) > 0
