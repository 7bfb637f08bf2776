"""The demo's callers: each with a key of its own, over HTTP, as anybody would call.

Knows what it was answered and how long each step took; decides nothing.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

WAIT_SECONDS_MAX = 900
POLL_SECONDS = 0.5


class Failed(Exception):  # noqa: N818  the demo's one word for it
    """A step did not come to its end; the message says which and why."""


@dataclass
class Walk:
    """The demo's state: who calls, what was seen, how long each step took."""

    out: Path
    console: Console
    api: httpx.Client
    served: httpx.Client
    keys: Mapping[str, str]
    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    told: bool = False
    """Whether the checker's words were printed once; they are alike for every certificate."""

    @contextmanager
    def step(self, name: str, says: str) -> Iterator[None]:
        """Announce a step, and keep how long it took."""
        self.console.print(Text.assemble(("\n● ", "bold cyan"), (says, "bold")))
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def say(self, text: str) -> None:
        """Print one indented line."""
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def call(self, method: str, path: str, *, by: str, json: object = None) -> Any:
        """Call the API as one of the callers; a problem becomes `Failed` with its own words."""
        headers = {"Authorization": f"Bearer {self.keys[by]}"}
        if method != "GET":
            headers |= {"Idempotency-Key": str(uuid4()), "If-Match": "*"}
        response = self.api.request(method, path, headers=headers, json=json)
        if response.is_error:
            raise Failed(f"{method} {path} was answered {response.status_code}: {response.text[:500]}")
        return response.json()

    def fetch(self, path: str, *, by: str) -> bytes:
        """Take something that is handed out once: a POST whose answer is not JSON."""
        headers = {"Authorization": f"Bearer {self.keys[by]}", "Idempotency-Key": str(uuid4())}
        response = self.api.post(path, headers=headers)
        if response.is_error:
            raise Failed(f"POST {path} was answered {response.status_code}: {response.text[:500]}")
        return response.content

    def follow(self, path: str, *, by: str, until: Callable[[Any], bool], show: Callable[[Any], str]) -> Any:
        """Poll a resource, showing how far it is, until it is done."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        with self.showing() as line:
            while time.monotonic() < deadline:
                body = self.call("GET", path, by=by)
                if until(body):
                    return body
                line(show(body))
                time.sleep(POLL_SECONDS)
        raise Failed(f"{path} was not done after {WAIT_SECONDS_MAX} s")

    @contextmanager
    def showing(self) -> Iterator[Callable[[str], None]]:
        """Yield a way to show one line that changes, and is gone at the end."""
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            yield lambda text: live.update(Text(f"  {text}", style="dim"))
