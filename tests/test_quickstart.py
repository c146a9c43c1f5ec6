"""The quickstart notebook runs from top to bottom, in a kernel of its own."""

from __future__ import annotations

import ast
import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.mark.timeout(300)
def test_the_notebook_runs(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.delenv("HGR_QUICKSTART_DATA", raising=False)
    notebook = nbformat.read(ROOT / "tools" / "quickstart.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=os.fspath(tmp_path))
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    text = "".join(o.get("text", "") for o in outputs)
    assert "classes: ['CIRCLE', 'GRAB', 'LEFT', 'OK', 'V']" in text
    assert "epoch 12 of 12" in text
    assert "streaming at 30.0 Hz" in text
    told = ast.literal_eval(text.strip().splitlines()[-1])
    assert told["right"] >= 20, "of the unseen person's 25, in the stream"
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
