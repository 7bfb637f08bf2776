"""`lethe up`, `demo`, `migrate`, `account`: what runs on this computer."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.auth.scopes import ROLES
from app.cli.client import Stopped, chosen, err, out
from app.config import Settings
from app.embedded import accounts
from app.embedded.stack import Stack, StartFailed
from app.storage import migrations

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


def migrate(
    app_role: Annotated[
        str | None,
        typer.Option(
            help="The role that the service works as, if it does not own the tables; it must exist."
        ),
    ] = None,
) -> None:
    """Bring the database at LETHE_DATABASE_URL to this release's revision, as who owns it.

    Several may run at once; one does the work. `lethe up` does this by itself.

    Example: lethe migrate --app-role lethe_app
    """
    url = Settings().database_url
    if url is None:
        raise Stopped("LETHE_DATABASE_URL is not set")
    migrations.migrate(url, app_role=app_role)
    out.print(f"the database is at revision {migrations.head()}")


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
