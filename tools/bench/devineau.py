"""The reference network, one gesture at a time on one thread, against its released form.

Peer: the release's loop over 66 channels (written again below). Subjects: grouped convolutions,
the scripted inference form in fp32 and in int8. Floors: reading the first linear layer's weights
(99 % of the network) once, in 4 bytes and in 1 byte each. The forms run in turn, several calls
each, for some rounds; ratios are taken within a round, so that a busy moment falls on both sides.
The first call of each turn is not counted: it fetches the weights that the others pushed out, and
is told as "after others".

How many inputs of the linear layer are zero, and are passed over, depends on weights and gestures:
give a trained run and SHREC'17, else both are random (27 % are zero then, 43 % when trained).

Examples:
  hgr train --dataset shrec17 --root SHREC2017 --model devineau --out runs/devineau
  python tools/bench/devineau.py --run runs/devineau --root SHREC2017
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the worker has it; the peer has it too

import torch
from torch import Tensor, nn

CHANNELS = 66
TARGETS = {"scripted, fp32": 6.0, "scripted, int8": 15.0}


class ReleasedNet(nn.Module):
    """The network as its authors released it: a loop over channels, the same names of weights."""

    def __init__(self, duration: int = 100, channels: int = CHANNELS, classes: int = 14) -> None:
        super().__init__()

        def branch(taps: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv1d(1, 8, taps, padding=taps // 2),
                nn.ReLU(),
                nn.AvgPool1d(2),
                nn.Conv1d(8, 4, taps, padding=taps // 2),
                nn.ReLU(),
                nn.AvgPool1d(2),
                nn.Conv1d(4, 4, taps, padding=taps // 2),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.AvgPool1d(2),
            )

        self.all_conv_high = nn.ModuleList(branch(7) for _ in range(channels))
        self.all_conv_low = nn.ModuleList(branch(3) for _ in range(channels))
        self.all_residual = nn.ModuleList(
            nn.Sequential(nn.AvgPool1d(2), nn.AvgPool1d(2), nn.AvgPool1d(2))
            for _ in range(channels)
        )
        self.fc = nn.Sequential(
            nn.Linear(9 * channels * (duration // 8), 1936), nn.ReLU(), nn.Linear(1936, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for c, branches in enumerate(
            zip(self.all_conv_high, self.all_conv_low, self.all_residual, strict=True)
        ):
            channel = x[:, :, c].unsqueeze(1)
            maps.append(torch.cat([branch(channel) for branch in branches], dim=1))
        logits: Tensor = self.fc(torch.cat(maps, dim=1).flatten(1))
        return logits


def agreement(batch: int = 256, seed: int = 0) -> dict[str, Any]:
    """Largest difference of logits, and equal decisions, against the release; random weights."""
    from hgr_stream.recognition.devineau import Devineau, script_devineau

    net = Devineau(seed=seed).eval()
    peer = ReleasedNet().eval()
    peer.load_state_dict(net.released_state_dict())
    x = torch.randn(batch, 100, CHANNELS, generator=torch.Generator().manual_seed(seed))
    result = {}
    with torch.inference_mode():
        wanted = peer(x)
        for name, int8 in (("fp32", False), ("int8", True)):
            got = script_devineau(net, int8=int8)(x.view(batch, 100, 22, 3))
            result[name] = {
                "max_difference": float((got - wanted).abs().max()),
                "logits_std": float(wanted.std()),
                "same_decision": float((got.argmax(1) == wanted.argmax(1)).float().mean()),
            }
    return result


def subject(run: Path | None, root: Path | None, batch: int) -> tuple[Any, Tensor]:
    """The network and gestures (batch, 100, 66) that it is measured on."""
    from hgr_stream.datasets.gestures import load_shrec17
    from hgr_stream.recognition.devineau import Devineau, resample_zoom
    from hgr_stream.training.runs import load_run

    net = load_run(run)[0].net if run else Devineau(seed=0)
    if root is None:
        return net.eval(), torch.randn(batch, 100, CHANNELS)
    gestures = load_shrec17(root, 14)
    step = max(len(gestures) // batch, 1)
    chosen = [resample_zoom(gestures.sequences[i * step + step // 2]) for i in range(batch)]
    return net.eval(), torch.from_numpy(np.stack(chosen))


def forms(net: Any, x: Tensor) -> dict[str, Callable[[], object]]:
    """What is measured, by name; the loop first."""
    from hgr_stream.recognition.devineau import script_devineau

    batch = len(x)
    peer = ReleasedNet(classes=net.classes).eval()
    peer.load_state_dict(net.released_state_dict())
    joints = x.view(batch, 100, 22, 3)
    fp32, int8 = script_devineau(net), script_devineau(net, int8=True)
    weights = net.hidden.weight.detach()
    bytes_ = weights[: len(weights) // 4].clone()  # as many bytes as there are weights
    ones = torch.ones(weights.shape[1])
    return {
        "released loop": lambda: peer(x),
        "grouped convolutions": lambda: net(x),
        "scripted, fp32": lambda: fp32(joints),
        "scripted, int8": lambda: int8(joints),
        "floor, fp32": lambda: weights.mv(ones),  # the fastest reader found; a sum is slower
        "floor, int8": lambda: bytes_.mv(ones),
    }


def measure(
    subjects: dict[str, Callable[[], object]], rounds: int, calls: int
) -> dict[str, list[list[float]]]:
    """Milliseconds by form, round and call; call 0 comes right after the other forms."""
    took: dict[str, list[list[float]]] = {name: [] for name in subjects}
    with torch.inference_mode():
        for run in subjects.values():
            for _ in range(5):
                run()
        for _ in range(rounds):
            for name, run in subjects.items():
                turn = []
                for _ in range(1 + calls):
                    began = time.perf_counter()
                    run()
                    turn.append(1e3 * (time.perf_counter() - began))
                took[name].append(turn)
    return took


@click.command(help=(__doc__ or "").replace("Examples:", "\b\nExamples:"))
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--calls", default=10, show_default=True, type=click.IntRange(1))
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="A trained run.")
@click.option("--root", type=click.Path(exists=True, path_type=Path), help="SHREC'17's folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(
    batch: int, rounds: int, calls: int, run: Path | None, root: Path | None, as_json: bool
) -> None:
    from harness import Report, Spread

    torch.set_num_threads(1)
    net, x = subject(run, root, batch)
    took = measure(forms(net, x), rounds, calls)
    turns = {name: [Spread.of(turn[1:]).median for turn in t] for name, t in took.items()}
    report = Report(f"devineau, batch {batch}, one thread")
    rows = []
    for name, rounds_of in took.items():
        every = Spread.of([ms for turn in rounds_of for ms in turn[1:]], low=0, high=90)
        ratios = Spread.of(
            [a / b for a, b in zip(turns["released loop"], turns[name], strict=True)]
        )
        rows.append(
            {
                "form": name,
                "median ms": every.median,
                "p90 ms": every.high,
                "least ms": every.low,
                "after others ms": Spread.of([turn[0] for turn in rounds_of]).median,
                "times faster than the loop": ratios.median,
            }
        )
        if name in TARGETS:
            report.add(
                f"{name}: times faster than the released loop",
                ratios.median,
                "x",
                floor=Spread.of(
                    [
                        a / b
                        for a, b in zip(
                            turns["released loop"], turns[f"floor, {name[-4:]}"], strict=True
                        )
                    ]
                ).median,
                spread=f"{ratios.low:.1f} - {ratios.high:.1f}",
                target=f">= {TARGETS[name]:g}" if batch == 1 else "",
                holds=ratios.median >= TARGETS[name] if batch == 1 else None,
            )
    report.tables["forms"] = rows
    report.notes.append(
        f"weights of {run.name if run else 'chance'}, gestures of {root.name if root else 'chance'}"
    )
    for name, figures in agreement().items():
        report.notes.append(
            f"{name} against the release on random gestures: logits differ by at most "
            f"{figures['max_difference']:.2g} (their deviation is {figures['logits_std']:.2g}), "
            f"{100 * figures['same_decision']:.1f} % of the decisions are the same"
        )
    report.show(as_json)


if __name__ == "__main__":
    main()
