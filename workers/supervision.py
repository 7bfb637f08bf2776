"""Run one stage: take its place and its lease, start a child, renew the lease, settle how it ended.

    place    the device (gpu stages: one at a time on each) or the dataset; a lock file
    lease    the model's, by epoch; a stage that concerns no model needs none
    child    `python -m workers.pipeline STAGE ID --epoch N`, leader of its own process group

Why so: work on a model is void once the lease is lost, so this process must be able to end it at
any moment, whatever it is doing; it therefore computes nothing itself and never loads torch. A
renewal can hang as long as a broken network likes. It has a thread of its own, and what counts is
when the last one that succeeded was *sent*, by a clock that does not stop while the computer sleeps.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from uuid import UUID

from app import processes, queue, telemetry
from app.clock import boot_seconds
from app.jobs import failures, leases, scheduling
from app.queue import Stage
from workers.context import Context

EXIT_RESUMABLE = 75
EXIT_FENCED = 77
EXIT_CHANGED = 66
_CODES = {
    65: "bad_data",
    EXIT_CHANGED: "dataset-changed",
    70: "failed",
    -signal.SIGKILL: "killed",
    -signal.SIGTERM: "terminated",
}

PATIENCE_SECONDS = 10.0
"""How long a bell waits for a lease: the stage before it is still leaving."""

_POLL_SECONDS = 0.1
_log = telemetry.logger("supervision")


class Ended(Enum):
    """How it went."""

    DONE = "done"
    BUSY = "busy"
    """Somebody else is at it, or we are leaving; whoever looks next may try."""
    ANSWERED = "answered"
    """The bell had been answered before; nothing was started."""
    RESUMABLE = "resumable"
    """Interrupted, or something it needs is away; costs no attempt."""
    FENCED = "fenced"
    """The lease was lost; nothing it computed counts."""
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class _Lease:
    model_id: UUID
    epoch: int


@dataclass
class _Renewal:
    """The heartbeat of one lease, on its own thread and its own connection."""

    context: Context
    lease: _Lease
    over: threading.Event = field(default_factory=threading.Event)
    lost: bool = False
    renewed_at: float = field(default_factory=boot_seconds)

    def run(self) -> None:
        """Renew until told that it is over, or until another holds the model."""
        settings = self.context.settings
        while not self.over.wait(settings.lease_renew_seconds):
            sent = boot_seconds()
            try:
                with self.context.transaction() as session:
                    held = leases.renew(
                        session, self.lease.model_id, epoch=self.lease.epoch, seconds=settings.lease_seconds
                    )
            except Exception as error:  # noqa: BLE001  whatever hinders a renewal, the clock decides
                _log.warning("renewal failed", error=type(error).__name__)
                continue
            if not held:
                self.lost = True
                return
            self.renewed_at = sent

    @property
    def void(self) -> bool:
        """Return whether the lease is lost, or may be by the time the child's next write arrives."""
        return self.lost or boot_seconds() - self.renewed_at > self.context.settings.lease_seconds * 2 / 3


@dataclass(frozen=True)
class Supervisor:
    """Runs stages for one worker process; safe to call from several threads."""

    context: Context
    draining: threading.Event = field(default_factory=threading.Event)
    """Once set, nothing is begun, and what runs is asked to leave a checkpoint."""
    alive: Path | None = None
    """Touched while this worker looks after things; what a health check asks for."""
    program: tuple[str, ...] = ("-m", "workers.pipeline")
    """What this interpreter is given to run one stage."""
    _device: threading.Lock = field(default_factory=threading.Lock)

    def seen(self) -> None:
        """Leave a sign of life."""
        if self.alive is not None:
            self.alive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.alive.touch()

    def answer(self, stage: Stage, id: UUID, *, bell: bool) -> Ended:  # noqa: A002  the message's own word
        """Run a stage if it can be run now.

        A bell waits for its turn on the device, and a moment for the lease; if nobody is ringing it
        any more, it is a copy of one that was answered. The sweeper waits for nothing.
        """
        deadline: float | None = None
        while True:
            with self._place(stage, id, wait=bell) as free:
                claim = self._claim(stage, id, bell=bell) if free else Ended.BUSY
                if not isinstance(claim, Ended):
                    return self._run(stage, id, claim)
            # The device is free again: other models need not wait for this one's lease.
            deadline = deadline or time.monotonic() + (PATIENCE_SECONDS if bell else 0.0)
            if not free or claim is not Ended.BUSY or time.monotonic() >= deadline:
                return claim
            self.draining.wait(_POLL_SECONDS)

    def _run(self, stage: Stage, id_: UUID, lease: "_Lease | None") -> Ended:
        """See one stage through, and settle how it ended."""
        try:
            ended, code = self._watch(stage, id_, lease)
        except BaseException:
            self._settle(stage, id_, lease, Ended.RESUMABLE, told=True)
            raise
        self._settle(stage, id_, lease, ended, code, told=self.draining.is_set())
        _log.info("stage ended", stage=stage.value, target=str(id_), state=ended.value, exit=code)
        return ended

    @contextmanager
    def _place(self, stage: Stage, id_: UUID, *, wait: bool) -> Iterator[bool]:
        """Hold the device of a gpu stage, or a dataset; nothing else is ever in the way."""
        locks = self.context.settings.home / "locks"
        if stage in {Stage.REGISTER, Stage.SKETCH}:
            with processes.exclusive(locks / f"dataset-{id_}") as free:
                yield free
        elif stage.queue != "gpu":
            yield not self.draining.is_set()
        else:
            device = locks / f"device-{os.environ.get('CUDA_VISIBLE_DEVICES', '0')}"
            while not self.draining.is_set():
                with self._mine(wait=wait) as mine:
                    if mine:
                        with processes.exclusive(device) as free:
                            if free:
                                yield True
                                return
                if not wait:
                    break
                self.draining.wait(_POLL_SECONDS)
            yield False

    @contextmanager
    def _mine(self, *, wait: bool) -> Iterator[bool]:
        got = self._device.acquire(timeout=_POLL_SECONDS) if wait else self._device.acquire(blocking=False)
        try:
            yield got
        finally:
            if got:
                self._device.release()

    def _claim(self, stage: Stage, id_: UUID, *, bell: bool) -> _Lease | Ended | None:
        """Return the lease (None where none is needed), or why nothing is to be started."""
        settings = self.context.settings
        with self.context.transaction() as session:
            lease = None
            model_id = scheduling.model_of(session, stage, id_)
            if model_id is not None:
                epoch = leases.take(
                    session, model_id, owner=self.context.worker, seconds=settings.lease_seconds
                )
                if epoch is None and not leases.paused(session, model_id):
                    return Ended.BUSY
                lease = None if epoch is None else _Lease(model_id=model_id, epoch=epoch)
            ringing = queue.heard(session, stage, id_)
            if model_id is not None and lease is None:
                # Its breaker is open: whoever resumes the model rings again.
                return Ended.ANSWERED
            if ringing or not bell:
                return lease
            if lease is not None:
                leases.release(session, lease.model_id, epoch=lease.epoch)
            return Ended.ANSWERED

    def _watch(self, stage: Stage, id_: UUID, lease: _Lease | None) -> tuple[Ended, int]:
        """Start the child and see it out."""
        epoch = 0 if lease is None else lease.epoch
        command = processes.python(*self.program, stage.value, str(id_), "--epoch", str(epoch))
        child = processes.start(command, env=processes.environment(), pipe=True)
        if lease is None:
            return self._see_out(child, None)
        renewal = _Renewal(self.context, lease)
        beat = threading.Thread(target=renewal.run, name=f"lease-{lease.model_id}", daemon=True)
        beat.start()
        try:
            return self._see_out(child, renewal)
        finally:
            renewal.over.set()

    def _see_out(self, child: subprocess.Popen[bytes], renewal: _Renewal | None) -> tuple[Ended, int]:
        told_at: float | None = None
        try:
            while True:
                try:
                    code = child.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    code = None
                    self.seen()
                if renewal is not None and renewal.void:
                    return Ended.FENCED, EXIT_FENCED
                if code is not None:
                    return _meaning(code, told=told_at is not None), code
                if self.draining.is_set() and told_at is None:
                    told_at = time.monotonic()
                    child.terminate()
                if told_at is not None and time.monotonic() - told_at > self.context.settings.drain_seconds:
                    return Ended.RESUMABLE, EXIT_RESUMABLE
        finally:
            # Its runs are in its group: whatever is left of them ends here.
            processes.kill_group(child)

    def _settle(
        self, stage: Stage, id_: UUID, lease: _Lease | None, ended: Ended, code: int = 0, *, told: bool
    ) -> None:
        """Count a failure while the lease is still ours, then give the lease back."""
        if lease is None:
            return
        settings = self.context.settings
        with self.context.transaction() as session:
            if ended is Ended.FENCED:
                leases.count_fenced(session, lease.model_id)
            elif ended is Ended.FAILED:
                limit = settings.stage_kills_max if code < 0 else settings.stage_attempts_max
                failures.record(
                    session,
                    stage,
                    id_,
                    epoch=lease.epoch,
                    code=_CODES.get(code, f"exit_{code}"),
                    killed=code < 0,
                    # A file that was changed is not changed back by trying again.
                    attempts_max=1 if code == EXIT_CHANGED else limit,
                    at=self.context.clock(),
                )
            elif ended is Ended.RESUMABLE and not told:
                failures.wait(session, lease.model_id, epoch=lease.epoch)
            leases.release(session, lease.model_id, epoch=lease.epoch)


def _meaning(code: int, *, told: bool) -> Ended:
    if code == 0:
        return Ended.DONE
    if code == EXIT_FENCED:
        return Ended.FENCED
    # However a child ends that was asked to: that is our doing, and costs the job no attempt.
    return Ended.RESUMABLE if told or code == EXIT_RESUMABLE else Ended.FAILED
