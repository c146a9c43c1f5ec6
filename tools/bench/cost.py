"""CPU and memory of the whole daemon: every process, children included.

One hand at 120 fps, and a sensor that sees no hand, each for some seconds in turn with their
floor: the same driver process publishing to a process that only receives, which is what the source
itself costs. CPU is user and system time of each process as the system accounts it; memory is USS
(what would be free if it ended) and RSS.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import click
import psutil  # type: ignore[import-untyped]
from harness import (
    Daemon,
    Report,
    Spread,
    cpu_shares,
    driver_to_sink,
    json_option,
    model_option,
    progress,
    synthetic,
)

from hgr_stream.client import Stream

SETTLE_S = 5.0
HAND_TARGET, IDLE_TARGET, MEMORY_TARGET_MB = 20.0, 3.0, 700.0
Shares = dict[str, list[float]]


def memory(processes: dict[str, psutil.Process]) -> dict[str, tuple[float, float]]:
    """(USS, RSS) of each process, MB."""
    return {
        stage: ((full := process.memory_full_info()).uss / 1e6, full.rss / 1e6)
        for stage, process in processes.items()
    }


@click.command(
    help=__doc__,
    epilog="""\b
Examples:
  python tools/bench/cost.py
  python tools/bench/cost.py --seconds 10 --json
""",
)
@model_option
@click.option("--seconds", default=30.0, show_default=True, help="Of each, all rounds together.")
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1))
@click.option("--fps", default=120.0, show_default=True)
@json_option
def main(model: str, seconds: float, rounds: int, fps: float, as_json: bool) -> None:
    report = Report("cost")
    cases: dict[str, dict[str, Any]] = {
        "one hand": synthetic(fps=fps, pause_s=1.0),
        "no hand": synthetic(fps=fps, hand_present=False),
    }
    daemons: dict[str, Shares] = {case: defaultdict(list) for case in cases}
    floors: dict[str, Shares] = {case: defaultdict(list) for case in cases}
    memories: dict[str, tuple[float, float]] = {}
    for k in range(rounds):
        for case, device in cases.items():
            progress(f"round {k + 1} of {rounds}: {case}, driver to a sink")
            with driver_to_sink(device) as running:
                time.sleep(SETTLE_S)
                _note(floors[case], cpu_shares(running, seconds / rounds))
            progress(f"round {k + 1} of {rounds}: {case}, daemon")
            # Somebody listens, as always; the subscriber's own cost is not the daemon's.
            with (
                Daemon("cost", {"synthetic": device}, model) as daemon,
                Stream(["gesture/"], daemon.endpoint),
            ):
                time.sleep(SETTLE_S)
                processes = daemon.processes()
                _note(daemons[case], cpu_shares(processes, seconds / rounds))
                if case == "one hand":
                    memories = memory(processes)
    for case, limit in (("one hand", HAND_TARGET), ("no hand", IDLE_TARGET)):
        total = Spread.of(daemons[case]["total"], 0, 100)
        report.add(
            f"CPU, {case} at {fps:g} fps",
            total.median,
            "% of a core",
            floor=Spread.of(floors[case]["total"]).median,
            spread=f"{total.low:.1f} - {total.high:.1f} over {rounds} rounds",
            target=f"< {limit:g} %",
            holds=total.median < limit,
        )
        stages = [*daemons[case], *(s for s in floors[case] if s not in daemons[case])]
        report.tables[f"CPU by process, {case}, % of a core"] = [
            {
                "process": stage,
                "daemon": Spread.of(daemons[case][stage]).median if daemons[case][stage] else "",
                "floor": Spread.of(floors[case][stage]).median if floors[case][stage] else "",
            }
            for stage in sorted(stages, key=lambda s: s == "total")
        ]
    rss = sum(rss for _, rss in memories.values())
    uss = sum(uss for uss, _ in memories.values())
    for what, mb in (("RSS, all processes", rss), ("USS, all processes", uss)):
        report.add(
            f"memory, {what}",
            mb,
            "MB",
            target=f"< {MEMORY_TARGET_MB:g} MB",
            holds=mb < MEMORY_TARGET_MB,
        )
    rows = [*memories.items(), ("total", (uss, rss))]
    report.tables["memory, MB"] = [{"process": s, "USS": u, "RSS": r} for s, (u, r) in rows]
    report.show(as_json)


def _note(shares: Shares, measured: dict[str, float]) -> None:
    for stage, share in [*measured.items(), ("total", sum(measured.values()))]:
        shares[stage].append(share)


if __name__ == "__main__":
    main()
