"""The sequencer may die at any line: the next goes on, and never are there two histories."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import processes
from app.storage.database import Transaction
from app.tables import LogCheckpoint
from app.transparency import service, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import Note
from app.transparency.repository import Log
from tests.app.transparency.logs import Witnesses, append, entry, policy, sequencer

FAILPOINTS = re.findall(r'reach\("(log\.[a-z]+)"\)', Path(service.__file__).read_text())

SEQUENCE = """
import sys
from pathlib import Path
from app.storage.database import connect, transactions
from app.transparency import service
from tests.app.transparency.logs import sequencer
engine = connect(sys.argv[1], statement_seconds=5)
print(service.sequence(transactions(engine), sequencer(Path(sys.argv[2]))))
"""


class Killed(BaseException):
    """Ends a run where the kernel would."""


def one_history(transaction: Transaction, *notes: bytes | None) -> None:
    """The oracle: whatever was signed is a beginning of the tree that is there now."""
    with transaction() as session:
        found = session.query(LogCheckpoint).order_by(LogCheckpoint.size).all()
        size = found[-1].size if found else 0
        leaves = [tree.leaf_hash(each) for each in Log(session).entries(0, size)]
        signed = [row.note.encode() for row in found if row.note] + [each for each in notes if each]
        assert all(row.root == tree.root(leaves[: row.size]) for row in found)
    by_size: dict[int, str] = {}
    for data in signed:
        checkpoint = Checkpoint.parse(Note.parse(data).text)
        assert checkpoint.size <= size, "nothing is signed that is not committed"
        assert checkpoint.root == tree.root(leaves[: checkpoint.size])
        assert by_size.setdefault(checkpoint.size, checkpoint.text) == checkpoint.text


def test_there_are_failpoints_between_all_steps() -> None:
    assert FAILPOINTS == [
        "log.committed", "log.signed", "log.marked", "log.stored", "log.cosigned", "log.published",
    ]  # fmt: skip


@pytest.mark.parametrize("place", FAILPOINTS)
@pytest.mark.parametrize("grows", [False, True])
def test_the_next_run_goes_on(
    transaction: Transaction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    grows: bool,  # noqa: FBT001  the case: whether more was appended before the next run
) -> None:
    witnesses = Witnesses()
    chosen = policy(witnesses.add("W1", 21, tmp_path), quorum="W1")
    by = sequencer(tmp_path, chosen, ask=witnesses.ask)
    append(transaction, "a")
    service.sequence(transaction, by)
    append(transaction, "b", "c")

    def reach(name: str) -> None:
        if name == place:
            raise Killed

    monkeypatch.setattr(service, "reach", reach)
    with pytest.raises(Killed):
        service.sequence(transaction, by)
    marked = by.mark.path.read_bytes()
    one_history(transaction, marked)
    with transaction() as session:
        shown = chosen.opened(service.checkpoint(session)).checkpoint.size
    assert shown == (3 if place == "log.published" else 1), "nothing is shown before it is published"

    monkeypatch.undo()
    names = "abcd" if grows else "abc"
    append(transaction, *names)
    assert service.sequence(transaction, by) == len(names)
    one_history(transaction, marked, by.mark.path.read_bytes())
    with transaction() as session:
        found = chosen.opened(service.checkpoint(session)).checkpoint
    assert found.root == tree.root([tree.leaf_hash(entry(name)) for name in names])


@pytest.mark.slow
def test_a_process_killed_at_every_point_leaves_one_history(
    transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    once.mkdir()
    env = processes.environment(LETHE_FAILPOINT=",".join(FAILPOINTS), LETHE_FAILPOINT_ONCE=str(once))
    mark, marks, deaths = tmp_path / "log" / "high-water-mark", list[bytes | None](), 0
    root = Path(__file__).parents[3]
    for number in range(len(FAILPOINTS) + 1):
        append(transaction, number)
        words = [sys.executable, "-c", SEQUENCE, database_url, str(tmp_path)]
        done = subprocess.run(words, cwd=root, env=env | {"PYTHONPATH": str(root)}, check=False)
        deaths += done.returncode == -signal.SIGKILL
        marks.append(mark.read_bytes() if mark.exists() else None)
        one_history(transaction, *marks)
    assert deaths == len(FAILPOINTS)
    assert sorted(path.name for path in once.iterdir()) == sorted(FAILPOINTS)
    with transaction() as session:
        found = policy().opened(service.checkpoint(session)).checkpoint
    assert found.size == len(FAILPOINTS) + 1
