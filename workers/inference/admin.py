"""The admin door: loopback, a bearer token, and the orders of the publisher.

    POST /admin/load -> /admin/swap -> /admin/drain -> /admin/attest -> (promotion) -> /admin/confirm
    GET  /admin/state, /metrics

Every order names the publish epoch it belongs to and may be repeated.
"""

import hmac
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from app import telemetry
from app.errors import Problem
from app.http import problems
from app.http.middleware import Access, BodyLimit
from app.signing.envelope import Envelope
from workers.inference.replica import Replica
from workers.inference.state import Version

BODY_BYTES_MAX = 64 * 1024
DRAIN_SECONDS_MAX = 3600

Epoch = Annotated[int, Field(ge=0, lt=2**53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Name


class Load(_Order):
    """Bring a version up beside what is live."""

    version: Annotated[str, Field(pattern=r"^mv_[0-9a-z]{26}$")]
    manifest: Digest
    tensor_root: Digest
    form: Annotated[str, Field(max_length=64)] = "float32/none"
    publish_epoch: Epoch
    erasure_epoch: Epoch
    erasure_floor: Epoch = 0
    """The line's highest published erasure epoch, as the publisher knows it."""


class Swap(_Order):
    """Route to what was loaded under this publish epoch."""

    publish_epoch: Epoch


class Drain(_Order):
    """Finish what the version before holds, and free it."""

    deadline_seconds: Annotated[float, Field(ge=0, le=DRAIN_SECONDS_MAX)]


class Attest(_Order):
    """Say under signature what is held."""

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32,128}$")]


class Confirm(_Order):
    """The version was promoted: weights from before its erasures are refused from now on."""

    publish_epoch: Epoch
    erasure_epoch: Epoch


def create_app(replica: Replica, *, token: str) -> FastAPI:
    """Return the admin application; every route of it wants the token."""

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Problem("the admin token is missing or wrong", code="unauthenticated")

    app = FastAPI(title="Lethe model server, admin", docs_url=None, redoc_url=None)
    app.router.dependencies.append(Depends(authorised))
    app.add_middleware(BodyLimit, bytes_max=BODY_BYTES_MAX)
    app.add_middleware(Access)
    problems.install(app)

    @app.post("/admin/load")
    def load(body: Load) -> dict[str, Any]:
        """Fetch, verify, load, read back, ask the canaries; route nothing yet."""
        order = body.model_dump(exclude={"erasure_floor"})
        replica.load(Version(**order), erasure_floor=body.erasure_floor)
        return replica.describe()

    @app.post("/admin/swap")
    def swap(body: Swap) -> dict[str, Any]:
        """Make the loaded version the live one of this server."""
        replica.swap(body.model, publish_epoch=body.publish_epoch)
        return replica.describe()

    @app.post("/admin/drain")
    def drain(body: Drain) -> dict[str, Any]:
        """Wait for the old version's requests, then free it."""
        replica.drain(body.model, deadline_seconds=body.deadline_seconds)
        return replica.describe()

    @app.post("/admin/attest")
    def attest(body: Attest) -> Envelope:
        """Return a `serving-attestation/v1`."""
        return replica.attest(body.model, nonce=body.nonce)

    @app.post("/admin/confirm")
    def confirm(body: Confirm) -> dict[str, Any]:
        """Raise the floor of erasure epochs."""
        replica.confirm(body.model, publish_epoch=body.publish_epoch, erasure_epoch=body.erasure_epoch)
        return replica.describe()

    @app.get("/metrics")
    def metrics() -> Response:
        """Return counts and times of calls, as Prometheus reads them."""
        return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/admin/state")
    def state() -> dict[str, Any]:
        """Return what is held, by line and slot, and the key that attestations are signed with."""
        return replica.describe()

    return app
