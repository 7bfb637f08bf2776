"""`lethe chain`: the audit chain: what happened, whether it still holds, and what was signed of it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from cryptography.exceptions import InvalidSignature

from app.audit.archive import Archive, ArchiveBroken
from app.certificates import check as checker
from app.certificates import heads
from app.cli.client import EXIT_REFUSED, Api, Stopped, chosen, out, show, table
from app.signing import envelope

chain = typer.Typer(
    no_args_is_help=True, help="The audit chain: what happened, verify it, check a copy of it."
)

LIMIT = 20


@chain.command("events")
def list_events(
    *,
    after: Annotated[int, typer.Option(min=0, help="The last sequence number that you have.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = LIMIT,
) -> None:
    """List what happened, oldest first: ids, codes and counts.

    Example: lethe --json chain events --after 1200
    """
    found = Api("officer").get("/v1/audit-events", after=after, limit=limit)
    if chosen.as_json:
        out.print_json(json.dumps(found))
        return
    for each in found:
        each["about"] = " ".join(
            f"{name}={value}" for name, value in each["body"].items() if name not in {"at", "kind"}
        )
    table(found, {"seq": "seq", "kind": "what", "about": "about"})


@chain.command("verify")
def verify_chain() -> None:
    """Recompute every hash in the service, and compare what was signed of it; ends with 1 if it breaks."""
    found = Api("officer").post("/v1/audit/verify")
    show(
        found,
        {
            "events": found["events"],
            "head": found["head"],
            "signed heads": f"{found['stated']} agree",
            "holds": "yes" if found["valid"] else f"no, it breaks at {found['broken_at']}",
        },
    )
    if not found["valid"]:
        raise typer.Exit(EXIT_REFUSED)


@chain.command("heads")
def list_heads(
    *,
    after: Annotated[int, typer.Option(min=0, help="The last sequence number that you have.")] = 0,
    save: Annotated[Path | None, typer.Option("--out", help="A file for the newest one, signed.")] = None,
) -> None:
    """List the signed statements of where the chain was; keep one, and nobody can change what came before.

    Example: lethe chain heads --out head.dsse.json
    """
    found = Api("officer").get("/v1/audit/heads", after=after, limit=200)
    if save is not None:
        if not found:
            raise Stopped("nothing has been stated yet")
        save.write_bytes(envelope.encode(found[-1]["statement"]))
    table(found, {"seq": "events", "produced_at": "stated", "hash": "hash"})


@chain.command("check")
def check_copy(
    folder: Annotated[Path, typer.Argument(help="The copy: `audit` in the object store, or one of it.")],
    *,
    head: Annotated[Path | None, typer.Option(help="A signed head: from `lethe chain heads --out`.")] = None,
    trust: Annotated[Path | None, typer.Option(help="The issuer's keys, to check the head with.")] = None,
) -> None:
    """Check a copy of the chain without the service: each event against the one before, and a signed head.

    Example: lethe chain check store/audit --head head.dsse.json --trust trust.json
    """
    copy = Archive(folder)
    stated = None if head is None else _stated(head, trust)
    count, agrees = 0, stated is None
    try:
        for each in copy.after(0):
            count += 1
            if stated is not None and each.seq == stated[0]:
                agrees = each.hash.hex() == stated[1]
    except ArchiveBroken as broken:
        raise Stopped(str(broken)) from broken
    if stated is not None and not agrees:
        raise Stopped(f"the signed head says another hash of event {stated[0]} than the copy")
    out.print(f"{count} events follow from each other" + (", as signed" if stated else ""))


def _stated(path: Path, trust: Path | None) -> tuple[int, str]:
    """Return the event and the hash that a signed statement names, once its signatures hold."""
    if trust is None:
        raise Stopped("a signed head is checked with the issuer's keys: --trust trust.json", code=2)
    try:
        keys = checker.read_trust(checker.loads(trust.read_bytes()))[2]
        said, subject, _, _ = checker.open_statement(path.read_bytes(), keys, heads.KIND, heads.SHAPE)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Stopped(f"the signed head does not count: {error}") from error
    except InvalidSignature as error:
        raise Stopped("the signed head does not count: a signature does not hold") from error
    return int(said["events"]), str(subject["digest"]["sha256"])
