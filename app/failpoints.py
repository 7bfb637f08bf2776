"""Places at which a test may kill the process, so that "killed at any line" is a test and not a hope.

Unset, a failpoint costs one look at the environment. `LETHE_FAILPOINT=name` kills the process with
SIGKILL when it first reaches that name; `LETHE_FAILPOINT_ONCE=FILE` makes it happen once over all
processes (whoever creates the file dies).
"""

import os
import signal


def reach(name: str) -> None:
    """Die here if a test asked for it."""
    if os.environ.get("LETHE_FAILPOINT") != name:
        return
    marker = os.environ.get("LETHE_FAILPOINT_ONCE")
    if marker:
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
