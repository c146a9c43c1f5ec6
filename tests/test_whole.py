"""Files that are there whole or not at all, also where a reader keeps them from being replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hgr_stream import whole
from hgr_stream.stream.bus import DaemonInfo, read_daemon_file, write_daemon_file

INFO = DaemonInfo(1, "test", "0", "", {}, [], "")


def held(monkeypatch: pytest.MonkeyPatch, system: str, method: str, times: int) -> list[str]:
    """A system on which somebody has each file open when it is first asked for; the refusals."""
    done, refused = getattr(Path, method), []

    def refusing(path: Path, *arguments: object, **options: object) -> object:
        if refused.count(path.name) < times:
            refused.append(path.name)
            raise PermissionError(13, "The process cannot access the file")
        return done(path, *arguments, **options)

    monkeypatch.setattr(whole, "os", SimpleNamespace(name=system))
    monkeypatch.setattr(Path, method, refusing)
    return refused


@pytest.mark.parametrize("method", ["replace", "unlink", "read_bytes"])
def test_a_file_that_is_read_meanwhile_on_windows_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole.write_whole(tmp_path / "daemon.json", b"")
    refused = held(monkeypatch, "nt", method, 3)
    write_daemon_file(tmp_path, INFO)
    assert read_daemon_file(tmp_path) == INFO
    whole.remove(tmp_path / "daemon.json")
    assert len(refused) >= 3
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize(("system", "tries"), [("posix", 1), ("nt", 2)])
def test_one_that_stays_forbidden_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, tries: int
) -> None:
    whole.write_whole(tmp_path / "model.pt", b"before")
    monkeypatch.setattr(whole, "PATIENCE_S", 0.05)
    refused = held(monkeypatch, system, "replace", 1000)
    with pytest.raises(PermissionError):
        whole.write_whole(tmp_path / "model.pt", b"after")
    assert len(refused) >= tries
    assert (system == "posix") == (len(refused) == 1)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("model.pt", b"before")]
