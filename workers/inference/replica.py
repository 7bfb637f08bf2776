"""The lines this process serves, and the only places where a version comes, goes live and goes.

    load     refuse an old epoch; fetch, verify, read back, canaries; beside what is live
    swap     on disk first, then one pointer: requests from now on lease the new slot
    drain    wait for the old slot's requests, hand back what is late and unbegun, free it
    attest   say under signature what is held

Every call may be repeated for the same publish epoch. It knows no HTTP; what a slot is made of is
`slot.open_slot`, what is remembered across restarts `state.StateFile`.
"""

import shutil
import tempfile
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app import telemetry
from app.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from app.serving import attestation
from app.signing.envelope import Envelope
from app.signing.keys import FileSigner
from app.storage.objects import ObjectStore
from workers.inference.line import Line, describe, free, holding
from workers.inference.slot import ENGINE, Slot, open_slot, platform
from workers.inference.state import StateFile, Version

LATE_SECONDS = 30.0
"""How long a revoked request may take to notice; between two tokens it looks."""
EMPTY = "no model is served yet; add one with `lethe model add` or `lethe model train`"

_log = telemetry.logger("serving")


class Replica:
    """All versions in this process. `_pointer` guards who is live and who is held, `_admin` the rest."""

    def __init__(self, *, directory: Path, objects: ObjectStore, signer: FileSigner) -> None:
        self._objects = objects
        self._signer = signer
        self._state = StateFile.open(directory / "state.json")
        self._staging = directory / "staging"
        self._lines: dict[str, Line] = {}
        self._pointer = threading.Condition()
        self._admin = threading.RLock()
        self._restored = not any(line.live for line in self._state.lines.values())
        # A copy of weights that a crash left behind may be of a version that is erased by now.
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True, exist_ok=True, mode=0o700)

    # What requests see

    def lease(self, model: str | None) -> Slot:
        """Return the live slot of a line, held until `release`; the only one line if none is named."""
        with self._pointer:
            slot = self._live(model)
            slot.held += 1
            return slot

    def release(self, slot: Slot) -> None:
        """End a lease."""
        with self._pointer:
            slot.held -= 1
            self._pointer.notify_all()

    def versions(self) -> list[Version]:
        """Return what is live, by line."""
        with self._pointer:
            live = [line.live for line in self._lines.values()]
        return sorted((slot.version for slot in live if slot is not None), key=lambda version: version.model)

    def why_not_ready(self) -> str | None:
        """Return what has to happen before anything is answered; None if nothing has."""
        if not self._restored:
            return "the version served before the restart is being fetched and verified"
        if self.versions():
            return None
        with self._pointer:
            return next((line.problem for line in self._lines.values() if line.problem), EMPTY)

    # What the publisher orders

    def load(self, version: Version, *, erasure_floor: int) -> None:
        """Bring a version up beside what is live, checked and unrouted."""
        with self._admin:
            self._admit(version, erasure_floor)
            line = self._line(version.model)
            if any(slot is not None and slot.version == version for slot in (line.live, line.standby)):
                return
            if line.previous is not None:
                raise Conflict("the version before is still draining; call /admin/drain first")
            if line.standby is not None:
                free(line.standby)
                line.standby = None
            line.standby = self._open(version, recorded=None)
            _log.info("loaded", version=version.version, epoch=version.publish_epoch)

    def swap(self, model: str, *, publish_epoch: int) -> None:
        """Make the loaded version the one that requests lease from now on."""
        with self._admin:
            line, remembered = self._line(model), self._state.of(model)
            _refuse_lower(publish_epoch, remembered.publish_epoch)
            if line.live is not None and line.live.version.publish_epoch == publish_epoch:
                return
            slot = line.standby
            if slot is None or slot.version.publish_epoch != publish_epoch:
                raise Conflict(f"nothing is loaded under publish epoch {publish_epoch}", code="not-loaded")
            _refuse_stale(slot.version.erasure_epoch, remembered.erasure_epoch)
            self._state.change(model, live=slot.version, canary=slot.canary, platform=platform())
            with self._pointer:
                line.previous, line.live, line.standby = line.live, slot, None
            line.problem, line.loaded_on = None, _now()
            line.replaced = line.previous.version.manifest if line.previous else None
            line.freed = line.previous is None
            _log.info("swapped", version=slot.version.version, epoch=publish_epoch)

    def drain(self, model: str, *, deadline_seconds: float) -> None:
        """Wait until nobody computes on the version before, then free it and see that it is gone."""
        with self._admin:
            line = self._line(model)
            slot = line.previous
            if slot is None:
                return
            if not self._idle(slot, deadline_seconds):
                slot.revoked.set()
                if not self._idle(slot, LATE_SECONDS):
                    raise Unavailable(f"{slot.held} requests still compute on {slot.version.version}")
            line.previous = None
            line.freed = free(slot)
            _log.info("drained", version=slot.version.version, state="freed" if line.freed else "still held")

    def confirm(self, model: str, *, publish_epoch: int, erasure_epoch: int) -> None:
        """Learn that an erasure epoch was published: weights below it are refused from now on."""
        with self._admin:
            remembered = self._state.of(model)
            _refuse_lower(publish_epoch, remembered.publish_epoch)
            if erasure_epoch > remembered.erasure_epoch:
                self._state.change(model, erasure_epoch=erasure_epoch)

    def attest(self, model: str, *, nonce: str) -> Envelope:
        """Return what this process holds of a line, signed."""
        with self._admin:
            line = self._lines.get(model)
            if line is None or line.live is None:
                raise NotFound(f"this replica does not serve {model}")
            payload = attestation.statement(holding(line, line.live), replica=self.id, nonce=nonce)
            return attestation.sign(payload, self._signer)

    @property
    def id(self) -> str:
        """Return who this process is: the id of the key it made at its start."""
        return self._signer.keyid

    def describe(self) -> dict[str, Any]:
        """Return what an operator or a publisher wants to know; waits for no load and no drain."""
        with self._pointer:
            lines = {name: describe(line) for name, line in self._lines.items()}
        for name, remembered in self._state.lines.items():
            lines.setdefault(name, describe(Line())).update(
                publish_epoch=remembered.publish_epoch, erasure_epoch=remembered.erasure_epoch
            )
        return {
            "replica": self.id,
            "public_key": self._signer.public.pem,
            "engine": ENGINE,
            "ready": self.why_not_ready() is None,
            "lines": lines,
        }

    def restore(self) -> None:
        """Serve again what was live at the last stop, fetched and verified anew."""
        with self._admin:
            for model, remembered in self._state.lines.items():
                line, version = self._line(model), remembered.live
                if version is None or line.live is not None:
                    continue
                try:
                    _refuse_stale(version.erasure_epoch, remembered.erasure_epoch)
                    same = remembered.platform == platform()
                    slot = self._open(version, recorded=remembered.canary if same else None)
                except Exception as problem:  # noqa: BLE001  whatever it is, the process goes on and says so
                    said = str(problem) if isinstance(problem, Problem) else type(problem).__name__
                    line.problem = f"{version.version} cannot be served again: {said}"
                    _log.warning("not-restored", version=version.version, **telemetry.failure(problem))
                    continue
                line.loaded_on = _now()
                with self._pointer:
                    line.live = slot
                _log.info("restored", version=version.version, epoch=version.publish_epoch)
            self._restored = True

    # How

    def _live(self, model: str | None) -> Slot:
        live = {name: line.live for name, line in self._lines.items() if line.live is not None}
        if not live:
            raise Unavailable(self.why_not_ready() or EMPTY, code="not-ready")
        if model is None:
            if len(live) > 1:
                raise Invalid(f"name one of the models: {', '.join(sorted(live))}")
            return next(iter(live.values()))
        if model not in live:
            raise NotFound("there is no such model here; /v1/models lists them", code="model_not_found")
        return live[model]

    def _line(self, model: str) -> Line:
        with self._pointer:
            return self._lines.setdefault(model, Line())

    def _admit(self, version: Version, erasure_floor: int) -> None:
        remembered = self._state.of(version.model)
        _refuse_lower(version.publish_epoch, remembered.publish_epoch)
        floor = max(remembered.erasure_epoch, erasure_floor)
        _refuse_stale(version.erasure_epoch, floor)
        again = version.publish_epoch == remembered.publish_epoch
        if again and remembered.manifest not in (None, version.manifest):
            raise Conflict(
                f"publish epoch {version.publish_epoch} was used for another version",
                code="publish-epoch-used",
            )
        self._state.change(
            version.model,
            publish_epoch=version.publish_epoch,
            erasure_epoch=floor,
            manifest=version.manifest,
        )

    def _open(self, version: Version, *, recorded: Sequence[str] | None) -> Slot:
        """Fetch, verify and load; the files go at once, what serves is in memory."""
        directory = Path(tempfile.mkdtemp(dir=self._staging, prefix=f"{version.manifest[:16]}-"))
        try:
            slot = open_slot(version, self._objects.stage(version.manifest, directory))
        finally:
            shutil.rmtree(directory)
        if recorded is not None and tuple(recorded) != slot.canary:
            raise Invalid("the canary answers are not those recorded when the version was published")
        return slot

    def _idle(self, slot: Slot, seconds: float) -> bool:
        with self._pointer:
            return self._pointer.wait_for(lambda: slot.held == 0, seconds)


def _refuse_stale(epoch: int, floor: int) -> None:
    if epoch < floor:
        raise Conflict(
            f"erasure epoch {epoch} is below {floor}, which is published: these weights hold erased records",
            code="erasure-epoch-low",
        )


def _refuse_lower(epoch: int, highest: int) -> None:
    if epoch < highest:
        raise Conflict(
            f"publish epoch {epoch} is below {highest}, the highest seen", code="publish-epoch-low"
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
