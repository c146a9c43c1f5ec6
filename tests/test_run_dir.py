"""The private sockets' directory: nobody else's, and nobody else can exchange it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hgr_stream.stream.bus import BusError, make_run_dir
from tests.models import save_palm_model

pytestmark = pytest.mark.skipif(
    not hasattr(os, "getuid"), reason="Windows keeps users apart by itself"
)
NOBODY = 65534
as_root = pytest.mark.skipif(
    hasattr(os, "getuid") and os.getuid() != 0, reason="only root can give files away"
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_it_is_made_with_its_parent_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_run_dir(tmp_path / "hgr" / "a")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "hgr"), mode(tmp_path / "hgr" / "a")) == (0o700, 0o700)


def test_one_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)
    make_run_dir(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700


def test_a_temporary_directory_is_good_enough_as_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_run_dir(tmp_path / "a")
    assert mode(tmp_path) == 0o1777


def test_ones_own_group_is_nobody_else(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, os.getgid())
    tmp_path.chmod(0o775)
    make_run_dir(tmp_path / "a")


@as_root
@pytest.mark.parametrize("bits", [0o777, 0o770, 0o775])
def test_a_parent_that_others_can_write_is_refused(tmp_path: Path, bits: int) -> None:
    os.chown(tmp_path, -1, NOBODY)
    tmp_path.chmod(bits)
    with pytest.raises(BusError, match=f"written by others; chmod go-w {tmp_path}, or name"):
        make_run_dir(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("which", [".", "a"])
def test_a_link_is_refused_and_its_target_left_as_it_is(tmp_path: Path, which: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o755)
    place = tmp_path / "hgr" / which
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)
    with pytest.raises(BusError, match="is a link or another user's; remove it, or name another"):
        make_run_dir(tmp_path / "hgr" / "a")
    assert (mode(target), list(target.iterdir())) == (0o755, [])


def test_the_systems_own_link_to_its_temporary_directory_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS has it: /tmp is root's link to /private/tmp."""
    root = Path(tmp_path.anchor)
    link, own = root / "tmp", tmp_path.stat().st_uid
    link_of = {"st_mode": stat.S_IFLNK | 0o777, "st_uid": 0, "st_gid": 0}
    lstat, found = Path.lstat, Path.stat

    def seen(path: Path, real: Callable[..., os.stat_result], **options: bool) -> object:
        if path == link:
            return SimpleNamespace(**link_of) if real is lstat else found(tmp_path)
        return real(path, **options)

    monkeypatch.setattr(Path, "lstat", lambda path: seen(path, lstat))
    monkeypatch.setattr(Path, "stat", lambda path, **options: seen(path, found, **options))
    made = link / f"hgr-test-{uuid.uuid4().hex}"
    try:
        make_run_dir(made)
        assert (mode(made), found(made).st_uid) == (0o700, own)
        link_of["st_uid"] = NOBODY  # whoever could make a link there
        with pytest.raises(BusError, match="is a link or another user's"):
            make_run_dir(made)
    finally:
        made.rmdir()


@as_root
@pytest.mark.parametrize("which", [".", "a"])
def test_what_is_another_users_is_refused(tmp_path: Path, which: str) -> None:
    (tmp_path / "hgr" / "a").mkdir(parents=True)
    os.chown(tmp_path / "hgr" / which, NOBODY, NOBODY)
    with pytest.raises(BusError, match="another user's"):
        make_run_dir(tmp_path / "hgr" / "a")


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / "file" / "b" / "c"):
        with pytest.raises(BusError, match=r"cannot be made \(.*HGR_RUN_DIR"):
            make_run_dir(path)


def test_a_daemon_does_not_start_in_a_trap(tmp_path: Path) -> None:
    """Without a runtime directory it lives under the temporary one, where anybody may be first."""
    model = save_palm_model(tmp_path / "palm.pt")
    config = tmp_path / "my.toml"
    config.write_text(f'[devices.a]\ndriver = "synthetic"\n[model]\nuse = "{model}"\n')
    (target := tmp_path / "home").mkdir()
    target.chmod(0o755)
    (trap := tmp_path / "tmp" / f"hgr-stream-{os.getuid()}").mkdir(parents=True)
    (trap / "default").symlink_to(target)
    trap.chmod(0o777)
    env = {k: v for k, v in os.environ.items() if k not in ("XDG_RUNTIME_DIR", "HGR_RUN_DIR")}
    env["TMPDIR"] = str(tmp_path / "tmp")

    def hgr(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hgr_stream.cli", *arguments],
            env=env, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    done = hgr("run", str(config))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: private sockets cannot live in {trap}: it can be")
    assert len(done.stderr.strip().splitlines()) == 1
    told = hgr("doctor")
    assert told.returncode == 1
    assert f"it can be written by others   -> chmod go-w {trap}, or name" in told.stdout
    assert (mode(target), list(target.iterdir())) == (0o755, [])
