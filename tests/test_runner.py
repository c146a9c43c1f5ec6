"""What every driver gets from the runner, and a third-party driver that is found by entry point."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hgr_drivers.base import HandSample, Performed, Sample
from hgr_drivers.registry import load
from hgr_drivers.runner import Backoff, IdleThinner, Stamper, Troubles

from hgr_stream.config import Config
from hgr_stream.daemon.main import CONFIG_FILE
from hgr_stream.daemon.processes import EXIT_FATAL
from hgr_stream.stream.bus import DaemonInfo, private_sockets, write_daemon_file
from tests.daemon_process import Daemon, wait_until
from tests.hands import MS, frame, hand_joints
from tests.models import save_palm_model


def test_samples_become_numbered_stamped_frames() -> None:
    stamper = Stamper("leap", "boot", lossless=False)
    hand = HandSample(5, "left", hand_joints(side="left"), 0.7)
    frames = [
        stamper.frame(Sample(i * 10 * MS, [hand], index=100 + i), i * 10 * MS + 2 * MS, 7)
        for i in range(5)
    ]
    assert [f.seq for f in frames] == [0, 1, 2, 3, 4]
    assert [f.index for f in frames] == [100, 101, 102, 103, 104]
    assert {f.boot_id for f in frames} == {"boot"}
    assert [f.device_ns for f in frames] == [i * 10 * MS for i in range(5)]
    assert [f.time_ns for f in frames] == [i * 10 * MS + 2 * MS for i in range(5)]
    got = frames[0].hands[0]
    assert (got.id, got.side, got.confidence) == (5, "left", 0.7)
    np.testing.assert_array_equal(got.array(), hand.joints)


def test_what_a_source_performed_is_told_in_stream_time() -> None:
    stamper = Stamper("synthetic", "boot", lossless=False)
    sample = Sample(1000 * MS, [], performed=[Performed(1, "TAP", 400 * MS, 900 * MS)])
    published = stamper.frame(sample, 5000 * MS, 0)
    truth = stamper.truths(sample, published)[0]
    assert (truth.label, truth.onset_ns // MS, truth.offset_ns // MS) == ("TAP", 4400, 4900)


def test_a_replayed_frame_keeps_its_stream_time_and_gets_a_new_publisher() -> None:
    stamper = Stamper("replay", "new", lossless=True)
    recorded = frame(17, 123 * MS, hand_joints(), device="leap", boot_id="old")
    out = stamper.frame(Sample(None, [], frame=recorded), 999 * MS, 5)
    assert (out.boot_id, out.seq, out.time_ns, out.host_ns) == ("new", 0, 123 * MS, 999 * MS)
    assert (out.device, out.index, out.lossless) == ("leap", recorded.index, True)
    assert out.hands == recorded.hands
    end = stamper.ends(1000 * MS, 6)
    assert [(f.device, f.seq, f.end) for f in end] == [("leap", 1, True)]


def test_back_off_doubles_up_to_a_limit_and_forgets() -> None:
    backoff = Backoff(0.5, 8.0)
    assert [backoff.failed() for _ in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert {backoff.failed() for _ in range(3000)} == {8}  # a device that is away for hours
    backoff.succeeded()
    assert backoff.failed() == 0.5


def test_a_device_that_comes_and_goes_does_not_fill_the_log() -> None:
    troubles = Troubles()
    told: list[object] = []

    def week_of_flaps(now_s: float, n: int) -> float:
        for i in range(n):
            told.append(troubles.began(f"lost camera {i}"))
            told.append(troubles.began(f"no camera {i}"))
            assert troubles.there
            for _ in range(3):
                now_s += 0.1
                told.append(troubles.frame(now_s))
                assert not troubles.there
            assert not troubles.steady
        return now_s

    now_s = week_of_flaps(0.0, 1)
    assert list(filter(None, told)) == ["lost camera 0", "no camera 0", True]
    now_s = week_of_flaps(now_s, 500)
    lines = [str(line).partition(";")[0] for line in filter(None, told)]
    assert lines[3:] == ["lost camera 0", "no camera 0", "True"]
    told.clear()
    for _ in range(3 * round(Troubles.STEADY_S)):
        now_s += 1
        told.append(troubles.frame(now_s))
    assert told.count(True) == 1  # at last it stays
    assert troubles.steady
    assert troubles.began("lost camera 1") == "lost camera 1"
    assert troubles.began("lost camera 2") == ""


def test_an_empty_scene_is_told_of_ten_times_a_second() -> None:
    thinner = IdleThinner()
    hand = HandSample(5, "left", hand_joints(side="left"))
    empty = Sample(None, [])
    told_ms = [t for t in range(0, 3000, 10) if not thinner.skips(empty, t * MS)]
    assert told_ms == [*range(0, 500, 10), *range(590, 3000, 100)]
    assert not thinner.skips(Sample(None, [hand]), 3000 * MS)
    # A hand that was lost is told of with every frame until it counts as gone.
    told_ms = [t for t in range(3010, 4000, 10) if not thinner.skips(empty, t * MS)]
    assert told_ms == [*range(3010, 3500, 10), *range(3590, 4000, 100)]
    assert not thinner.skips(Sample(None, [], frame=frame(0, 0, None)), 4001 * MS)


FOREIGN = '''
import time
from hgr_drivers.base import DeviceError, Driver, EndOfStream, HandSample, Options, Sample
import numpy as np

class Moody(Driver):
    """Absent twice, gives 20 samples, is lost, gives 20 more, goes silent, then ends."""
    name = "moody"
    silence_s = 0.5
    silence_cure = "shake it"
    class Options(Options):
        greeting: str
    opened = 0

    def open(self):
        self.opened += 1
        self.given = 0
        if self.opened <= 2:
            raise DeviceError(f"{self.options.greeting}: not plugged in", "plug it in")

    def read(self, timeout_s):
        time.sleep(0.01)
        if self.opened == 5:
            raise EndOfStream
        if self.given == 20:
            if self.opened == 3:
                raise DeviceError("unplugged")
            time.sleep(timeout_s)
            return None
        self.given += 1
        return Sample(None, [], index=self.given)

    def close(self):
        pass
'''


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of somebody else's, installed as pip would leave it."""
    site = tmp_path / "site"
    info = site / "moody-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "moody.py").write_text(textwrap.dedent(FOREIGN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hgr_stream.drivers]\nmoody = moody:Moody\n")
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return site


def test_a_driver_that_fails_in_every_way_is_reopened_and_told_of(
    foreign: Path, tmp_path: Path
) -> None:
    model = save_palm_model(tmp_path / "palm.pt")
    config = f'[devices.mine]\ndriver = "moody"\ngreeting = "hello"\n[model]\nuse = "{model}"\n'
    daemon = Daemon(tmp_path, config)
    try:
        wait_until(lambda: "driver.mine: ended by itself" in daemon.text(), 30, "its end")
        status = daemon.status()["driver.mine"]
        text = daemon.text()
    finally:
        daemon.stop()
    assert "hello: not plugged in; plug it in" in text
    assert text.count("not plugged in") == 1  # the same trouble is told once
    assert "unplugged" in text
    assert "no frame for 0.5 s; shake it" in text
    assert status.state == "stopped"
    assert status.counts["frames"] + status.counts["idle_not_sent"] == 40
    assert status.counts["reconnects"] == 4
    assert status.counts["silent"] == 1


def runner(
    tmp_path: Path, driver: str, options: dict[str, object], *, without: Sequence[str]
) -> tuple[int, list[str]]:
    """A driver's process where some packages are missing: its exit code, and what it logs."""
    run_dir, absent = tmp_path / "run", tmp_path / "absent"
    for folder in (run_dir, absent):
        folder.mkdir()
    for name in without:
        (absent / f"{name}.py").write_text(f"raise ImportError('No module named {name}')\n")
    config = Config(devices={"mine": {"driver": driver, **options}})
    (run_dir / CONFIG_FILE).write_bytes(msgspec.json.encode(config))
    sockets = private_sockets(run_dir)
    write_daemon_file(run_dir, DaemonInfo(1, "test", "0", "", sockets, ["mine"], ""))
    paths = [str(absent), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "hgr_drivers.runner", "mine", "--run-dir", str(run_dir)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,  # open: the supervisor lives
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        return process.wait(30), process.stderr.read().splitlines()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("name", "options", "cure"),
    [
        ("leap", {}, 'pip install "hgr-stream[leap]"'),
        ("quest", {}, 'pip install "hgr-stream[quest]"'),
        ("manus", {"fingers": ["thumb"] * 5}, "write fingers = "),
    ],
)
def test_a_driver_that_cannot_run_here_ends_with_one_line_and_the_cure(
    tmp_path: Path, name: str, options: dict[str, object], cure: str
) -> None:
    """Whether it finds that out when it opens, or when it is made."""
    code, lines = runner(tmp_path, name, options, without=load(name).packages)
    assert code == EXIT_FATAL
    assert len(lines) == 1, lines
    assert "driver.mine: " in lines[0]
    assert cure in lines[0]
