"""Places at which a test may kill the process, so that "killed at any line" is a test and not a hope.

    LETHE_FAILPOINT=unlearn.computed,publish.swapped     die with SIGKILL on reaching one of these
    LETHE_FAILPOINT_ONCE=DIRECTORY                       each of them once over all processes

Unset, a failpoint costs one look at the environment. With a directory, whoever creates the file of
that name there dies; later comers go on.
"""

import os
import signal
from pathlib import Path


def reach(name: str) -> None:
    """Die here if a test asked for it."""
    if name not in os.environ.get("LETHE_FAILPOINT", "").split(","):
        return
    directory = os.environ.get("LETHE_FAILPOINT_ONCE")
    if directory:
        try:
            (Path(directory) / name).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
