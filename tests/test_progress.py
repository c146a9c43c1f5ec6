"""Progress of long work, as a log sees it."""

from __future__ import annotations

import io

from rich.console import Console

from hgr_stream.cli.progress import Stages


def test_a_log_gets_a_line_for_each_tenth_and_each_training() -> None:
    log = io.StringIO()
    with Stages(Console(file=log)) as stages:
        for step in range(40):
            stages("network", (step + 1) / 40, f"step {step + 1}")
        stages("verifier", 0.04)
        stages("verifier", 1.0)
        stages.again()
        stages("network", 0.5, "step 20")
    lines = log.getvalue().splitlines()
    assert lines[:2] == ["network 10% step 4", "network 20% step 8"]
    assert lines[9:] == ["network 100% step 40", "verifier 100%", "network 50% step 20"]


def test_a_terminal_gets_bars() -> None:
    screen = io.StringIO()
    with Stages(Console(file=screen, force_terminal=True, width=100)) as stages:
        stages("network", 0.5, "step 20")
    assert "━" in screen.getvalue()
    assert "network 50%" not in screen.getvalue()
