"""The entry point of `lethe`: global options, the commands, the exit codes."""

import sys
from typing import Annotated

import typer

from app.cli import bulk, operate
from app.cli.auditing import audit
from app.cli.bench import bench
from app.cli.certificate import certificate
from app.cli.chain import chain
from app.cli.client import EXIT_REFUSED, Stopped, chosen, err
from app.cli.erasing import hold, job, request
from app.cli.fleet import fleet
from app.cli.keys import keys
from app.cli.log import log
from app.cli.retention import retention
from app.cli.sessions import sessions
from app.cli.stats import stats
from app.cli.suppression import suppression
from app.cli.training import dataset, model
from app.cli.webhooks import webhook

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Lethe erases people's data from trained language models, and shows it.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 typed wrongly, 3 nobody answers.",
)
for command in (
    operate.up,
    operate.demo,
    operate.migrate,
    operate.restore_check,
    operate.account,
    stats,
    fleet,
    retention,
):
    app.command()(command)
for name, verb in (
    ("import", bulk.import_requests),
    ("outcomes", bulk.show_outcomes),
    ("export", bulk.export_requests),
    ("template", bulk.show_template),
    ("bulk", bulk.act_on_many),
):
    request.command(name)(verb)
for name, group in (
    ("dataset", dataset),
    ("model", model),
    ("request", request),
    ("hold", hold),
    ("job", job),
    ("suppression", suppression),
    ("certificate", certificate),
    ("keys", keys),
    ("audit", audit),
    ("chain", chain),
    ("log", log),
    ("webhook", webhook),
    ("sessions", sessions),
    ("bench", bench),
):
    app.add_typer(group, name=name)


@app.callback()
def options(
    url: Annotated[
        str | None, typer.Option(help="The API; by default LETHE_URL, or the one that `lethe up` runs here.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="An API key; better in LETHE_API_KEY, where no process list shows it.")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option("--as", help="Which account of `lethe up` to be: officer, reviewer, engineer, admin."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Keep what was chosen for the command that follows."""
    chosen.url, chosen.key, chosen.account, chosen.as_json = url, key, account, as_json


def main() -> None:
    """Run the command that was typed."""
    try:
        app()
    except Stopped as stopped:
        err.print("[bold red]lethe:[/] ", end="")
        err.print(str(stopped), markup=False)
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        sys.exit(EXIT_REFUSED)


if __name__ == "__main__":
    main()
