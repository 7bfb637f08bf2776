"""A week's key is a file that is made whole, read only by name, and destroyed for good."""

from datetime import UTC, date, datetime
from pathlib import Path
from uuid import UUID

import pytest

from app.storage.epochs import Epoch, EpochDestroyed, EpochKeys, monday
from app.tables import new_id
from tests.fixtures.api import StillClock

WEEK = date(2026, 11, 16)


@pytest.fixture
def keys(tmp_path: Path) -> EpochKeys:
    return EpochKeys(tmp_path / "epochs", clock=StillClock(datetime(2026, 11, 22, 23, 59, tzinfo=UTC)))


def test_a_week_begins_on_monday_whatever_the_year(keys: EpochKeys) -> None:
    assert keys.week() == WEEK
    assert monday(date(2027, 1, 1)) == date(2026, 12, 28)
    assert monday(WEEK) == WEEK


def test_a_key_is_readable_by_us_alone_and_another_in_each_epoch(keys: EpochKeys) -> None:
    one, two = Epoch(WEEK, new_id()), Epoch(WEEK, new_id())
    made = keys.make(one)
    assert keys.read(one) == made != keys.make(two)
    assert (keys.directory / one.file).stat().st_mode & 0o777 == 0o600
    assert keys.directory.stat().st_mode & 0o777 == 0o700
    assert keys.held() == sorted([one, two])


def test_what_is_no_key_is_none_of_the_keys(keys: EpochKeys) -> None:
    assert keys.held() == []
    keys.make(Epoch(WEEK, new_id()))
    (keys.directory / "notes.txt").write_text("x")
    assert len(keys.held()) == 1


def test_a_destroyed_key_is_not_there_and_may_be_destroyed_again(keys: EpochKeys) -> None:
    epoch = Epoch(WEEK, new_id())
    secret = keys.make(epoch).hex()
    with (keys.directory / epoch.file).open() as held:
        keys.destroy(epoch)
        keys.destroy(epoch)
        # The bytes themselves are overwritten: who holds the file open, or a link to it, reads none.
        assert secret not in held.read()
    with pytest.raises(EpochDestroyed):
        keys.read(epoch)
    assert list(keys.directory.iterdir()) == []


@pytest.mark.parametrize("content", ["", "0" * 64, "no hex", "00ff"])
def test_a_file_that_is_overwritten_and_still_there_is_destroyed(keys: EpochKeys, content: str) -> None:
    epoch = Epoch(WEEK, UUID(int=1))
    keys.make(epoch)
    (keys.directory / epoch.file).write_text(content)
    with pytest.raises(EpochDestroyed):
        keys.read(epoch)
