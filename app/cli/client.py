"""What the commands share: calls to the API, plain words for its refusals, waiting with a bar."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.config import Settings
from app.embedded import accounts

EXIT_REFUSED = 1
EXIT_NOBODY = 3
POLL_SECONDS = 0.5
CALL_SECONDS = 60.0
PAGE_ROWS = 200
PIPE_COLUMNS = 400

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Stopped(Exception):  # noqa: N818  it is named for what it does to the command
    """The command cannot go on; the message is for the person who typed it."""

    def __init__(self, message: str, *, code: int = EXIT_REFUSED, status: int | None = None) -> None:
        """Carry the message, the exit code, and how the API answered if it did."""
        super().__init__(message)
        self.code, self.status = code, status


@dataclass
class Chosen:
    """What the global options say; empty ones are looked up when they are needed."""

    url: str | None = None
    key: str | None = field(default=None, repr=False)
    account: str | None = None
    as_json: bool = False


chosen = Chosen()


class Api:
    """The API as one account sees it: `--key`, `LETHE_API_KEY`, or a key that `lethe up` has left."""

    def __init__(self, account: str) -> None:
        """Be this account, unless the person said otherwise."""
        settings = Settings()
        left = accounts.credentials(settings.home)
        self.url = chosen.url or os.environ.get("LETHE_URL") or left.get("url") or settings.public_url
        account = chosen.account or account
        self.key = chosen.key or os.environ.get("LETHE_API_KEY") or left.get("keys", {}).get(account)
        if not self.key:
            raise Stopped(
                f"no API key for {account}: start `lethe up` on this computer, or give --key or LETHE_API_KEY"
            )

    def send(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content: bytes | None = None,
        media_type: str = "application/json",
        params: Mapping[str, Any] | None = None,
        seen: str = "*",
    ) -> httpx.Response:
        """Call, and return the answer; a refusal is `Stopped` in the API's own words.

        A POST carries a key of its own, so a second try within this call cannot act twice; and the tag
        of what was `seen`, by default whichever version there is.
        """
        headers = {"Authorization": f"Bearer {self.key}"}
        if method == "POST":
            headers |= {"Idempotency-Key": str(uuid4()), "If-Match": seen}
        if content is not None:
            headers["Content-Type"] = media_type
        for last in (False, True):
            try:
                response = httpx.request(
                    method,
                    self.url + path,
                    json=body,
                    content=content,
                    params=params,
                    headers=headers,
                    timeout=CALL_SECONDS,
                    trust_env=False,
                )
            except httpx.HTTPError as error:
                if last:
                    raise Stopped(
                        f"nothing answers at {self.url} ({type(error).__name__}); is `lethe up` running?",
                        code=EXIT_NOBODY,
                    ) from error
                continue
            if response.is_error:
                code = EXIT_NOBODY if response.status_code == 503 else EXIT_REFUSED
                raise Stopped(_plain(response), code=code, status=response.status_code)
            return response
        raise AssertionError("the loop returns or raises")

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[httpx.Response]:
        """Call for an answer that is read as it comes; what breaks off is `Stopped`."""
        given = {name: value for name, value in params.items() if value is not None}
        try:
            with httpx.stream(
                "GET",
                self.url + path,
                params=given,
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=CALL_SECONDS,
                trust_env=False,
            ) as response:
                if response.is_error:
                    response.read()
                    raise Stopped(_plain(response), status=response.status_code)
                yield response
        except httpx.HTTPError as error:
            raise Stopped(
                f"{self.url} does not answer, or not to the end ({type(error).__name__})", code=EXIT_NOBODY
            ) from error

    def get(self, path: str, **params: Any) -> Any:
        """Return what is there."""
        return self.send("GET", path, params={k: v for k, v in params.items() if v is not None}).json()

    def post(self, path: str, body: object = None, *, seen: str = "*") -> Any:
        """Do it, and return the receipt."""
        return self.send("POST", path, body=body, seen=seen).json()

    def delete(self, path: str) -> Any:
        """End it, and return what it was."""
        return self.send("DELETE", path).json()

    def pages(self, path: str, *, limit: int, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield up to `limit` rows of a list, page by page."""
        cursor: str | None = None
        while limit > 0:
            page = self.get(path, limit=min(limit, PAGE_ROWS), cursor=cursor, **params)
            yield from page["items"]
            limit -= len(page["items"])
            cursor = page.get("next")
            if cursor is None:
                return

    def after(self, path: str, *, key: Callable[[dict[str, Any]], int]) -> Iterator[dict[str, Any]]:
        """Yield a list that is numbered, from its beginning on."""
        last = 0
        while page := self.get(path, limit=PAGE_ROWS, after=last):
            yield from page
            last = key(page[-1])

    def follow(
        self,
        path: str,
        *,
        says: str,
        done: Callable[[Any], bool],
        share: Callable[[Any], tuple[float, str]],
    ) -> Any:
        """Poll until done, with a bar: `share` returns how much of it is done and a few words."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[word]}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as progress:
            task = progress.add_task(says, total=1.0, word="")
            while True:
                body = self.get(path)
                if done(body):
                    return body
                part, word = share(body)
                progress.update(task, completed=part, word=word)
                time.sleep(POLL_SECONDS)


def show(body: Any, lines: Mapping[str, Any]) -> None:
    """Print one thing: its lines, or all of it with `--json`."""
    if chosen.as_json:
        out.print_json(json.dumps(body))
        return
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        if value is not None:
            out.print(f"[bold]{name.ljust(width)}[/]  ", end="")
            out.print(str(value), markup=False)


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print a list: the columns by their key and title, or everything with `--json`."""
    rows = list(rows)
    if chosen.as_json:
        out.print_json(json.dumps(rows))
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns.values():
        drawn.add_column(title, overflow="fold")  # an id that is cut short is of no use
    for row in rows:
        drawn.add_row(*(_cell(row.get(key)) for key in columns))
    # Into a pipe every row is one line, however wide.
    console = out if out.is_terminal else Console(width=PIPE_COLUMNS, highlight=False)
    console.print(drawn if rows else "nothing yet")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def runs(progress: Mapping[str, Any]) -> tuple[float, str]:
    """Return how far runs are that go side by side, and the slowest one's words."""
    each = [run for run in progress.get("runs") or [] if run.get("steps")]
    if not each:
        return 0.0, "starting"
    part = sum(run.get("step", 0) / run["steps"] for run in each) / len(each)
    left = max(float(run.get("seconds_left") or 0) for run in each)
    phase = each[0].get("phase", "")
    return part, f"{phase} {part:.0%}" + (f", {left:.0f} s left" if left else "")


def _plain(response: httpx.Response) -> str:
    """Return a problem (RFC 9457) as one would say it."""
    try:
        problem = response.json()
    except ValueError:
        return f"the API answered {response.status_code}"
    said = problem.get("detail") or problem.get("title") or "refused"
    lines = [f"{said} ({problem.get('code', response.status_code)})"]
    lines += [f"  {each.get('pointer') or '/'}: {each.get('code')}" for each in problem.get("errors", [])]
    if problem.get("request_id") and response.status_code >= 500:
        lines.append(f"  {problem['request_id']} in the API's log")
    return "\n".join(lines)
