"""`lethe up`, `demo`, `migrate`, `restore-check`, `account`: what runs on this computer."""

import json
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from app.audit.archive import Archive, Standing
from app.auth.scopes import ROLES
from app.cli.client import Stopped, chosen, err, out
from app.clock import system_clock
from app.config import Settings
from app.embedded import accounts, addresses
from app.embedded.stack import Stack, StartFailed, pids
from app.erasure import restoring
from app.errors import Problem
from app.http import ids
from app.storage import migrations
from app.storage.database import close, connect, transactions

NEXT = """No model is registered yet. Next, in another terminal:

  lethe dataset add people.jsonl --name people
  lethe model train mine --dataset people --base ./my-model --recipe recipe.json"""


def up(
    home: Annotated[Path | None, typer.Option(help="Where data is kept.", envvar="LETHE_HOME")] = None,
    host: Annotated[str | None, typer.Option(help="The address the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the API.")] = None,
) -> None:
    """Run the whole service in the foreground: Postgres, Redis, API, workers, model server.

    Ctrl-C stops all of it; the data stays. LETHE_DATABASE_URL, LETHE_REDIS_URL and
    LETHE_MODEL_SERVER_URL each replace a part by a server of your own.

    Example: LETHE_HOME=~/lethe lethe up
    """
    given = {"home": home, "host": host, "port": port}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # each is checked by the model
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        # Once is asked politely; the second time ends us, and the kernel ends our children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        told.set()

    signal.signal(signal.SIGINT, tell)
    signal.signal(signal.SIGTERM, tell)
    try:
        running = Stack(settings, say=lambda line: err.print(f"  {line}", style="dim"))
        err.print(f"[bold]Lethe[/] starts in {settings.home}")
        running.start(told)
        _welcome(running)
        while not told.is_set() and not running.wait(0.2):
            pass
        if told.is_set():
            err.print("stopping ...", style="dim")
        running.stop()
    except StartFailed as failed:
        if told.is_set():
            raise typer.Exit(0) from failed
        raise Stopped(str(failed)) from failed


def _welcome(running: Stack) -> None:
    settings = running.settings
    out.print(f"\n[bold]API[/]           {settings.public_url}        [dim]/openapi.json has every call[/]")
    out.print(f"[bold]model server[/]  {settings.model_server_url}        [dim]/v1/completions[/]")
    out.print(f"[bold]accounts[/]      {accounts.credentials_file(settings.home)}")
    out.print(f"[bold]logs[/]          {settings.home / 'logs'}\n")
    if running.needs_model():
        out.print(NEXT + "\n")
    out.print("Ctrl-C stops it; the data stays.", style="dim")


def demo(
    directory: Annotated[
        Path, typer.Option("--out", help="Where bundles and summary.json go; replaced if a demo left it.")
    ] = Path("demo-out"),
) -> None:
    """Show the whole of it on fictitious people: recite, request, unlearn, verify, certify, check.

    Starts a stack of its own beside any other, and stops it at the end. Minutes, no GPU needed.

    Example: lethe demo --out demo-out
    """
    from app.demo import walk  # noqa: PLC0415  loads a tokenizer library that no other command needs
    from app.demo.caller import Failed  # noqa: PLC0415  likewise

    try:
        walk.run(directory, console=out)
    except (Failed, StartFailed) as failed:
        raise Stopped(str(failed)) from failed


def migrate() -> None:
    """Bring the database at LETHE_DATABASE_URL to this release's revision.

    With LETHE_DATABASE_OWNER_URL as the role that it names, which then owns the tables; the service's own
    role may use them and change none. Several may run at once; one does the work. `lethe up` does this by
    itself.
    """
    settings = Settings()
    if settings.database_url is None:
        raise Stopped("LETHE_DATABASE_URL is not set")
    migrations.migrate(settings.database_owner_url or settings.database_url, app_url=settings.database_url)
    out.print(f"the database is at revision {migrations.head()}")


def restore_check(
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Put back what is missing of the audit chain, and let it count.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--out", help="A file for the whole list, as JSON: ids and dates.")
    ] = None,
) -> None:
    """After a backup was restored: say what the database has forgotten, and put right what can be.

    Until --apply has run, the restored database takes no write. Needs LETHE_DATABASE_URL, unless `lethe up`
    runs on this computer, and the object store (LETHE_STORAGE_URL), which holds a copy of the audit chain.
    Ends with 1 while something is missing.

    Example: lethe restore-check --apply --out restored.json
    """
    settings = Settings()
    if settings.database_url is None and pids(settings.home):
        settings = addresses.complete(settings)
    if settings.database_url is None:
        raise Stopped("LETHE_DATABASE_URL is not set, and no `lethe up` runs here")
    engine, copy = connect(settings.database_url, statement_seconds=60), Archive.of(settings.storage)
    try:
        with transactions(engine)() as session:
            if apply:
                found = restoring.apply(session, copy, at=system_clock())
            else:
                found = restoring.examine(session, copy)
    except Problem as problem:
        raise Stopped(str(problem)) from problem
    finally:
        close(engine)
    body = _restored(found)
    if report is not None:
        report.write_text(json.dumps(body, indent=1), encoding="utf-8")
    if chosen.as_json:
        out.print_json(data=body)
    else:
        _tell_restored(found, applied=apply)
    if found.standing is not Standing.WHOLE and not apply:
        raise typer.Exit(1)


def _restored(found: restoring.Findings) -> dict[str, Any]:
    return {
        "standing": found.standing,
        "events": {"here": found.here, "copied": found.copied, "common": found.common},
        "missing": dict(found.kinds),
        "requests_lost": [
            {
                "id": ids.encode("er", each.id),
                "received_at": each.received_at.isoformat(),
                "due_on": each.due_on,
            }
            for each in found.lost
        ],
        "requests_touched": [ids.encode("er", each) for each in found.touched],
        "versions_published": list(found.published),
        "models_frozen": [ids.encode("mdl", each) for each in found.frozen],
        "holds_placed": list(found.holds),
    }


def _tell_restored(found: restoring.Findings, *, applied: bool) -> None:
    if found.standing is Standing.WHOLE:
        out.print(f"nothing is missing: the chain's copy has {found.copied} of its {found.here} events")
        return
    out.print(
        f"[bold]{found.copied - found.common} events[/] are missing after event {found.common}"
        + (": they are back" if applied else "")
    )
    for kind, count in sorted(found.kinds.items()):
        out.print(f"  {count:6}  {kind}")
    for each in found.lost:
        out.print(
            f"[red]lost[/]    {ids.encode('er', each.id)}, received {each.received_at:%Y-%m-%d %H:%M}"
            f" UTC, due {each.due_on}: ask its source again"
        )
    for request in found.touched:
        out.print(f"[yellow]look at[/] {ids.encode('er', request)}")
    for version in found.published:
        out.print(f"[yellow]look at[/] {version}: it went live since; is its model what is served?")
    for model in found.frozen:
        line = ids.encode("mdl", model)
        out.print(f"[yellow]frozen[/]  {line}: approve its requests again, then `lethe model resume`")
    for hold in found.holds:
        out.print(f"[yellow]place[/]   {hold} again: a legal hold that the database does not know")
    if found.standing is Standing.FORKED:
        out.print(
            "[red]It was written to since it was restored:[/] restore it anew, with everything stopped."
        )
    elif not applied:
        out.print("`lethe restore-check --apply` puts the events back; then start, and see what needs you.")


def account(
    name: Annotated[str, typer.Argument(help="A name of its own: lower case, digits, dots, dashes.")],
    role: Annotated[list[str], typer.Option(help=f"One of {', '.join(ROLES)}; may be repeated.")],
    *,
    machine: Annotated[
        bool, typer.Option("--machine", help="It is a program, so it cannot approve.")
    ] = False,
) -> None:
    """Make an account and print its API key, once; needs LETHE_DATABASE_URL and the keyring.

    This is how the first account of a production installation is made.

    Example: lethe account anna --role privacy_officer
    """
    unknown = set(role) - ROLES.keys()
    if unknown:
        raise Stopped(f"there is no role {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}", code=2)
    settings = Settings()
    if settings.database_url is None:
        raise Stopped("LETHE_DATABASE_URL is not set")
    key = accounts.make_account(settings, name, roles=role, kind="machine" if machine else "person")
    if chosen.as_json:
        out.print_json(data={"name": name, "key": key})
    else:
        out.print(key, markup=False)
