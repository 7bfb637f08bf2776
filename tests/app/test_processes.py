"""Children that never outlive us, and locks that die with us."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import processes

SLEEP = ("-c", "import time; time.sleep(60)")


def gone(pid: int, *, within_seconds: float = 5.0) -> bool:
    """Return whether a process has ended (a zombie counts) within that time."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start ends what was left")
def test_a_child_dies_when_its_parent_is_killed() -> None:
    script = (
        "import time; from app import processes;"
        f"print(processes.start(processes.python(*{SLEEP!r})).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        processes.python("-c", script), env=processes.environment(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child, within_seconds=0.3)
        parent.kill()
        assert gone(child)


def test_a_program_starts_in_its_folder_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = processes.start(
            processes.python("-c", "import os; print(os.getcwd())"), output=output, folder=tmp_path
        )
    assert child.wait(10) == 0
    assert log.read_text().strip() == str(tmp_path)


def test_stopping_ends_the_whole_group(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    child = processes.start(processes.python("-c", script))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    assert processes.stop(child, grace_seconds=5) == -signal.SIGTERM
    assert gone(int((tmp_path / "pid").read_text()))


def test_who_does_not_listen_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    read, write = os.pipe()
    child = processes.start(processes.python("-c", stubborn), output=write)
    os.close(write)
    assert os.read(read, 1) == b"1"
    assert processes.stop(child, grace_seconds=0.1) == -signal.SIGKILL
    os.close(read)


def test_a_lock_is_held_by_one_and_freed_at_the_end(tmp_path: Path) -> None:
    with processes.exclusive(tmp_path / "locks" / "one") as mine:
        assert mine
        with processes.exclusive(tmp_path / "locks" / "one") as other:
            assert not other
    with processes.exclusive(tmp_path / "locks" / "one") as again:
        assert again


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {n}\n" for n in range(100)))
    assert processes.tail(tmp_path / "log", lines=2) == "line 98\nline 99"
    assert processes.tail(tmp_path / "none") == ""
