"""Child processes that never outlive us, files that only one process may hold, sockets that answer.

Why so: whoever supervises can be killed with SIGKILL at any moment and can then stop nobody. The
kernel does it instead: on Linux every child asks, before it becomes what it is to be, for a signal
upon our death (`PR_SET_PDEATHSIG`). That signal follows the *thread* that started the child, so the
starting thread must outlive it. Elsewhere children are ended by the next start (`app.embedded`).
Knows nothing of what the children do.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# Runs between our fork and the real program, as plain Python of its own: code in a forked copy of a
# process with threads (`preexec_fn`) can deadlock. The user is changed before the request is made,
# because a change of user clears it; the parent may have died before it was made, hence the check.
_TETHER = """
import os, sys
parent, signal, user = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if sys.platform == "linux":
    import ctypes
    prctl = ctypes.CDLL(None).prctl
else:
    prctl = lambda *ignored: None
if user:
    import pwd
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
prctl(1, signal, 0, 0, 0)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[4], sys.argv[4:])
"""

QUIET_THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
"""Processes that share cores collapse when each spins a thread per core."""


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | int | None = None,
    pipe: bool = False,
    own_session: bool = True,
    user: str = "",
    folder: Path | None = None,
    at_our_death: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program by its absolute path; it dies when the calling thread does.

    `output` takes stdout and stderr (None: ours). `pipe` gives it a stdin that closes with us.
    `folder` is where it stands.
    """
    assert Path(argv[0]).is_absolute(), "a program is named by its path"
    tether = [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), str(int(at_our_death)), user]
    return subprocess.Popen(
        [*tether, *argv],
        env=None if env is None else dict(env),
        stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=own_session,
        cwd=folder,
    )


def python(*arguments: str) -> list[str]:
    """Return the command line of this interpreter."""
    return [sys.executable, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return our environment for a Python child: it finds this package, and spins no idle threads."""
    here = str(Path(__file__).resolve().parent.parent)
    path = [
        here,
        *(each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each and each != here),
    ]
    # Safe path: where a child stands is not where its modules come from.
    return os.environ | QUIET_THREADS | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"} | more


def stop(
    process: subprocess.Popen[bytes], *, grace_seconds: float, by: signal.Signals = signal.SIGTERM
) -> int:
    """Ask a child to end, wait, and kill what is left of its group; return its exit code."""
    if process.poll() is None:
        process.send_signal(by)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    return kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> int:
    """Kill a child that leads its own session, and all it has started there; return its exit code."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    return process.wait()


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock file while in the block; yields whether it could be had. It is never waited for.

    The kernel releases it when we die, however we die. The file stays: removing it would let two
    processes lock two files of one name.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def tail(path: Path, *, lines: int = 15) -> str:
    """Return the last lines of a log, for the person whose start has failed."""
    try:
        text = path.read_bytes()[-16_384:].decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
