"""The shipped models for streams: their files are whole, small, and say how they were made."""

from __future__ import annotations

import re

import pytest
import torch
from test_recognition import windows

from hgr_stream.datasets.shrec21 import load_shrec21
from hgr_stream.recognition import bundle
from hgr_stream.recognition.engine import Engine
from hgr_stream.training.metrics import score
from hgr_stream.training.streams import on_grid, to_streams
from hgr_stream.training.validate import spans, truths

MODELS = {"leap": 17, "hololens": 16, "any": 18}


def options_of(command: str) -> list[str]:
    """What it asks for, in any order, whatever the folders are called and the form printed."""
    parts = re.sub(r"SHREC\d\d|DIR", "DIR", command).split()
    return sorted(part for part in parts if part != "--json")


@pytest.mark.parametrize("name", MODELS)
def test_the_readme_has_the_command_that_made_it(name):
    text = (bundle.resolve(name).parent / "README.md").read_text()
    [common] = re.findall(r'^T="(hgr train .*)"$', text, re.MULTILINE)
    [own] = re.findall(rf"^\$T (.*-o {name}\.pt.*)$", text, re.MULTILINE)
    made_by = bundle.read_metadata(bundle.resolve(name)).training["command"]
    assert options_of(f"{common} {own}") == options_of(made_by)


@pytest.mark.parametrize(("name", "gestures"), MODELS.items())
def test_each_is_small_and_says_how_it_was_made(name, gestures):
    loaded = bundle.load(name)
    m = loaded.metadata
    assert bundle.resolve(name).stat().st_size <= 2_000_000
    assert m.name == name
    assert len(m.labels) == gestures
    assert m.training["command"].startswith("hgr train --online ")
    assert "--dataset shrec2" in m.training["command"]
    assert f"-o {name}.pt" in m.training["command"]
    assert "--root DIR" in m.training["command"] or "--root SHREC2" in m.training["command"]
    assert "/" not in m.training["command"], "a folder of one machine says nothing to others"
    assert {"held_out", "proxy", "far", "held_out_early"} <= set(m.scores)
    assert loaded.has_verifier
    shifts = loaded.module.refine(torch.zeros(1, 40, 22, 3))
    assert m.refine_margin_s > 0
    assert tuple(shifts.shape) == (1, 2)


def test_any_knows_what_each_of_the_others_knows():
    known = {name: set(bundle.read_metadata(name).labels) for name in MODELS}
    assert known["any"] == known["leap"] | known["hololens"]


@pytest.mark.parametrize(("name", "recall"), [("leap", 0.95), ("any", 0.95), ("hololens", 0.7)])
def test_real_gestures_are_found(shared_data, name, recall):
    """`leap` and `any` were trained with these recordings; `hololens` never saw such hands, and is
    asked for what it knows."""
    engine = Engine(bundle.load(name))
    labels = engine.bundle.metadata.labels
    true, found, seconds = [], [], []
    for stream in to_streams(load_shrec21(shared_data / "shrec21_online_train")[20:45], labels):
        events = engine.push(windows(on_grid(stream, 25.0), stream.name))
        events += engine.close(0, "end")
        true.append(truths(stream, labels))
        found.append(spans(events))
        seconds.append(stream.seconds)
    report = score(true, found, "any", seconds)
    assert report.recall > recall
    assert report.precision > recall
