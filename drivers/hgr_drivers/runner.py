"""What every driver gets for nothing: stamps, sequence numbers, reconnecting, the no-frame
watchdog, and publishing.

``python -m hgr_drivers.runner DEVICE --run-dir DIR`` is a device's process under the supervisor;
``run`` does the same in the foreground (``hgr replay``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from hgr_stream.config import ConfigError
from hgr_stream.daemon.keeper import back_off_s
from hgr_stream.daemon.main import read_config
from hgr_stream.daemon.processes import EXIT_FATAL
from hgr_stream.daemon.shell import Shell, set_up_logging
from hgr_stream.faults import error_line
from hgr_stream.messages import Frame, Hand, Truth, encode, joint_bytes
from hgr_stream.stream import topics
from hgr_stream.stream.bus import BusError, Outlet, runs_still
from hgr_stream.stream.clock import ClockMap, PaceJudge, monotonic_ns

from .base import DeviceError, Driver, EndOfStream, Sample, kind_of
from .registry import configured

READ_S = 0.1
#: A scene without hands is told of this often, once it has been empty for so long: enough to show
#: that data flows, and an idle kiosk costs next to nothing.
IDLE_PERIOD_NS = 100_000_000
IDLE_AFTER_NS = 500_000_000
TAP_WAIT_S = 1.0


@dataclass
class Backoff:
    """How long to wait before the next try: doubling, up to a limit. Time is the caller's."""

    first_s: float = 0.5
    most_s: float = 8.0
    tries: int = 0

    def failed(self) -> float:
        """Count a failure; seconds to wait now."""
        self.tries += 1
        return back_off_s(self.first_s, self.most_s, self.tries)

    def succeeded(self) -> None:
        self.tries = 0


class Troubles:
    """Which of a device's troubles are told, as lines of the log: each when it begins, but those of
    a device that comes and goes only twice, until it has stayed for ``STEADY_S``. A loose plug, or
    a program that sends at times only, would fill the log in weeks. Time is the caller's."""

    STEADY_S: Final = 10.0
    MOST: Final = 64  #: kinds that are remembered

    def __init__(self) -> None:
        self.steady = True  #: frames have come for so long
        self._kind = ""  # of the trouble that there is; empty: frames come
        self._quiet = False  # it, or the last one, was not told
        self._times: Counter[str] = Counter()  # kind -> how often since it was steady
        self._well_s = 0.0

    @property
    def there(self) -> bool:
        """Whether there is trouble: no frame has come since the last one began."""
        return bool(self._kind)

    def began(self, text: str) -> str:
        """What to tell of a trouble, which may have begun already; empty: nothing."""
        kind, before = kind_of(text), self._kind
        self._kind, self.steady = kind, False
        if kind == before:
            return ""
        if len(self._times) >= self.MOST:
            self._times.clear()
        self._times[kind] += 1
        self._quiet = self._times[kind] > 2
        if self._times[kind] == 2:
            return f"{text}; it comes and goes, and is told again when it has stayed"
        return "" if self._quiet else text

    def frame(self, now_s: float) -> bool:
        """A frame came: whether to tell that they do."""
        if self._kind:
            self._kind, self._well_s = "", now_s
            return not self._quiet
        if self.steady or now_s - self._well_s < self.STEADY_S:
            return False
        self.steady = True
        self._times.clear()
        return self._quiet


class IdleThinner:
    """Which samples of an empty scene are not worth publishing. Time is the caller's."""

    def __init__(self) -> None:
        self._hand_ns: int | None = None
        self._told_ns = 0

    def skips(self, sample: Sample, now_ns: int) -> bool:
        """True for a sample without hands, soon after another one was published."""
        if self._hand_ns is None:
            self._hand_ns = now_ns
        if sample.hands or sample.performed or sample.frame is not None:
            self._hand_ns = now_ns
            return False
        if now_ns - self._hand_ns < IDLE_AFTER_NS or now_ns - self._told_ns >= IDLE_PERIOD_NS:
            self._told_ns = now_ns
            return False
        return True


class Stamper:
    """Samples to frames: the pure part. Adds what a driver does not: ids, numbers, stream time."""

    def __init__(self, device: str, boot_id: str, *, lossless: bool) -> None:
        self.device = device
        self.boot_id = boot_id
        self.lossless = lossless
        self.clock = ClockMap()
        self.seqs: dict[str, int] = {}
        #: device -> (recorded boot id, how many there were before it)
        self._recorded: dict[str, tuple[str, int]] = {}

    def _seq(self, device: str) -> int:
        seq = self.seqs.get(device, 0)
        self.seqs[device] = seq + 1
        return seq

    def _boot_id(self, device: str) -> str:
        generation = self._recorded.get(device, ("", 0))[1]
        return f"{self.boot_id}.{generation}" if generation else self.boot_id

    def _follow(self, recorded: Frame) -> None:
        """A publisher that was started anew in the recording is so in the replay."""
        last, generation = self._recorded.get(recorded.device, (recorded.boot_id, 0))
        if recorded.boot_id != last:
            generation += 1
            self.seqs[recorded.device] = 0
        self._recorded[recorded.device] = (recorded.boot_id, generation)

    def frame(self, sample: Sample, host_ns: int, wall_ns: int) -> Frame:
        """The frame of a sample that arrived at ``host_ns``."""
        if sample.frame is not None:  # replayed: its stream time and content are the recording's
            self._follow(sample.frame)
            return msgspec.structs.replace(
                sample.frame,
                boot_id=self._boot_id(sample.frame.device),
                seq=self._seq(sample.frame.device),
                host_ns=host_ns,
                wall_ns=wall_ns,
                sent_ns=host_ns,
                lossless=self.lossless,
            )
        return Frame(
            device=self.device,
            boot_id=self.boot_id,
            seq=self._seq(self.device),
            time_ns=self.clock.map(sample.device_ns, host_ns),
            device_ns=host_ns if sample.device_ns is None else sample.device_ns,
            host_ns=host_ns,
            wall_ns=wall_ns,
            sent_ns=host_ns,
            index=sample.index,
            hands=[
                Hand(h.id, h.side, joint_bytes(h.joints), h.confidence, list(h.lacks))
                for h in sample.hands
            ],
            lossless=self.lossless,
        )

    def truths(self, sample: Sample, frame: Frame) -> list[Truth]:
        """What the source says it performed, in stream time."""
        offset_ns = frame.time_ns - frame.device_ns
        return [
            Truth(
                self.device,
                str(p.hand),
                p.label,
                p.onset_ns + offset_ns,
                p.offset_ns + offset_ns,
            )
            for p in sample.performed
        ]

    def ends(self, host_ns: int, wall_ns: int) -> list[Frame]:
        """The last message of each device that was published: there is no more."""
        return [
            Frame(
                device=device,
                boot_id=self._boot_id(device),
                seq=self._seq(device),
                time_ns=0,
                device_ns=0,
                host_ns=host_ns,
                wall_ns=wall_ns,
                sent_ns=host_ns,
                lossless=True,
                end=True,
            )
            for device in list(self.seqs)
        ]


class Runner(Shell):
    """A driver's process."""

    def __init__(
        self, driver: Driver, device: str, run_dir: Path, *, supervised: bool = True
    ) -> None:
        super().__init__(f"driver.{device}", run_dir)
        self.run_dir, self.supervised = run_dir, supervised
        self.driver = driver
        driver.taken = frozenset(self.info.devices) - {device}
        self.stamper = Stamper(device, self.boot_id, lossless=driver.lossless)
        self.outlet = Outlet(self.context, self.info.sockets, "frames", self.held)
        self.backoff = Backoff()
        self.thinner = IdleThinner()
        self.pace = PaceJudge(driver.time_unit_ns)
        self.exit_code = 0
        self.is_open = False
        self._retry_s = 0.0
        self._heard_s = 0.0  # the last sample, opening or complaint
        self._sample_s = 0.0
        self._beaten = (0.0, 0)
        self.troubles = Troubles()
        self.outlet.wait_for_tap(TAP_WAIT_S)

    def turn(self, timeout_s: float) -> None:
        now_s = time.monotonic()
        if not self.is_open:
            if now_s < self._retry_s:
                self._stop.wait(min(timeout_s, self._retry_s - now_s))
            else:
                self._open()
            return
        try:
            sample = self.driver.read(min(timeout_s, READ_S))
        except EndOfStream:
            self._end()
        except DeviceError as error:
            self._failed(error)
        else:
            if sample is not None:
                self._publish(sample)
            elif time.monotonic() - self._heard_s > self.driver.silence_s:
                self._failed(self.driver.silence())
                self.counts["silent"] += 1

    def _open(self) -> None:
        self.send_status("starting")  # cameras wake, models load: no silence that is a hang
        try:
            self.driver.open()
        except DeviceError as error:
            self._failed(error)
            return
        self.is_open = True
        self.pace = PaceJudge(self.driver.time_unit_ns)
        self._heard_s = time.monotonic()
        self.send_status("up", "")

    def _failed(self, error: DeviceError) -> None:
        """Tell once, close, and try again later; or end, when that cannot help."""
        if error.waiting:
            self._heard_s = time.monotonic()  # look again after as long a silence
        else:
            self.driver.close()
            self.is_open = False
            self._retry_s = time.monotonic() + self.backoff.failed()
            self.counts["reconnects"] += 1
        text = error.told()
        if error.fatal:
            self.log.error("%s", text)
            self.exit_code = EXIT_FATAL
            self.stop()
        elif told := self.troubles.began(text):
            how = (
                "listening"
                if error.waiting
                else f"trying again, at most every {self.backoff.most_s:g} s"
            )
            self.log.warning("%s (%s)", told, how)
        self.send_status("degraded", text)

    def _publish(self, sample: Sample) -> None:
        self._heard_s = self._sample_s = time.monotonic()
        if self.troubles.there:
            self.state, self.message = "up", ""
        if self.troubles.frame(self._heard_s):
            self.log.info("frames are coming")
        if self.troubles.steady:
            self.backoff.succeeded()
        now_ns = monotonic_ns()
        self._judge(sample, now_ns)
        # A file's frames are all published, however fast or slowly it is read.
        if not self.driver.lossless and self.thinner.skips(sample, now_ns):
            self.counts["idle_not_sent"] += 1
            return
        frame = self.stamper.frame(sample, now_ns, time.time_ns())
        truths = self.stamper.truths(sample, frame)
        self.outlet.send(topics.of(frame), encode(frame), lossless=frame.lossless)
        for truth in truths:
            self.outlet.tell(topics.of(truth), encode(truth), lossless=frame.lossless)
        self.counts["frames"] += 1

    def _judge(self, sample: Sample, now_ns: int) -> None:
        """Tell of a device's clock that cannot be: nothing is recognised by it."""
        if self.driver.lossless or sample.frame is not None:
            return  # a file may be read at any speed
        fault = self.pace.push(sample.device_ns, now_ns)
        text = f"the device's time {fault}" if fault else ""
        if text == self.message:
            return
        if text:
            self.log.warning("%s", text)
        else:
            self.log.info("the device's time is well")
        self.send_status("degraded" if text else "up", text)

    def _end(self) -> None:
        for frame in self.stamper.ends(monotonic_ns(), time.time_ns()):
            self.outlet.send(topics.of(frame), encode(frame), lossless=True)
        self.stop()

    def beat(self) -> None:
        own = {"frames", "idle_not_sent", "reconnects", "silent", "status_dropped"}
        kept = {name: n for name, n in self.counts.items() if name in own}
        clock = self.stamper.clock
        self.counts.clear()
        self.counts.update({**self.driver.counts(), **self.outlet.counts, **kept})
        self.counts["clock_jumps"], self.counts["clock_repeats"] = clock.jumps, clock.repeats
        now_s, (then_s, then) = time.monotonic(), self._beaten
        frames = self.counts["frames"] + self.counts["idle_not_sent"]
        if now_s - then_s >= 0.5:
            self.gauges["rate_hz"] = (frames - then) / (now_s - then_s) if then_s else 0.0
            self._beaten = (now_s, frames)
        self.gauges["age_s"] = now_s - self._sample_s if self._sample_s else -1.0
        if not self.supervised and not self.exit_code and not runs_still(self.run_dir, self.info):
            self.log.error("the daemon has ended; what was sent last reached nobody")
            self.exit_code = 1
            self.stop()

    def finish(self) -> None:
        self.driver.close()
        self.outlet.close()


def run(driver: Driver, device: str, run_dir: Path, *, supervised: bool = False) -> int:
    """Run a driver on the daemon of ``run_dir`` until its source ends or it is stopped.

    Returns the exit code; raises BusError when no daemon runs there. One that is not supervised
    ends with the daemon: it would wait for nobody, or speak to nobody."""
    runner = Runner(driver, device, run_dir, supervised=supervised)
    return runner.run(supervised=supervised) or runner.exit_code


def main() -> int:
    parser = argparse.ArgumentParser(prog="hgr_drivers.runner", description=__doc__)
    parser.add_argument("device")
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.run_dir)
        driver, options = configured(arguments.device, config.devices[arguments.device])
        return run(driver(options), arguments.device, arguments.run_dir, supervised=True)
    except ConfigError as error:
        set_up_logging(f"driver.{arguments.device}").error("%s", error_line(error))
        return EXIT_FATAL
    except DeviceError as error:  # of the driver's making; those of its running the runner tells
        set_up_logging(f"driver.{arguments.device}").error("%s", error.told())
        return EXIT_FATAL if error.fatal else 1
    except (BusError, OSError) as error:
        set_up_logging(f"driver.{arguments.device}").error("%s", error_line(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
