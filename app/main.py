"""The composition root of the API: what it is made of, and which doors it has.

Nothing is connected at import; `create_app` is what uvicorn and the tests call. Endpoints are sync
and run in a bounded pool of threads, each call in one transaction that is committed before its
response is sent.
"""

import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any

import anyio.to_thread
from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.middleware import Middleware

from app import telemetry
from app.audit import archive
from app.audit import endpoints as audit
from app.audit import service as chain
from app.audit.archive import Archive, Standing
from app.auth import oidc
from app.auth.dependencies import asks, door, watches
from app.auth.endpoints import keys as auth
from app.auth.endpoints import sessions as people
from app.auth.provider import Provider
from app.auth.scopes import Scope
from app.certificates import endpoints as certificates
from app.clock import Clock, system_clock
from app.config import Settings
from app.dashboard import endpoints as dashboard
from app.dashboard import metrics as operations
from app.erasure import calendars
from app.erasure.endpoints import bulk as erasure_bulk
from app.erasure.endpoints import clock as erasure_clock
from app.erasure.endpoints import decisions as erasure_decisions
from app.erasure.endpoints import exports as erasure_exports
from app.erasure.endpoints import holds as erasure_holds
from app.erasure.endpoints import identity as erasure_identity
from app.erasure.endpoints import requests as erasure
from app.erasure.endpoints import retention as erasure_retention
from app.erasure.endpoints.joining import intake, shown
from app.erasure.endpoints.lines import Lines, pages
from app.erasure.forgetting import sealed
from app.http import description, problems, tracing
from app.http.hub import Hub
from app.http.limiting import RateLimiter
from app.http.middleware import Access, BodyLimit
from app.http.outbound import Reach
from app.intake import endpoints as opendsr
from app.intake import processor
from app.intake.bulk import endpoints as imports
from app.jobs import endpoints as jobs
from app.queue import celery_poke
from app.records import endpoints as records
from app.registry import endpoints as registry
from app.registry import service as models
from app.storage import readiness
from app.storage.database import DatabaseError, Transaction, close, connect, on_connect
from app.storage.epochs import EpochKeys
from app.storage.keyring import Keyring
from app.storage.objects import ObjectStore
from app.storage.readiness import Postgres
from app.transparency import endpoints as transparency
from app.transparency import service as log
from app.verification import endpoints as verification
from app.webhooks import endpoints as webhooks

Handler = Callable[[int, FrameType | None], Any] | int | None

STATEMENT_SECONDS = 5
THREADS = 20
NEXT = (
    "no model is registered yet: `lethe dataset add`, then `lethe model train` or `lethe model add`"
    " (`lethe --help`)"
)

RESTORED = "the database was restored from a backup: nothing is written before `lethe restore-check` has run"


class Readiness(BaseModel):
    """Whether calls can be served, by which parts, and what to do next."""

    status: str
    parts: dict[str, str]
    next: str | None = None


def create_app(settings: Settings, *, clock: Clock = system_clock) -> FastAPI:
    """Build the API; it opens its first connection with its first call."""
    if settings.database_url is None:
        raise ValueError("LETHE_DATABASE_URL is not set; `lethe up` starts a database of its own")
    engine = connect(settings.database_url, statement_seconds=STATEMENT_SECONDS, pool=THREADS)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        log.refuse_if_behind(app.state.transaction, keys_directory=settings.keys, storage=settings.storage)
        with _let_go(app.state.hub):
            yield
        close(engine)

    app = FastAPI(
        title="Lethe",
        summary="Erases people's data from trained language models, and shows it.",
        version="1",
        lifespan=lifespan,
        telemetry=tracing.configured(wanted=settings.tracing),
        dependencies=[Depends(description.only_named)],
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(Access),
            Middleware(
                BodyLimit,
                bytes_max=settings.body_bytes_max,
                larger={imports.PATH: settings.import_bytes_max},
            ),
        ],
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.clock = clock
    app.state.keyring = Keyring.open(settings.keys, create=settings.profile == "embedded")
    app.state.objects = ObjectStore.open(settings.storage)
    app.state.calendar = calendars.load(settings.jurisdiction, settings.time_zone)
    app.state.reach = Reach.of(settings)
    app.state.transaction = archive.guarded(
        engine,
        settings.storage,
        {
            "poke": celery_poke(settings.redis_url),
            sealed.INFO: EpochKeys(settings.epochs, clock=clock),
        },
    )
    app.state.provider = Provider.of(settings, clock=clock)
    app.state.login = oidc.Door.of(settings, app.state.provider, clock=clock)
    app.state.limiter = RateLimiter(
        reads=settings.reads_per_minute,
        writes=settings.writes_per_minute,
        imports=settings.imports_per_hour,
        logins=settings.logins_per_minute,
        redis_url=settings.redis_url,
    )
    app.state.door = door(app.state.transaction, app.state.keyring.api, lambda: app.state.limiter, clock)
    app.state.intake = intake(
        app.state.transaction,
        app.state.keyring.subject,
        calendar=app.state.calendar,
        rules=settings.requests_policy,
    )
    app.state.shown = shown(app.state.transaction, clock)
    app.state.lines = Lines()
    on_connect(engine, app.state.lines.forget)
    app.state.pages = pages(
        app.state.transaction, clock, app.state.lines, cursor_key=app.state.keyring.cursor
    )
    app.state.hub = Hub(lambda: _head(app.state.transaction))
    problems.install(app)
    _mount(app)
    if (identity := processor.of(settings, clock=clock)) is not None:
        opendsr.mount(app, identity)
    _health(app)
    description.install(app)
    return app


def from_environment() -> FastAPI:
    """Build the API of this process: `uvicorn --factory app.main:from_environment`."""
    telemetry.configure()
    app = create_app(Settings())
    # Half a million objects that stay: the collector need not look at them again while callers wait.
    gc.collect()
    gc.freeze()
    return app


@contextmanager
def _let_go(hub: Hub) -> Iterator[None]:
    """Send waiting callers home when the process is told to end.

    uvicorn waits for open answers before it tells the application (Kludex/uvicorn#451), and an idle
    stream would cost the whole grace: so the hub closes before uvicorn's own handler runs.
    """
    kept = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            kept[number] = signal.getsignal(number)
            signal.signal(number, _closing(hub, kept[number]))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        hub.close()


def _closing(hub: Hub, then: Handler) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        hub.close()
        if callable(then):
            then(number, frame)

    return handle


def _head(transaction: Transaction) -> int:
    """Return how far the audit sequence is: whatever happens, happens there too."""
    with transaction() as session:
        return chain.last(session)


def _mount(app: FastAPI) -> None:
    """Give the app its doors, in the order of the story."""
    app.include_router(records.router)
    app.include_router(records.bars)
    app.include_router(registry.router)
    app.include_router(erasure.router)
    app.include_router(erasure_decisions.router)
    app.include_router(erasure_clock.router)
    app.include_router(erasure_identity.people)  # without a key: a person has none
    app.include_router(erasure_identity.router)
    app.include_router(erasure_holds.router)
    app.include_router(erasure_bulk.router)
    app.include_router(erasure_exports.router)
    app.include_router(erasure_retention.router)
    app.include_router(imports.router)
    app.include_router(dashboard.router)
    app.include_router(jobs.router)
    app.include_router(jobs.models)
    app.include_router(verification.router)
    app.include_router(verification.audits)
    app.include_router(certificates.router)
    app.include_router(certificates.well_known)
    app.include_router(auth.router)
    app.include_router(people.browser)
    app.include_router(people.router)
    app.include_router(people.principals)
    app.include_router(webhooks.router)
    app.include_router(transparency.router)  # without a scope: whoever doubts us must not have to ask us
    # The audit chain lies below `auth`, which records to it: so its scope is attached here (A12).
    audited = Depends(asks(Scope.AUDIT_READ), scope="function")
    app.include_router(audit.router, dependencies=[audited])
    app.include_router(audit.live, dependencies=[Depends(watches(Scope.REQUESTS_READ))])


def _health(app: FastAPI) -> None:
    """Add what orchestrators and metrics collectors ask; nothing in it is about anybody.

    Functions of the module that find the app by the call: FastAPI remembers every endpoint that it has seen,
    and with one made in here would remember each app that a process ever built.
    """
    app.get("/healthz", tags=["Health"])(healthz)
    app.get("/readyz", tags=["Health"])(readyz)
    app.get("/metrics", tags=["Health"], include_in_schema=False)(metrics)


def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


def readyz(request: Request, response: Response) -> Readiness:
    """Say whether calls can be served: Postgres, migrated to this release. Redis may be away."""
    settings: Settings = request.app.state.settings
    transaction: Transaction = request.app.state.transaction
    postgres = readiness.postgres(transaction)
    parts = {"postgres": postgres.value, "redis": _redis(settings.redis_url)}
    if postgres is not Postgres.OK:
        response.status_code = 503
        return Readiness(status="unavailable", parts=parts)
    with transaction() as session:
        following = NEXT if not models.overviews(session) else None
        if archive.standing(session, Archive.of(settings.storage)) is not Standing.WHOLE:
            parts["postgres"], following = "restored", RESTORED
    status = "degraded" if parts["redis"] == "down" or parts["postgres"] == "restored" else "ready"
    return Readiness(status=status, parts=parts, next=following)


def metrics(request: Request) -> Response:
    """Say how much of what was answered how fast, how requests stand, and what is stuck; no ids."""
    settings: Settings = request.app.state.settings
    transaction: Transaction = request.app.state.transaction
    said = generate_latest(telemetry.registry)
    with suppress(DatabaseError), transaction() as session:
        said += operations.exposition(
            session, lease_seconds=settings.lease_seconds, now=request.app.state.clock()
        )
    return Response(said, media_type=CONTENT_TYPE_LATEST)


def _redis(url: str | None) -> str:
    """Return how the bell is: without one, the sweeper alone finds what is due."""
    if url is None:
        return "none"
    return "ok" if readiness.broker_answers(url) else "down"
