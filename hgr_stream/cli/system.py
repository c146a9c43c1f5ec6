"""``hgr devices`` and ``hgr doctor``: what there is on this machine, and what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click
import zmq
from packaging.requirements import Requirement

from .. import __version__
from ..client import ClientError, ping, request_endpoint
from ..config import ENDPOINT_VARIABLE, default_endpoint, default_run_dir
from ..stream.bus import PORT_CURE, BusError, make_run_dir

if TYPE_CHECKING:
    from hgr_drivers.base import Driver

#: A library that hangs while it looks for its devices must not hide the others'.
FIND_S = 8.0


@click.command(epilog="\b\nExamples:\n  hgr devices\n  hgr devices --json\n")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a driver.")
def devices(as_json: bool) -> None:
    """Drivers, the devices that each can see now, and what is missing to use the rest.

    Programs, suits and headsets that send to this machine cannot be seen before they do.
    """
    import threading

    from hgr_drivers import registry

    rows: list[dict[str, object]] = []
    threads = []
    for name in sorted(registry.available()):
        row: dict[str, object] = {"driver": name, "about": "", "found": [], "problem": ""}
        rows.append(row)
        try:
            driver = registry.load(name)
        except Exception as error:  # a foreign driver must not hide the others
            row["problem"] = f"{type(error).__name__}: {error}"
            continue
        row |= {"about": driver.about, "problem": f"no answer within {FIND_S:g} s"}
        # Daemon threads: one that hangs in a library is left behind.
        threads.append(threading.Thread(target=_look, args=(driver, row), daemon=True))
        threads[-1].start()
    end_s = time.monotonic() + FIND_S
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    for row in rows:
        if as_json:
            click.echo(json.dumps(row))
        else:
            _show(row)
    sys.stdout.flush()


def _look(driver: type[Driver], row: dict[str, object]) -> None:
    """What one driver sees or misses, into its row."""
    from hgr_drivers.base import DeviceError

    found: list[dict[str, object]] = []
    try:
        problem = driver.missing()
        if not problem:
            found = [asdict(one) for one in driver.find()]
    except DeviceError as error:
        problem = error.told()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    row |= {"found": found, "problem": problem}


def _show(row: dict[str, object]) -> None:
    found = row["found"]
    assert isinstance(found, list)
    name = click.style(f"{row['driver']:10}", bold=True)
    state = f"{len(found)} seen" if found else "missing" if row["problem"] else "none seen"
    click.echo(f"{name} {state:10} {row['about']}")
    for one in found:
        rate = f"  {one['rate_hz']:g} Hz" if one["rate_hz"] else ""
        click.echo(f"           {one['id']}  {one['description']}{rate}")
    if row["problem"]:
        click.echo(f"           {row['problem']}")


@dataclass
class Finding:
    """One line of the doctor's: ``cure`` is empty when all is well."""

    what: str
    state: str
    ok: bool
    cure: str = ""
    needed: bool = True  #: without it nothing works; otherwise only its feature is missing


#: What each extra is for. Those without a line only bundle others, or serve development.
EXTRAS: Final = {
    "inference": "models run",
    "leap": "Ultraleap by WebSocket",
    "headset": "headsets that send JSON",
    "quest": "Hand Tracking Streamer",
    "rokoko": "Rokoko's compression",
    "natnet": "OptiTrack",
    "lsl": "Lab Streaming Layer",
    "camera": "webcams, videos",
    "realsense": "RealSense",
    "orbbec": "Orbbec",
    "train": "training, pictures",
}
#: What is lost without a package that its extra can do without.
WITHOUT: Final = {"numba": "a model's step takes several times as long without it"}
_PROJECT: Final = "hgr-stream"


def _packages() -> list[Finding]:
    """What the installed project asks for in its metadata: its own packages, then each extra's."""
    try:
        lines = importlib.metadata.requires(_PROJECT) or []
        extras = importlib.metadata.metadata(_PROJECT).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "hgr-stream itself is not installed", False, "pip install .")]
    asked = [Requirement(line) for line in lines]
    own = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    findings = [_versions("packages", own, _PROJECT)]
    for extra in filter(EXTRAS.__contains__, extras):
        its = [
            r for r in asked if r not in own and r.marker and r.marker.evaluate({"extra": extra})
        ]
        found = _versions(f"{extra}: {EXTRAS[extra]}", its, f"{_PROJECT}[{extra}]")
        found.needed = False
        findings.append(found)
    return findings


def _versions(what: str, wanted: Iterable[Requirement], install: str) -> Finding:
    told, ok = [], True
    for requirement in wanted:
        name = requirement.name
        try:
            version = importlib.metadata.version(name)
            fits = requirement.specifier.contains(version, prereleases=True)
            state = (
                f"{name} {version}" if fits else f"{name} {version}, not {requirement.specifier}"
            )
        except importlib.metadata.PackageNotFoundError:
            fits, state = False, f"{name} not installed"
        if not fits and name in WITHOUT:
            state += f" ({WITHOUT[name]})"
        told.append(state)
        ok &= fits
    return Finding(what, "; ".join(told), ok, "" if ok else f'pip install "{install}"')


def _python() -> Finding:
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return Finding("Python", version, ok, "" if ok else "install Python 3.11 or later")


def _models() -> Finding:
    from ..recognition.bundle import ModelError, read_metadata, shipped

    try:
        names = [f"{n} ({len(read_metadata(n).labels)} gestures)" for n in shipped()]
    except ModelError as error:
        return Finding("shipped models", str(error), False, "pip install --force-reinstall .")
    return Finding("shipped models", ", ".join(names) or "none", bool(names))


def _run_dir() -> Finding:
    path = default_run_dir()
    try:
        make_run_dir(path)
    except BusError as error:
        state, _, cure = str(error).partition("; ")
        return Finding("run directory", state, False, cure)
    return Finding("run directory", str(path), True)


def _daemon() -> Finding:
    try:
        card = ping(timeout_s=0.5)
    except ClientError:
        return _port()
    return Finding("daemon", f"runs at {default_endpoint()}, version {card['version']}", True)


def _port() -> Finding:
    """Whether a daemon could have its two ports, tried as it tries them."""
    public = default_endpoint()
    try:
        with zmq.Context() as context:
            for address in (public, request_endpoint(public)):
                with context.socket(zmq.REP) as probe:
                    probe.bind(address)
    except (zmq.ZMQError, ClientError) as error:
        cure = f"{PORT_CURE} (or correct {ENDPOINT_VARIABLE})"
        return Finding("daemon", f"not running; {error}", False, cure, needed=False)
    return Finding("daemon", f"not running; {public} and the port after it are free", True)


def _realsense() -> list[Finding]:
    """What a RealSense needs besides its package."""
    from hgr_drivers import realsense

    return [
        Finding(what, "found" if ok else "missing", ok, cure, needed=False)
        for what, ok, cure in realsense.checks()
    ]


@click.command(epilog="\b\nExamples:\n  hgr doctor\n  hgr doctor --json\n")
@click.option("--json", "as_json", is_flag=True, help="A list of findings.")
def doctor(as_json: bool) -> None:
    """What is installed, what is missing, and the one-line cure for each.

    Exit code 0 when everything that any part needs is there, 1 when something necessary is not.
    """
    findings = [
        Finding("hgr-stream", __version__, True),
        _python(),
        *_packages(),
        _models(),
        _run_dir(),
        _daemon(),
        *_realsense(),
    ]
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings]))
    else:
        width = max(len(f.what) for f in findings)
        for f in findings:
            mark = "ok  " if f.ok else "MISS" if f.needed else "-   "
            click.echo(
                f"{mark}  {f.what:{width}} {f.state}" + (f"   -> {f.cure}" if f.cure else "")
            )
    if any(f.needed and not f.ok for f in findings):
        raise SystemExit(1)
