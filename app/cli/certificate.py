"""`lethe certificate`: fetch what was signed, and check it without asking anybody."""

import base64
import json
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from app.certificates import check as checker
from app.certificates import picture
from app.cli import drawing
from app.cli.client import EXIT_NOBODY, Api, Stopped, chosen, err, out
from app.signing import envelope, rotation
from app.signing.keys import PublicKey

certificate = typer.Typer(no_args_is_help=True, help="Certificates: get, check, show, status, revoke, trust.")

Id = Annotated[str, typer.Argument(metavar="ID", help="A certificate, or a request (er_...) that has one.")]
EXIT_UNREADABLE = checker.UNREADABLE
FETCH_SECONDS = 30.0
TOOL_NAMES = {envelope.ED25519: "ed25519", envelope.P256: "p256"}
FORBIDDEN = 403


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
    status: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="A newer list of revocations than the bundle's.")
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
        stated = None if status is None else _stated(status)
        moment = None if at is None else datetime.fromisoformat(at)
    except (OSError, ValueError) as error:
        raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    report = checker.check(data, trusted, model=model, status=stated, at=moment)
    if as_json or chosen.as_json:
        out.print_json(json.dumps(vars(report)))
    else:
        out.print(report.to_text(), markup=False)
    raise typer.Exit(report.exit_code)


@certificate.command("show")
def show_certificate(
    what: Annotated[str, typer.Argument(metavar="BUNDLE|ID", help="A .zip, a certificate or a request.")],
    *,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing else.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture; needs the extra `pictures`.")] = None,
) -> None:
    """Show what a certificate says, as a picture; `check` is what proves it.

    Of an ID also where the person stands among people the model never saw, before and after, if the
    account may read evidence (audit:read). A bundle alone holds bounds and no ranks.

    Example: lethe certificate show er_01k... --html certificate.html
    """
    found = list(_shown(what))
    if len(found) > 1 and (html or png):
        raise Stopped(f"{what} has {len(found)} certificates; name one")
    if chosen.as_json:
        out.print_json(
            json.dumps([{"statement": statement, "report": report} for statement, _, report in found])
        )
    for statement, claim, report in found:
        facts = picture.facts(statement, claim, report)
        if not chosen.as_json:
            drawing.tell(facts, out)
        if html is not None:
            html.write_text(picture.html(facts), encoding="utf-8")
        if png is not None:
            png.write_bytes(drawing.png(picture.pictured(facts)))
    for path in (html, png):
        if path is not None:
            err.print(str(path), markup=False)


def _shown(what: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]]:
    """Yield (statement, what it claims, the report if it may be seen) of what was named."""
    if what.endswith(".zip") or Path(what).is_file():
        try:
            yield *_read(Path(what).read_bytes()), None
        except OSError as error:
            raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error
        return
    api = Api("officer")
    for each in _of(api, what):
        statement, claim = _read(api.send("GET", f"/v1/certificates/{each}/bundle").content)
        try:
            report = api.get(f"/v1/certificates/{each}/evidence")
        except Stopped as stopped:
            if stopped.status != FORBIDDEN:
                raise
            report = None
        yield statement, claim, report


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the statement in a bundle and what it claims, if it is one at all."""
    report = checker.check(data)
    if report.failed is not None:
        why = next(step["detail"] for step in report.steps if step["state"] == "failed")
        raise Stopped(f"this bundle does not hold together: {why}", code=report.exit_code)
    members = checker.read_bundle(data)[2]
    statement: dict[str, Any] = json.loads(
        base64.b64decode(json.loads(members[checker.CERTIFICATE])["payload"])
    )
    return statement, report.claim


@certificate.command("pae")
def write_pae(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .zip, or a .dsse.json.")],
) -> None:
    """Write to standard output what the two keys have signed, for openssl.

    Example: lethe certificate pae lethe-....zip > pae.bin
    """
    try:
        data = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                data = archive.read(checker.CERTIFICATE)
        signed = envelope.decode(data)
        sys.stdout.buffer.write(envelope.pae(signed["payloadType"], envelope.payload_of(signed)))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error


@certificate.command("unpack")
def unpack_bundle(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .zip that was handed over.")],
    *,
    trust: Annotated[Path, typer.Option(help="trust.json, from the issuer and not from the bundle.")],
    directory: Annotated[Path, typer.Option("--out", help="The directory to write to.")] = Path(),
) -> None:
    """Write a bundle's members, what was signed, both signatures and the keys as files, for other tools.

    Example: lethe certificate unpack lethe-....zip --trust trust.json --out unpacked
    """
    try:
        trusted = checker.loads(trust.read_bytes())
        members = checker.read_bundle(bundle.read_bytes())[2]
        signed = envelope.decode(members[checker.CERTIFICATE])
        files = members | {"pae.bin": envelope.pae(signed["payloadType"], envelope.payload_of(signed))}
        signatures = envelope.signatures_of(signed)
        for key in (PublicKey.from_json(each) for each in trusted["keys"]):
            if key.keyid in signatures:
                name = TOOL_NAMES[key.algorithm]
                files |= {f"{name}.sig": signatures[key.keyid], f"{name}.pem": key.pem.encode()}
        if trusted.get("tsa"):
            files["tsa.pem"] = trusted["tsa"].encode()
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)
            out.print(str(directory / name), markup=False)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error


@certificate.command("status")
def get_status(
    path: Annotated[Path | None, typer.Option("--out", help="Write the signed list there.")] = None,
) -> None:
    """Fetch the issuer's list of certificates that do not stand, and show it.

    `lethe certificate check --status FILE` takes what is written.

    Example: lethe certificate status --out status.dsse.json
    """
    data = Api("officer").send("GET", "/.well-known/lethe-status.json").content
    said = json.loads(envelope.payload_of(envelope.decode(data)))["predicate"]
    if path is not None:
        path.write_bytes(data)
    if chosen.as_json:
        out.print_json(json.dumps(said))
        return
    out.print(f"of {said['producedOn']}, the next is due by {said['nextUpdate']}", markup=False)
    for each in said["revoked"]:
        out.print(f"{each['certificateId']}  {each['reason']}  since {each['since']}", markup=False)


@certificate.command("revoke")
def revoke_certificate(
    id: Id,  # noqa: A002  the word on the command line
    *,
    reason: Annotated[
        str, typer.Option(help="issued-in-error, evidence-invalid, resurfaced or key-compromise.")
    ],
) -> None:
    """Say that a certificate does not stand; the public list says so within a minute.

    Example: lethe certificate revoke 8d1c6c0e-... --reason issued-in-error
    """
    api = Api("reviewer")
    for each in _of(api, id):
        api.send("POST", f"/v1/certificates/{each}/revocation", body={"reason": reason})
        out.print(f"{each} is revoked", markup=False)


@certificate.command("trust")
def get_trust(
    path: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("trust.json"),
    *,
    since: Annotated[
        Path | None,
        typer.Option(help="A trust file that you have: take only keys that its keys have vouched for."),
    ] = None,
) -> None:
    """Fetch the issuer's trust file; whoever checks should have it on another way than the bundle.

    With --since it needs no other way: each new key must be stated by a pair of keys that you trust.
    """
    api = Api("officer")
    data = api.send("GET", "/.well-known/lethe-trust.json").content
    if since is not None:
        try:
            old = [PublicKey.from_json(each) for each in json.loads(since.read_bytes())["keys"]]
            stated = json.loads(api.send("GET", "/.well-known/lethe-keys.json").content)["statements"]
            vouched = {key.keyid for key in rotation.followed(old, stated)}
        except (OSError, KeyError, ValueError) as error:
            raise Stopped(f"unreadable: {error}", code=EXIT_UNREADABLE) from error
        if strange := {each["keyid"] for each in json.loads(data)["keys"]} - vouched:
            raise Stopped(f"no keys of {since} have vouched for {', '.join(sorted(strange))}")
    path.write_bytes(data)
    out.print(str(path), markup=False)


def _stated(where: str) -> bytes:
    if not where.startswith(("http://", "https://")):
        return Path(where).read_bytes()
    try:
        return httpx.get(where, timeout=FETCH_SECONDS, follow_redirects=True).raise_for_status().content
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Stopped(f"nothing answers at {where} ({type(error).__name__})", code=EXIT_NOBODY) from error


def _of(api: Api, id_: str) -> list[str]:
    """Return the certificates meant: the one named, or every one of a request."""
    if not id_.startswith("er_"):
        return [quote(id_.removeprefix("urn:uuid:"), safe="")]
    request = api.get(f"/v1/erasure-requests/{quote(id_, safe='')}")
    found = [str(target["certificate"]) for target in request["targets"] if target["certificate"]]
    if not found:
        raise Stopped(f"{id_} is {request['state']} and has no certificate yet")
    return found
