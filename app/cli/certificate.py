"""`lethe certificate`: fetch what was signed, and check it without asking anybody."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.certificates import check as checker
from app.cli.client import Api, Stopped, chosen, out, show

certificate = typer.Typer(no_args_is_help=True, help="Certificates: get, check, show, trust.")

Id = Annotated[str, typer.Argument(metavar="ID", help="A certificate, or a request (er_...) that has one.")]
EXIT_UNREADABLE = checker.UNREADABLE


@certificate.command("get")
def get_certificate(
    id: Id,  # noqa: A002  the word on the command line
    *,
    directory: Annotated[Path, typer.Option("--out", help="The directory to write to.")] = Path(),
    opening: Annotated[
        bool, typer.Option("--opening", help="With what opens the commitments: for the requester, once only.")
    ] = False,
) -> None:
    """Fetch the bundle of a certificate, or all that a request has.

    Example: lethe certificate get er_01k... --out .
    """
    api = Api("officer")
    directory.mkdir(parents=True, exist_ok=True)
    for each in _of(api, id):
        if opening:
            content = api.send("POST", f"/v1/certificates/{each}/opening").content
        else:
            content = api.send("GET", f"/v1/certificates/{each}/bundle").content
        path = directory / f"lethe-{each}.zip"
        path.write_bytes(content)
        out.print(str(path), markup=False)


@certificate.command("check")
def check_certificate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .zip that was handed over.")],
    *,
    trust: Annotated[
        Path | None, typer.Option(help="trust.json, from the issuer and not from the bundle.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The model's files, to compare with.")] = None,
    at: Annotated[str | None, typer.Option(help="As of then (ISO 8601, UTC), instead of now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a certificate offline; the same checker is the single file app/certificates/check.py.

    Ends with 0 only if everything that the trust file asks for holds.

    Example: lethe certificate check lethe-....zip --trust trust.json
    """
    try:
        trusted = None if trust is None else checker.loads(trust.read_bytes())
        with bundle.open("rb") as file:
            data = file.read(checker.BUNDLE_BYTES_MAX + 1)
        moment = None if at is None else datetime.fromisoformat(at)
    except (OSError, ValueError) as error:
        raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    report = checker.check(data, trusted, model=model, at=moment)
    if as_json or chosen.as_json:
        out.print_json(json.dumps(vars(report)))
    else:
        out.print(report.to_text(), markup=False)
    raise typer.Exit(report.exit_code)


@certificate.command("show")
def show_certificate(id: Id) -> None:  # noqa: A002  the word on the command line
    """Show what a certificate says, in a few lines; `check` is what proves it."""
    api = Api("officer")
    for each in _of(api, id):
        body = api.get(f"/v1/certificates/{each}")
        plain = {name: value for name, value in body.items() if not isinstance(value, dict | list)}
        decision: dict[str, Any] = body.get("decision") or {}
        plain |= {
            name: decision[name] for name in ("verdict", "p0", "p1", "residual_upper") if name in decision
        }
        show(body, plain)


@certificate.command("trust")
def get_trust(
    path: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("trust.json"),
) -> None:
    """Fetch the issuer's trust file; whoever checks should have it on another way than the bundle."""
    path.write_bytes(Api("officer").send("GET", "/.well-known/lethe-trust.json").content)
    out.print(str(path), markup=False)


def _of(api: Api, id_: str) -> list[str]:
    """Return the certificates meant: the one named, or every one of a request."""
    if not id_.startswith("er_"):
        return [quote(id_.removeprefix("urn:uuid:"), safe="")]
    request = api.get(f"/v1/erasure-requests/{quote(id_, safe='')}")
    found = [str(target["certificate"]) for target in request["targets"] if target["certificate"]]
    if not found:
        raise Stopped(f"{id_} is {request['state']} and has no certificate yet")
    return found
