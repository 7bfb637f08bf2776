"""Logs of an embedded stack: put away by day while they are written, and gone after two weeks."""

import os
from datetime import date, timedelta
from pathlib import Path

from app.clock import system_clock
from app.embedded import logs

DAY = date(2026, 11, 21)


def test_a_log_is_put_away_while_a_part_holds_it_open(tmp_path: Path) -> None:
    with (tmp_path / "api.log").open("ab", buffering=0) as part:
        part.write(b"before\n")
        logs.turn(tmp_path, DAY)
        logs.turn(tmp_path, DAY)
        part.write(b"after\n")
    assert (tmp_path / f"api.{DAY}").read_bytes() == b"before\n"
    assert (tmp_path / "api.log").read_bytes() == b"after\n"


def test_nothing_is_older_than_two_weeks(tmp_path: Path) -> None:
    for day in range(30):
        (tmp_path / "api.log").write_text(f"day {day}\n")
        logs.turn(tmp_path, DAY + timedelta(days=day))
    kept = [f"api.{DAY + timedelta(days=day)}" for day in range(16, 30)]
    assert {each.name for each in tmp_path.iterdir()} == {"api.log", *kept}


def test_a_start_leaves_todays_log_alone(tmp_path: Path) -> None:
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    for log in (old, new):
        log.write_text("x\n")
    now = system_clock()
    before = (now - timedelta(days=2)).timestamp()
    os.utime(old, (before, before))
    logs.turn(tmp_path, now.date(), resting=True)
    assert old.stat().st_size == 0
    assert new.stat().st_size > 0
