"""The Celery worker: it hears bells, sweeps for what no bell told, and computes nothing.

    celery -A workers.celery_app worker -Q gpu        --pool=threads --concurrency=1
    celery -A workers.celery_app worker -Q io,signing,webhooks --pool=threads --concurrency=2
    celery -A workers.celery_app beat                 any number of them is safe

Why these settings: messages are acknowledged before the work (Redis redelivers what stays
unacknowledged for an hour, and GPU stages last longer: celery#5935), none is fetched ahead, none has
a result. Losing one costs at most `sweep_seconds`, because a thread of every worker asks Postgres
what is due and runs it; with Redis gone that thread does all the work. `app` is the one module-level
object; importing this reads no settings.
"""

import logging
import os
import threading
from functools import cache
from typing import Any
from uuid import UUID

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutdown, worker_shutting_down

from app import telemetry
from app.config import Settings
from app.queue import TASK, Stage, broker_url
from workers import context, housekeeping
from workers.supervision import Supervisor

SWEEP = "lethe.sweep"
VISIBILITY_SECONDS = 3600
JOIN_SECONDS = 10
COURIER_SECONDS = 2.0
COURIER_QUEUE = "webhooks"
"""Nothing is ever in it: a worker that consumes it delivers what Postgres has."""

_log = telemetry.logger("sweeper")


def configuration() -> dict[str, Any]:
    """Return the settings of worker and beat (R52); read once, when Celery first needs them."""
    settings = Settings()
    options = {"visibility_timeout": VISIBILITY_SECONDS, "socket_timeout": 30, "socket_connect_timeout": 5}
    return {
        # Without a broker the sweeper does everything; the worker then listens to itself.
        "broker_url": "memory://" if settings.redis_url is None else broker_url(settings.redis_url),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": options,
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_SECONDS},
        "visibility_timeout": VISIBILITY_SECONDS,
        "task_acks_late": False,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_create_missing_queues": True,
        "task_default_queue": "io",
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_redirect_stdouts": False,
        "beat_schedule": {
            "sweep": {
                "task": SWEEP,
                "schedule": settings.beat_seconds,
                # A sweep that nobody heard in time is no longer worth hearing.
                "options": {"queue": "io", "expires": settings.beat_seconds},
            }
        },
    }


app = Celery("lethe", set_as_current=False)
app.add_defaults(configuration)


@cache
def supervisor() -> Supervisor:
    """Return this worker process's supervisor, built when it is first asked for."""
    settings = Settings()
    name = os.environ.get("LETHE_WORKER", "worker")
    return Supervisor(context.build(settings), alive=settings.home / "run" / f"{name}.alive")


@app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery ships no types
def run(stage: str, id: str) -> None:  # noqa: A002  the message's own word
    """Answer a bell."""
    supervisor().answer(Stage(stage), UUID(id), bell=True)


@app.task(name=SWEEP)  # type: ignore[untyped-decorator]  # Celery ships no types
def sweep() -> None:
    """Do the housekeeping; what is due is rung for, not run, as this thread serves all queues."""
    housekeeping.sweep(supervisor().context)


class Sweeper(threading.Thread):
    """Finds what no bell told, and runs what is due on this worker's queues."""

    def __init__(self, supervisor: Supervisor, queues: frozenset[str]) -> None:
        super().__init__(name="sweeper", daemon=True)
        self.supervisor = supervisor
        self.queues = queues

    def run(self) -> None:
        """Look at once, then every `sweep_seconds`, until the worker drains."""
        seconds = self.supervisor.context.settings.sweep_seconds
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  no failure of one sweep may be the last sweep
                _log.warning("sweep failed", **telemetry.failure(error))
            if self.supervisor.draining.wait(seconds):
                return

    def look(self) -> None:
        """Sweep; run what is due here; look again after each. Nothing is tried twice in one look."""
        world, tried = self.supervisor.context, set[tuple[Stage, UUID]]()
        housekeeping.sweep(world)
        while not self.supervisor.draining.is_set():
            due = [each for each in housekeeping.due(world) if each[0].queue in self.queues]
            self.supervisor.seen()
            untried = [each for each in due if each not in tried]
            if not untried:
                return
            tried.add(untried[0])
            self.supervisor.answer(*untried[0], bell=False)


class Courier(threading.Thread):
    """Tells others what happened; a thread of its own, as some of them take long to answer."""

    def __init__(self, supervisor: Supervisor) -> None:
        super().__init__(name="courier", daemon=True)
        self.supervisor = supervisor

    def run(self) -> None:
        """Tell all there is, then look again, until the worker drains; what is under way is sent again."""
        while True:
            try:
                while housekeeping.tell(self.supervisor.context) and not self.supervisor.draining.is_set():
                    pass
            except Exception as error:  # noqa: BLE001  nobody else would tell what comes next
                _log.warning("duty failed", part="tell", **telemetry.failure(error))
            if self.supervisor.draining.wait(COURIER_SECONDS):
                return


_sweepers: list[Sweeper] = []


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def _log_our_way(**_: Any) -> None:
    """Keep Celery from configuring logs: its lines quote what they are given.

    That a bell was heard is not worth a line; how each stage ended has one of its own.
    """
    telemetry.configure()
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


@worker_init.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def _begin(sender: Any, **_: Any) -> None:
    """Start the sweeper before the broker is asked for, so that it works without one."""
    queues = frozenset(sender.app.amqp.queues.consume_from)
    sweeper = Sweeper(supervisor(), queues)
    _sweepers.append(sweeper)
    sweeper.start()
    if COURIER_QUEUE in queues:
        Courier(supervisor()).start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def _drain(**_: Any) -> None:
    """Begin nothing more; what runs is asked for a checkpoint (R60). Runs in a signal handler."""
    supervisor().draining.set()


@worker_shutdown.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def _end(**_: Any) -> None:
    """Let the sweeper give its lease back before the process ends."""
    for sweeper in _sweepers:
        sweeper.join(sweeper.supervisor.context.settings.drain_seconds + JOIN_SECONDS)
