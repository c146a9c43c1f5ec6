"""OpenPose's folder, live: files that appear one by one, half-written, late, and from the start."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hgr_drivers.base import DeviceError, Sample
from hgr_drivers.openpose import LATE_S, RETRY_S, OpenPoseDriver, OpenPoseOptions

from hgr_stream.config import load as load_config
from hgr_stream.datasets.openpose import load_openpose
from hgr_stream.datasets.people import LiveLifter, Person, Picture, PointHand
from hgr_stream.skeleton import MIDDLE_BASE, WRIST
from tests.foreign_files import flat_hand, openpose, openpose_name, openpose_person

ROOT = Path(__file__).resolve().parent.parent


def driver_on(folder: Path, **options: object) -> OpenPoseDriver:
    driver = OpenPoseDriver(OpenPoseOptions(folder=str(folder), **options))  # type: ignore[arg-type]
    driver.open()
    return driver


def put(folder: Path, number: int, text: str | None = None, *, age_s: float = 0.0) -> Path:
    path = folder / openpose_name(number)
    path.write_text(openpose(openpose_person(flat_hand())) if text is None else text)
    if age_s:
        then = time.time() - age_s
        os.utime(path, (then, then))
    return path


def all_of(driver: OpenPoseDriver, wait_s: float = 0.1) -> list[Sample]:
    samples = []
    while (sample := driver.read(wait_s)) is not None:
        samples.append(sample)
    return samples


def test_the_real_files_copied_in_one_by_one(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "devices/openpose"
    files = sorted(source.glob("*.json"))
    driver = driver_on(tmp_path)

    def copy() -> None:
        for file in files:
            shutil.copyfile(file, tmp_path / file.name)
            time.sleep(0.02)

    copying = threading.Thread(target=copy)
    copying.start()
    samples = [sample for _ in files if (sample := driver.read(2.0)) is not None]
    copying.join()
    assert [s.index for s in samples] == list(range(9))
    assert driver.counts() == {"files_read": 9}
    [recording] = load_openpose(source)
    for sample, frame in zip(samples, recording.frames, strict=True):
        assert [h.side for h in sample.hands] == [h.side for h in frame.hands]
        assert [h.lacks for h in sample.hands] == [h.lacks for h in frame.hands]
        assert all("depth" in h.lacks for h in sample.hands)
    # Stamps are the files' own, not those of when they were found.
    steps_s = np.diff([s.device_ns or 0 for s in samples]) / 1e9
    assert 0.01 < np.median(steps_s) < 0.1
    palm = [
        float(np.linalg.norm(h.joints[MIDDLE_BASE] - h.joints[WRIST]))
        for s in samples
        for h in s.hands
    ]
    assert 0.06 < np.median(palm) < 0.12


def test_a_half_written_file_is_tried_again(tmp_path: Path) -> None:
    driver = driver_on(tmp_path)
    whole = openpose(openpose_person(flat_hand()))
    for n_bytes in (0, 50, len(whole) - 1):
        put(tmp_path, 0, whole[:n_bytes])
        assert driver.read(0.02) is None
    put(tmp_path, 0, whole)
    sample = driver.read(0.5)
    assert sample is not None
    assert (sample.index, len(sample.hands)) == (0, 1)
    assert driver.counts() == {"files_read": 1}


def test_a_file_that_stays_broken_costs_only_itself(tmp_path: Path) -> None:
    driver = driver_on(tmp_path)
    put(tmp_path, 0, '{"people": [')
    put(tmp_path, 1)
    began_s = time.monotonic()
    sample = driver.read(RETRY_S + 1)
    assert sample is not None
    assert sample.index == 1
    assert RETRY_S <= time.monotonic() - began_s < RETRY_S + 0.5
    assert driver.counts() == {"files_unreadable": 1, "files_read": 1}


def test_what_is_there_already_is_not_live_unless_it_is_wanted(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, number)
    driver = driver_on(tmp_path)
    assert driver.read(0.1) is None
    put(tmp_path, 5)
    assert [s.index for s in all_of(driver)] == [5]
    assert [s.index for s in all_of(driver_on(tmp_path, from_start=True))] == list(range(6))


def test_a_missing_number_is_waited_for_then_counted(tmp_path: Path) -> None:
    driver = driver_on(tmp_path)
    put(tmp_path, 0)
    assert [s.index for s in all_of(driver)] == [0]
    put(tmp_path, 2)
    assert driver.read(LATE_S / 3) is None
    put(tmp_path, 1)
    assert [s.index for s in all_of(driver)] == [1, 2]
    put(tmp_path, 5)
    assert [s.index for s in all_of(driver, LATE_S + 0.2)] == [5]
    assert driver.counts() == {"files_read": 4, "files_missing": 2}


def test_openpose_started_again_in_the_same_folder(tmp_path: Path) -> None:
    for number in range(40):
        put(tmp_path, number, age_s=60)
    driver = driver_on(tmp_path)
    for number in range(3):
        put(tmp_path, number)
        time.sleep(0.01)
    assert [s.index for s in all_of(driver)] == [0, 1, 2]
    assert driver.counts() == {"runs": 1, "files_read": 3}


def test_a_clock_that_is_set_back_loses_nothing(tmp_path: Path) -> None:
    for number in range(100, 140):  # of this run, now from the future
        put(tmp_path, number)
    driver = driver_on(tmp_path)
    assert all_of(driver) == []
    indices = []
    for number in range(140, 150):
        put(tmp_path, number, age_s=3600)
        indices += [sample.index for sample in all_of(driver)]
    assert indices == list(range(140, 150))
    assert driver.counts() == {"files_read": 10}


def test_a_pause_of_the_runner_loses_nothing(tmp_path: Path) -> None:
    driver = driver_on(tmp_path)
    put(tmp_path, 0)
    assert [s.index for s in all_of(driver)] == [0]
    driver.close()
    put(tmp_path, 1)
    driver.open()
    assert [s.index for s in all_of(driver)] == [1]


def test_files_are_deleted_when_asked(tmp_path: Path) -> None:
    driver = driver_on(tmp_path, delete_read=True)
    put(tmp_path, 0)
    put(tmp_path, 1)
    (tmp_path / "notes.json").write_text("{}")
    assert len(all_of(driver)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["notes.json"]


def test_the_wanted_number_of_people_is_followed(tmp_path: Path) -> None:
    text = openpose(
        openpose_person(flat_hand(at=(300, 300))),
        openpose_person(flat_hand(at=(900, 300)), flat_hand(side="left", at=(1000, 300))),
    )
    one, two = driver_on(tmp_path), driver_on(tmp_path, people=2)
    put(tmp_path, 0, text)
    assert [(h.id, h.side) for h in all_of(one)[0].hands] == [(2, "right")]
    assert [(h.id, h.side) for h in all_of(two)[0].hands] == [
        (2, "right"),
        (5, "left"),
        (6, "right"),
    ]
    assert one.counts() == {"files_read": 1, "people_not_followed": 1}


def in_view(time_s: float, *at_and_size: tuple[float, float]) -> Picture:
    """People with one right hand each: its wrist's x and its size, in pixels and to flat_hand's."""
    people = []
    for x, size in at_and_size:
        points = flat_hand(at=(0, 0))[:, :2] * size + [x, 300]
        people.append(Person(None, points, [PointHand("right", points, 0.9, ("depth",))]))
    return Picture(round(time_s * 1e9), 0, people)


def test_who_stays_is_followed_when_the_one_seen_first_has_gone() -> None:
    lifter = LiveLifter(1)
    for k in range(30):
        [hand] = lifter.push(in_view(k / 30, (100, 1), (900, 1)))
    passer_by = hand.joints[WRIST, 0]
    seen = [lifter.push(in_view(1 + k / 30, (900, 1))) for k in range(60)]
    first = next(k for k, hands in enumerate(seen) if hands)
    assert 28 <= first <= 31  # after FORGET_NS
    assert all(len(hands) == 1 for hands in seen[first:])
    assert all(hands[0].joints[WRIST, 0] != passer_by for hands in seen[first:])
    # Who comes back is the second now; two places are for both.
    [hand] = lifter.push(in_view(3.0, (100, 1), (900, 1)))
    assert hand.joints[WRIST, 0] == seen[-1][0].joints[WRIST, 0]
    both = LiveLifter(2)
    for k in range(90):
        hands = both.push(in_view(k / 30, *([(100, 1)] if k < 30 else []), (900, 1), (1500, 1)))
    assert [hand.id for hand in hands] == [6, 2]


def test_the_next_person_has_their_own_size() -> None:
    lifter = LiveLifter(1)
    for k in range(60):
        lifter.push(in_view(k / 30, (300, 2)))
    for k in range(60):
        [hand] = lifter.push(in_view(5 + k / 30, (300, 0.5)))
        assert np.linalg.norm(hand.joints[MIDDLE_BASE] - hand.joints[WRIST]) == pytest.approx(0.1)


def test_nobody_and_no_hands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver = driver_on(tmp_path)
    put(tmp_path, 0, openpose())
    put(tmp_path, 1, openpose(openpose_person()))
    assert [len(s.hands) for s in all_of(driver)] == [0, 0]
    assert driver.counts() == {"files_read": 2, "people_without_hands": 1}
    assert "add --hand" in caplog.text


def test_a_folder_that_is_not_there_names_the_cure_and_may_come_later(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    driver = OpenPoseDriver(OpenPoseOptions(folder=str(folder)))
    with pytest.raises(DeviceError, match="no such folder") as caught:
        driver.open()
    assert "--write_json" in caught.value.cure
    assert not caught.value.fatal
    folder.mkdir()
    driver.open()
    put(folder, 0)
    assert len(all_of(driver)) == 1
    shutil.rmtree(folder)
    with pytest.raises(DeviceError, match="the folder is gone"):
        driver.read(0.2)


def test_the_files_time_or_a_given_rate(tmp_path: Path) -> None:
    put(tmp_path, 30)
    [sample] = all_of(driver_on(tmp_path, from_start=True, fps=60))
    assert sample.device_ns == 500_000_000
    [sample] = all_of(driver_on(tmp_path, from_start=True))
    assert sample.device_ns == (tmp_path / openpose_name(30)).stat().st_mtime_ns


def test_the_shipped_config_has_the_drivers_own_defaults() -> None:
    table = dict(load_config(ROOT / "configs/openpose.toml").devices["openpose"])
    folder = table.pop("folder")
    assert table.pop("driver") == OpenPoseDriver.name
    default = OpenPoseOptions(folder=str(folder))
    assert table == {name: getattr(default, name) for name in table}
    assert set(table) == set(OpenPoseOptions.__struct_fields__) - {"folder"}
