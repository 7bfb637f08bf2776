"""`lethe keys`: make the keyring, rotate keys, distrust one, see what there is."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from app.cli.client import Stopped, chosen, out
from app.clock import system_clock
from app.config import Settings
from app.signing import keys as signing
from app.signing import rotation
from app.signing.envelope import ALGORITHMS, ED25519, P256
from app.signing.keys import KeyUnusable, PublicKey
from app.storage.keyring import Keyring
from app.transparency import keys as log_keys

YEARLY = timedelta(days=365)

keys = typer.Typer(help="The keyring: make it, rotate keys, distrust one, list them.")

Uri = Annotated[
    str | None,
    typer.Option(metavar="URI", help="A key in a service (awskms:, gcpkms:, vault:, pkcs11:) signs then."),
]
Pem = Annotated[Path | None, typer.Option(metavar="PEM", help="The public half of that key.")]


@keys.callback(invoke_without_command=True)
def make_keys(context: typer.Context) -> None:
    """Make what is missing of the keyring (LETHE_KEYRING, or keys/ in LETHE_HOME); what exists stays.

    The keyed hashes in the database are worth nothing without these files: back them up apart from it.
    """
    if context.invoked_subcommand is not None:
        return
    settings, now = Settings(), system_clock()
    directory = settings.keys
    Keyring.open(directory, create=True)
    signing.generate(directory, at=now)
    log_keys.generate(directory, issuer=settings.issuer, at=now)
    log_keys.introduce(directory, issuer=settings.issuer, at=now)
    out.print(f"the keyring in {directory} is complete")


@keys.command("rotate")
def rotate_keys(
    *,
    only: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(ALGORITHMS)}, log; without it the issuer's two.")
    ] = None,
    ed25519: Uri = None,
    ed25519_public: Pem = None,
    p256: Uri = None,
    p256_public: Pem = None,
    grace_days: Annotated[
        int, typer.Option(min=0, help="How long the old key still counts, for what it signed last.")
    ] = rotation.GRACE.days,
) -> None:
    """Put new keys in the place of those that sign; the old ones stay in the trust file.

    The change is signed by the old keys, stated in the public log, and takes effect with the next
    signature. `--only log` rotates the log's key: both then sign each checkpoint until `lethe keys retire`.

    Example: lethe keys rotate --p256 awskms:alias/lethe --p256-public p256.pem
    """
    settings, now = Settings(), system_clock()
    try:
        if only == "log":
            key = log_keys.rotate(settings.keys)
            log_keys.introduce(settings.keys, issuer=settings.issuer, at=now)
            out.print(f"log {key}", markup=False)
            return
        chosen_ones = ALGORITHMS if only is None else (only,)
        if only is not None and only not in ALGORITHMS:
            raise Stopped(f"there is no key {only}; there are {', '.join(ALGORITHMS)}, log", code=2)
        services = {
            algorithm: (uri, _public(pem))
            for algorithm, uri, pem in ((ED25519, ed25519, ed25519_public), (P256, p256, p256_public))
            if uri is not None
        }
        added = rotation.rotate(
            settings.keys,
            issuer=settings.issuer,
            at=now,
            algorithms=[each for each in chosen_ones if each in services or not services],
            services=services,
            grace=timedelta(days=grace_days),
        )
    except (KeyUnusable, OSError) as reason:
        raise Stopped(str(reason)) from reason
    for each in added:
        out.print(f"{each.algorithm} {each.keyid}", markup=False)


@keys.command("retire")
def retire_log_key() -> None:
    """Let the log's new key sign alone: the private half of the one before is destroyed."""
    gone = log_keys.retire(Settings().keys)
    out.print("the key before is gone" if gone else "there was no key before")


@keys.command("distrust")
def distrust_key(
    keyid: Annotated[str, typer.Argument(help="The key that somebody else may have had.")],
    *,
    after: Annotated[str, typer.Option(help="Since when (ISO 8601, UTC).")],
) -> None:
    """Say that a key counts only for what a witness or a time stamp shows to be older.

    Everything else that it signed is refused by every checker with the new trust file. Rotate it first.

    Example: lethe keys distrust 3f2a... --after 2026-11-20T00:00:00
    """
    settings = Settings()
    try:
        since = datetime.fromisoformat(after)
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
        rotation.distrust(settings.keys, keyid, issuer=settings.issuer, after=since, at=system_clock())
    except (KeyUnusable, ValueError) as reason:
        raise Stopped(str(reason)) from reason
    out.print("stated; give everybody the new trust file: lethe certificate trust")


@keys.command("list")
def list_keys() -> None:
    """List the issuer's keys, old ones too, and say when one is a year old."""
    directory, now = Settings().keys, system_clock()
    try:
        listed = signing.public_keys(directory)
    except KeyUnusable as reason:
        raise Stopped(str(reason)) from reason
    if chosen.as_json:
        out.print_json(data={"keys": [key.to_json() for key in listed]})
        return
    for key in listed:
        old = key.not_after is None and key.not_before is not None and key.not_before + YEARLY < now
        said = key.to_json()
        span = f"{said['notBefore'] or 'ever'} to {said['notAfter'] or 'now'}"
        distrusted = f", not trusted after {said['notTrustedAfter']}" if key.not_trusted_after else ""
        out.print(
            f"{key.algorithm:10} {key.keyid} {span}{distrusted}{', due to be rotated' if old else ''}",
            markup=False,
        )


def _public(pem: Path | None) -> PublicKey:
    if pem is None:
        raise Stopped("a key in a service needs its public half: --ed25519-public or --p256-public", code=2)
    key = load_pem_public_key(pem.read_bytes())
    signing.algorithm_of(key)
    return PublicKey.of(key)  # type: ignore[arg-type]  # algorithm_of has refused every other kind
