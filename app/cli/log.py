"""`lethe log`: look at the public log, watch it, witness it, compare an old proof with it, recover it."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.certificates import check
from app.cli.client import EXIT_NOBODY, Stopped, chosen, err, out, show
from app.clock import system_clock
from app.config import Settings
from app.embedded import accounts
from app.storage.database import close, connect, transactions
from app.storage.files import replace
from app.transparency import keys, monitor, service, tiles
from app.transparency.checkpoint import Checkpoint
from app.transparency.monitor import Alarm, Get, StateRefused
from app.transparency.notes import WITNESS_KIND, Note, NoteRefused, VerifierKey
from app.transparency.policies import Policy, PolicyRefused
from app.transparency.tiles import ENTRIES, Tile
from app.transparency.witness_server import Server
from app.transparency.witnesses import Witness

log = typer.Typer(
    no_args_is_help=True,
    help="The public log: show, monitor, compare, witness, export, recover.",
    epilog=(
        "URL is the log's address, as https://issuer.example/log; without one, the log of the API that"
        " `lethe --url` or LETHE_URL names, or of the `lethe up` on this computer."
    ),
)

FETCH_SECONDS = 30.0
FETCH_BYTES_MAX = 32 * 1024 * 1024
"""A bundle has 256 entries of at most 65,535 bytes."""
WITNESS_KEY = "witness_ed25519.pem"
INDEPENDENT_WITNESSES = 2

Url = Annotated[str | None, typer.Argument(metavar="[URL]", help="The log's address.")]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy", help="Whose checkpoints count: a file from the issuer or an auditor, not from the log."
    ),
]


@log.command("show")
def show_log(
    url: Url = None,
    *,
    policy: PolicyFile = None,
    entries: Annotated[int, typer.Option(min=0, max=1000, help="How many of the last entries.")] = 10,
) -> None:
    """Show how large the log is, its root, who cosigned it, and its last entries.

    Example: lethe log show https://issuer.example/log
    """
    with _reading(url) as get:
        trusted = _policy(get, policy)
        data = get(monitor.CHECKPOINT)
        if data is None:
            out.print("nothing has been logged yet")
            return
        try:
            opened = trusted.signed(data)
        except NoteRefused as reason:
            raise Stopped(f"the checkpoint does not count: {reason}") from reason
        found = opened.checkpoint
        last = _last(get, found, entries)
    body = {
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "cosigned": {name: _when(seconds) for name, seconds in opened.cosigned.items()},
        "quorum": trusted.quorum,
        "quorum_reached": trusted.satisfied(opened.cosigned),
        "entries": last,
    }
    lines = {name: body[name] for name in ("origin", "size", "root", "quorum")}
    lines |= {f"witness {name}": when for name, when in body["cosigned"].items()}  # type: ignore[attr-defined]  # a dict
    show(body, lines)
    if chosen.as_json:
        return
    if len(opened.cosigned) < INDEPENDENT_WITNESSES:
        out.print("This is an operator-signed log: fewer than two witnesses vouch that all see the same.")
    for each in last:
        out.print(f"{each['index']:>8}  {each['entry']}", markup=False)


@log.command("monitor")
def monitor_log(
    url: Url = None,
    *,
    state: Annotated[Path, typer.Option(help="Where to remember what was seen.")] = Path(
        "lethe-log-monitor.json"
    ),
    policy: PolicyFile = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Read what is new, not every entry again: for large logs.")
    ] = False,
) -> None:
    """Look at the log once, compare it with the last look, and remember it. Run it every few minutes.

    Checks the signature and the quorum, hashes every entry and every tile, and that the log which was
    seen last is the beginning of the one seen now. Ends with 0 if all is well, with 1 and a sentence if
    the log was forked, rolled back or edited (the offending checkpoint is kept beside the state, as
    evidence), with 3 if nobody answers. Without --policy the key that the log itself shows is taken at
    the first look, and held to from then on.

    Example: lethe log monitor https://issuer.example/log --policy log_policy.txt
    """
    try:
        first = not state.exists() and policy is None
        text = policy.read_text() if policy else None
        with _reading(url) as get:
            seen = monitor.watch(get, state, policy=text, only_new=only_new)
    except Alarm as alarm:
        raise Stopped(f"ALARM ({alarm.code}): {alarm}") from alarm
    except (StateRefused, PolicyRefused, OSError) as error:
        raise Stopped(str(error)) from error
    body: dict[str, Any] = vars(seen) | {"cosigned": {n: _when(t) for n, t in seen.cosigned.items()}}
    since = "first look" if seen.before is None else f"{seen.before} entries at the last look"
    show(body, {"log": seen.origin, "entries": f"{seen.size} ({since})", **_counted(seen.new)})
    if not chosen.as_json and first:
        err.print("The key was taken from the log itself; compare it with what the issuer gave you.")


@log.command("compare")
def compare_proof(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tlog-proof, or a certificate's .zip.")],
    url: Url = None,
    *,
    policy: PolicyFile = None,
) -> None:
    """Compare a proof that you hold with the log of today: it must be a continuation.

    This is what a certificate's holder can do against a log that was rewritten: ends with 1 if it was.

    Example: lethe log compare lethe-....zip https://issuer.example/log
    """
    try:
        proof = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                proof = archive.read(check.PROOF)
        with _reading(url) as get:
            found = monitor.compare(get, proof, _policy(get, policy))
    except Alarm as alarm:
        raise Stopped(f"ALARM ({alarm.code}): {alarm}") from alarm
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise Stopped(f"unreadable: {error}", code=2) from error
    out.print(f"the log of {found.size} entries continues the one of the proof", markup=False)


@log.command("witness")
def run_witness(
    name: Annotated[str, typer.Argument(help="Your name as a witness: a URL without scheme.")],
    *,
    policy: Annotated[
        Path, typer.Option(help="Which logs to look at: a policy file with their `log` lines.")
    ],
    directory: Annotated[Path, typer.Option("--dir", help="For the key and what was seen.")] = Path(
        "lethe-witness"
    ),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any.")] = 8090,
) -> None:
    """Run a witness: cosign each checkpoint that only appends to the last one seen (C2SP tlog-witness).

    For another party than the log's operator. The key is made at the first start; the line printed is
    what the operator adds to log_policy.txt. Put TLS before it. Ctrl-C stops it; nothing is forgotten.

    Example: lethe log witness witness.example/w1 --policy log_policy.txt --port 8090
    """
    try:
        trusted = Policy.parse(policy.read_text())
        private = keys.made(directory / WITNESS_KEY)
        key = VerifierKey(name=name, kind=WITNESS_KIND, public=keys.public_of(private))
        VerifierKey.parse(str(key))
    except (OSError, ValueError) as error:
        raise Stopped(str(error), code=2) from error
    witness = Witness(
        key=key, signer=private, policy=trusted, directory=directory / "seen", clock=system_clock
    )
    with Server((host, port), witness) as server:
        address = f"http://{host}:{server.server_address[1]}"
        out.print(f"witness W1 {key} {address}", markup=False)
        err.print(f"looking at {', '.join(each.key.name for each in trusted.logs)}", markup=False)
        server.serve_forever()


@log.command("export")
def export_log(
    directory: Annotated[Path, typer.Argument(help="Where the files go; what is there and whole stays.")],
    url: Url = None,
) -> None:
    """Write the log as static files that any web server or CDN can serve, the checkpoint last.

    Example: lethe log export /srv/www/log
    """
    with _reading(url) as get:
        data = _bytes(get, monitor.CHECKPOINT)
        size, written = Checkpoint.parse(Note.parse(data).text).size, 0
        for level in (ENTRIES, *range(tiles.LEVEL_MAX + 1)):
            for place in tiles.of_size(size, level=level):
                path = directory / place.path
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    keys.write_once(path, _bytes(get, place.path), mode=0o644)
                    written += 1
        replace(directory / monitor.POLICY, _bytes(get, monitor.POLICY))
        replace(directory / monitor.CHECKPOINT, data)
    out.print(f"{size} entries, {written} new files in {directory}", markup=False)


@log.command("recover")
def recover_log(
    source: Annotated[str, typer.Argument(help="Where the log was published: a URL, or an exported folder.")],
) -> None:
    """Bring back entries that a restored database has lost, from what was published.

    Needs LETHE_DATABASE_URL and the keyring. Nothing is kept unless the tree then has the root that was
    signed last: the service refuses to sign until it has.

    Example: lethe log recover https://cdn.example/log
    """
    settings = Settings()
    if settings.database_url is None:
        raise Stopped("LETHE_DATABASE_URL is not set")
    engine = connect(settings.database_url, statement_seconds=30)
    by = service.sequencer(keys_directory=settings.keys, storage=settings.storage, clock=system_clock)
    try:
        with _reading(source) as get:
            count = service.recover(transactions(engine), by, lambda place: _bytes(get, place.path))
    finally:
        close(engine)
    out.print(f"{count} entries are back")


# How a log is read ------------------------------------------------------------------------------


@contextmanager
def _reading(url: str | None) -> Iterator[Get]:
    """Yield what fetches a path below the log's address; an exported folder is one too."""
    base = (url or f"{_api()}/log").rstrip("/")
    folder = Path(base)
    if folder.is_dir():
        yield lambda path: (folder / path).read_bytes() if (folder / path).is_file() else None
        return
    with httpx.Client(timeout=FETCH_SECONDS, follow_redirects=True) as client:
        yield lambda path: _fetched(client, f"{base}/{path}")


def _fetched(client: httpx.Client, url: str) -> bytes | None:
    try:
        with client.stream("GET", url) as answer:
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            if not answer.is_success:
                raise Stopped(f"{url} answered {answer.status_code}", code=EXIT_NOBODY)
            data = b""
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) > FETCH_BYTES_MAX:
                    raise Stopped(f"{url} is too large", code=EXIT_NOBODY)
            return data
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Stopped(f"nothing answers at {url} ({type(error).__name__})", code=EXIT_NOBODY) from error


def _api() -> str:
    """Return where the API is; nobody needs an account to read its log."""
    settings = Settings()
    left = accounts.credentials(settings.home).get("url")
    return chosen.url or os.environ.get("LETHE_URL") or left or settings.public_url


def _policy(get: Get, file: Path | None) -> Policy:
    """Return the policy in a file, or else the one that the log itself shows."""
    try:
        return Policy.parse(file.read_text() if file else _bytes(get, monitor.POLICY).decode())
    except (OSError, ValueError) as error:
        raise Stopped(f"no policy: {error}", code=2) from error


def _bytes(get: Get, path: str) -> bytes:
    data = get(path)
    if data is None:
        raise Stopped(f"the log shows no {path}")
    return data


def _last(get: Get, found: Checkpoint, count: int) -> list[dict[str, Any]]:
    """Return the last entries, unverified: `monitor` is what verifies."""
    first = max(0, found.size - count)
    last: list[dict[str, Any]] = []
    for place in tiles.of_size(found.size, level=ENTRIES, since=first):
        for index, entry in enumerate(_entries(get, place), place.first):
            if index >= first:
                last.append({"index": index, "entry": entry.decode(errors="replace")})
    return last


def _entries(get: Get, place: Tile) -> list[bytes]:
    return tiles.entries_of(_bytes(get, place.path), width=place.width)


def _counted(new: Any) -> dict[str, str]:
    return {f"new {kind}": str(count) for kind, count in sorted(new.items())}


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
