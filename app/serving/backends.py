"""Seams to the model servers: one object per replica; every call may be repeated for its publish epoch.

A backend speaks to one engine of serving and knows no database. What cannot be reached is
`Unavailable`, what the replica refuses is `Conflict` with the replica's own word for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import httpx

from app.config import Settings
from app.errors import Conflict, Unavailable
from app.http import ids
from app.signing.envelope import Envelope
from app.storage.keyring import Keyring

CONNECT_SECONDS = 5.0
CALL_SECONDS = 30.0
LOAD_SECONDS = 1800.0
"""Fetching, hashing and loading a large model from a remote store."""
LATE_SECONDS = 60.0
"""What a drain may take beyond its deadline: handing requests back, freeing memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The order to serve one version: what, in which form, and under which epochs."""

    model_id: UUID
    model: str
    version_id: UUID
    manifest: str
    tensor_root: str
    form: str
    publish_epoch: int
    """Used for this publication alone; a replica refuses a lower one than it has seen."""
    erasure_epoch: int
    """Erasures that these weights have behind them."""
    erasure_floor: int
    """Erasures that are published already: weights with fewer are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a replica serves of one line, asked of it and never cached."""

    manifest: str
    form: str
    publish_epoch: int
    erasure_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """Who a replica is, and what it serves, by the line's name."""

    replica: str
    public_key: str
    """PEM; the process made the key at its start."""
    served: Mapping[str, Served]
    floors: Mapping[str, int]
    """The erasure epoch below which it refuses, by the line's name."""


class ServingBackend(Protocol):
    """One replica, whatever engine serves there."""

    @property
    def address(self) -> str:
        """Where it is: its name in `serving_replicas`."""

    def load(self, publication: Publication) -> None:
        """Bring the version up, checked and not yet routed to."""

    def swap(self, publication: Publication) -> None:
        """Route new requests to what was loaded."""

    def drain(self, publication: Publication, *, deadline_seconds: float) -> None:
        """Let the version before finish what it holds, and free it."""

    def attest(self, publication: Publication, *, nonce: str) -> Envelope:
        """Return the replica's signed `serving-attestation/v1`."""

    def confirm(self, publication: Publication) -> None:
        """Tell that the version was promoted; weights with fewer erasures are refused from now on."""

    def current(self) -> Current:
        """Return what is served now."""


@dataclass(frozen=True, kw_only=True)
class NativeBackend:
    """Our own model server (`workers.inference`), through its admin socket."""

    url: str
    token: str

    def __repr__(self) -> str:
        """Show where, never the token."""
        return f"NativeBackend({self.url})"

    @property
    def address(self) -> str:
        """Return the admin socket's URL."""
        return self.url

    def load(self, publication: Publication) -> None:
        """Have it fetch the version by digest, verify it and load it beside what is live."""
        order = {
            "model": publication.model,
            "version": ids.encode("mv", publication.version_id),
            "manifest": publication.manifest,
            "tensor_root": publication.tensor_root,
            "form": publication.form,
            "publish_epoch": publication.publish_epoch,
            "erasure_epoch": publication.erasure_epoch,
            "erasure_floor": publication.erasure_floor,
        }
        self._call("POST", "/admin/load", order, seconds=LOAD_SECONDS)

    def swap(self, publication: Publication) -> None:
        """Turn its one pointer."""
        self._call(
            "POST", "/admin/swap", {"model": publication.model, "publish_epoch": publication.publish_epoch}
        )

    def drain(self, publication: Publication, *, deadline_seconds: float) -> None:
        """Wait for the old version's requests; past the deadline they are handed back."""
        order = {"model": publication.model, "deadline_seconds": deadline_seconds}
        self._call("POST", "/admin/drain", order, seconds=deadline_seconds + LATE_SECONDS)

    def attest(self, publication: Publication, *, nonce: str) -> Envelope:
        """Ask for its word under signature."""
        return self._call("POST", "/admin/attest", {"model": publication.model, "nonce": nonce})

    def confirm(self, publication: Publication) -> None:
        """Raise its floor."""
        order = {
            "model": publication.model,
            "publish_epoch": publication.publish_epoch,
            "erasure_epoch": publication.erasure_epoch,
        }
        self._call("POST", "/admin/confirm", order)

    def current(self) -> Current:
        """Read its state."""
        state = self._call("GET", "/admin/state")
        live = {name: line["live"] for name, line in state["lines"].items() if line["live"] is not None}
        return Current(
            replica=state["replica"],
            public_key=state["public_key"],
            served={
                name: Served(
                    manifest=slot["manifest"],
                    form=slot["form"],
                    publish_epoch=slot["publish_epoch"],
                    erasure_epoch=slot["erasure_epoch"],
                )
                for name, slot in live.items()
            },
            floors={name: line["erasure_epoch"] for name, line in state["lines"].items()},
        )

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = CALL_SECONDS
    ) -> dict[str, Any]:
        try:
            answer = httpx.request(
                method,
                f"{self.url.rstrip('/')}{path}",
                json=body,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                trust_env=False,
            )
        except httpx.TransportError as reason:
            raise Unavailable(
                f"the model server at {self.url} does not answer: {type(reason).__name__}",
                code="model-server-unreachable",
            ) from reason
        if answer.is_success:
            found = answer.json()
            assert isinstance(found, dict), "the admin API speaks in objects"
            return found
        raise _refusal(self.url, answer)


def backends(settings: Settings, keyring: Keyring) -> tuple[ServingBackend, ...]:
    """Return the replicas that the settings name."""
    url = settings.model_admin_url or f"http://127.0.0.1:{settings.model_admin_port}"
    return (NativeBackend(url=url, token=keyring.admin_token),)


def _refusal(url: str, answer: httpx.Response) -> Conflict | Unavailable:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    said = problem.get("detail") or problem.get("title") or f"status {answer.status_code}"
    message = f"the model server at {url}: {said}"
    if answer.is_server_error:
        return Unavailable(message, code=problem.get("code", "model-server-failed"))
    return Conflict(message, code=problem.get("code", "model-server-refused"))
