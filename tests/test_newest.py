"""Pictures in time: the newest of a live source, and a file's at their own pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hgr_drivers.base import DeviceError, EndOfStream
from hgr_drivers.vision.newest import Newest
from hgr_drivers.vision.recorded import Played

T = TypeVar("T")


def until_end(read: Callable[[], T | None]) -> Iterator[T]:
    """What a source gives until it says that there is no more."""
    while True:
        try:
            item = read()
        except EndOfStream:
            return
        if item is not None:
            yield item


def test_newest_gives_the_error_after_the_last_item() -> None:
    given = iter([1, None, 2])

    def produce() -> int | None:
        try:
            return next(given)
        except StopIteration:
            raise DeviceError("gone") from None

    newest = Newest(produce)
    time.sleep(0.2)
    assert newest.get(1.0) == 2
    assert newest.skipped == 1
    for _ in range(2):
        with pytest.raises(DeviceError, match="gone"):
            newest.get(1.0)
    assert newest.close()
    quiet: Newest[int] = Newest(lambda: time.sleep(0.01))
    assert quiet.get(0.05) is None
    assert quiet.close()


def test_a_slow_reader_skips_what_is_late() -> None:
    def items() -> Iterator[tuple[int | None, int]]:
        for i in range(30):
            yield i * 10_000_000, i

    played = Played(items, loop=False, name="made")
    assert played.first == 0
    got = []
    for _, item in until_end(lambda: played.next(1.0)):
        got.append(item)
        if len(got) == 3:
            time.sleep(0.1)
    assert got[:3] == [0, 1, 2]
    assert got[3] >= 9
    assert got[-1] == 29
    assert len(got) + played.skipped == 30


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("read_s", [0.015, 0.15])
def test_a_file_that_is_read_too_slowly_is_played_slowly(read_s: float, loop: bool) -> None:
    n_read = round(1.5 / read_s)
    left = iter(range(n_read))

    def items() -> Iterator[tuple[int | None, int]]:
        for i in range(8 if loop else 1000):
            if next(left, None) is None:
                raise EndOfStream
            time.sleep(read_s)
            yield i * 10_000_000, i

    played = Played(items, loop=loop, name="made")
    began_s = time.monotonic()
    times_ns = []
    for time_ns, _ in until_end(lambda: played.next(0.1)):
        times_ns.append(time_ns)
        assert time.monotonic() - began_s < 0.1 + 2 * read_s + 0.1
        began_s = time.monotonic()
    assert sorted(set(times_ns)) == times_ns
    assert len(times_ns) > n_read // 4
    assert len(times_ns) + played.skipped == n_read


def test_pictures_without_time_are_a_period_apart() -> None:
    given = [(5_000_000, 0), (25_000_000, 1), (None, 2), (20_000_000, 3), (85_000_000, 4)]
    played = Played(lambda: (item for item in given), loop=False, name="made")
    got = until_end(lambda: played.next(1.0))
    assert [t // 1_000_000 for t, _ in got] == [5, 25, 45, 65, 85]
    with pytest.raises(DeviceError, match="made holds no pictures"):
        Played(lambda: (item for item in []), loop=False, name="made")
