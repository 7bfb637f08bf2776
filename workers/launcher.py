"""Run the unlearning library in processes of its own: start, poll, collect, stop.

    Launcher(settings).run([spec, ...], progress=show)  ->  [Outcome, ...]  in the order of the specs

Why processes: whoever supervises must never hold a CUDA context, and a run that ends takes all of
its memory along. A run is told everything by OUT/spec.json, says how far it is by
OUT/progress.json, and has ended well only if it left OUT/outcome.json; what it prints goes to
OUT/run.log. A spec that already has its outcome is not run again. SIGTERM to us becomes SIGTERM to
the runs, which leave a checkpoint; if we are killed, they are killed with us.

Knows no database and never loads torch.
"""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app import processes
from app.config import Settings
from workers.unlearning import spec as specs_
from workers.unlearning.spec import EXIT_BAD_DATA, EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, Spec

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 0.5

Progress = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left: its directory and the body of OUT/outcome.json."""

    out: Path
    body: dict[str, Any]


class RunFailed(Exception):  # noqa: N818  it is named for the fact
    """A run ended without an outcome. What it printed is in OUT/run.log, never in this message."""

    def __init__(self, kind: str, code: int) -> None:
        """Carry the kind of spec and the exit code (negative: the signal that killed it)."""
        super().__init__(f"a {kind} run ended with exit code {code}")
        self.kind = kind
        self.code = code

    @property
    def resumable(self) -> bool:
        """Return whether the same spec goes on from a checkpoint."""
        return self.code == EXIT_RESUMABLE

    @property
    def bad_data(self) -> bool:
        """Return whether a record, and not the machine, is the reason."""
        return self.code == EXIT_BAD_DATA


@dataclass
class _Run:
    spec: Spec
    process: subprocess.Popen[bytes] | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def prepare(self) -> None:
        """Write the spec; find out whether this very spec has been run before."""
        text = specs_.dump(self.spec)
        file = self.spec.out / "spec.json"
        self.spec.out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if file.exists() and file.read_text(encoding="utf-8") == text:
            self.done = (self.spec.out / "outcome.json").exists()
            return
        (self.spec.out / "outcome.json").unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")

    def start(self, program: tuple[str, ...]) -> None:
        command = processes.python(*program, "--spec", str(self.spec.out / "spec.json"))
        env = processes.environment(CUBLAS_WORKSPACE_CONFIG=":4096:8", HF_HUB_OFFLINE="1")
        with (self.spec.out / "run.log").open("ab") as log:
            # In our own process group: whoever kills a fenced stage kills its runs with it.
            self.process = processes.start(command, env=env, output=log, own_session=False)

    def look(self) -> bool:
        """Return whether the run has just ended well; raise if it has ended otherwise."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        if code != EXIT_DONE:
            raise RunFailed(self.spec.kind, code)
        if not (self.spec.out / "outcome.json").exists():
            raise RunFailed(self.spec.kind, EXIT_FAILED)
        self.done = True
        return True

    def read_progress(self) -> None:
        try:
            self.progress = json.loads((self.spec.out / "progress.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return

    def outcome(self) -> Outcome:
        body = json.loads((self.spec.out / "outcome.json").read_bytes())
        return Outcome(out=self.spec.out, body=body)


@dataclass(frozen=True)
class Launcher:
    """Starts runs on this computer, at most `settings.parallel_runs` at once."""

    settings: Settings
    program: tuple[str, ...] = ("-m", "workers.unlearning")
    """What this interpreter is given to run one spec."""

    def run(self, specs: Sequence[Spec], *, progress: Progress | None = None) -> list[Outcome]:
        """Run every spec to its end and return their outcomes; raise `RunFailed` for the first that fails.

        `progress` is called with what each run says of itself, in the order of the specs, at most
        twice a second and only when something has changed.
        """
        runs = [_Run(spec) for spec in specs]
        for run in runs:
            run.prepare()
        with _sigterm() as told:
            try:
                self._work(runs, progress, told)
            finally:
                self._stop(runs)
        return [run.outcome() for run in runs]

    def _work(self, runs: list[_Run], progress: Progress | None, told: threading.Event) -> None:
        shown, show_at = None, 0.0
        while not all(run.done for run in runs):
            if told.is_set():
                raise RunFailed(next(run.spec.kind for run in runs if not run.done), EXIT_RESUMABLE)
            running = [run for run in runs if run.process is not None and not run.done]
            waiting = [run for run in runs if run.process is None and not run.done]
            for run in waiting[: max(0, self.settings.parallel_runs - len(running))]:
                run.start(self.program)
            for run in running:
                run.look()
            if progress is not None and time.monotonic() >= show_at:
                for run in running:
                    run.read_progress()
                now = [run.progress for run in runs]
                if now != shown:
                    progress([dict(each) for each in now])
                shown, show_at = now, time.monotonic() + PROGRESS_SECONDS
            told.wait(POLL_SECONDS)

    def _stop(self, runs: list[_Run]) -> None:
        """End what still runs: a word to all, time to write a checkpoint, then the end."""
        left = [run.process for run in runs if run.process is not None and run.process.poll() is None]
        for process in left:
            process.terminate()
        deadline = time.monotonic() + self.settings.drain_seconds / 2
        for process in left:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets, while in the block; outside the main thread nobody sets it."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    previous = signal.getsignal(signal.SIGTERM)

    def tell(number: int, frame: Any) -> None:
        told.set()
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, previous)
