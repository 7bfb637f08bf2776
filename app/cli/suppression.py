"""`lethe suppression`: what no training may bring back, as a list and as a filter."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import Api, Stopped, chosen, err, out
from app.records.screening import NotScreened, Screen, screen_file

suppression = typer.Typer(no_args_is_help=True, help="The suppression list: what no training may bring back.")


@suppression.command("list")
def list_suppressed(
    file: Annotated[Path | None, typer.Option("--out", help="Where to; by default to the screen.")] = None,
) -> None:
    """Download the list: keyed hashes, of use only to who was given the file `suppression.key`.

    Example: lethe suppression list --out suppressed.ndjson
    """
    with Api("engineer").stream("/v1/suppression") as answer:
        if file is None:
            for line in answer.iter_lines():
                out.print(line, markup=False)
            return
        part = file.with_name(file.name + ".part")
        try:
            with part.open("wb") as kept:
                for chunk in answer.iter_bytes():
                    kept.write(chunk)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


@suppression.command("screen")
def screen_records(
    file: Annotated[Path, typer.Argument(help="JSON lines: text, or prompt and completion.")],
    kept: Annotated[Path, typer.Option("--out", help="Where what may be trained on is written.")],
    list_file: Annotated[
        Path | None, typer.Option("--list", help="A list that was downloaded, instead of asking.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--list-key", help="And the key of the list.")] = None,
) -> None:
    """Copy a training set without what was erased; no record leaves this computer, only digests do.

    A training job does the same by `app.records.screening`, one file that needs nothing else.

    Example: lethe suppression screen corpus.jsonl --out clean.jsonl
    """
    if (list_file is None) != (key is None):
        raise Stopped("--list and --list-key go together", code=2)
    try:
        if list_file is not None and key is not None:
            screen = Screen.from_list(list_file, key)
        else:
            api = Api("engineer")
            screen = Screen(api.url, api.key)
        screen_file(screen, file, kept)
    except (NotScreened, OSError, ValueError) as reason:
        raise Stopped(f"{os.fspath(file)} was not screened: {reason}") from reason
    said = {"screened": screen.screened, "kept_back": screen.barred, "list_version": screen.list_version}
    if chosen.as_json:
        out.print_json(data=said)
    else:
        err.print(f"{screen.screened} records, {screen.barred} kept back; list version {screen.list_version}")
