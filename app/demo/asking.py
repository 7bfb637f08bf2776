"""A client that keeps asking while the served model is swapped, and whether it was ever let down.

An answer *fails* if it is not a whole 200. It is *mixed* if it is not, word for word, what the
version named in its header answers alone: greedy decoding gives each version one answer per prompt.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Self

import httpx

ANSWER_TOKENS_MAX = 32
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: the words, and the version that said them."""

    prompt: str
    text: str
    manifest: str


def ask(client: httpx.Client, model: str, prompt: str) -> Answer:
    """Ask the served model for a completion, greedily; an HTTP error raises."""
    response = client.post(
        "/v1/completions",
        json={"model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS_MAX, "temperature": 0},
    )
    response.raise_for_status()
    return Answer(
        prompt=prompt,
        text=response.json()["choices"][0]["text"],
        manifest=response.headers["X-Model-Manifest"],
    )


@dataclass
class Asker:
    """Asks the same prompts round and round in a thread of its own, and keeps every answer."""

    url: str
    model: str
    prompts: Sequence[str]
    answers: list[Answer] = field(default_factory=list)
    failed: int = 0

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            for prompt in cycle(self.prompts):
                if self._done.wait(PAUSE_SECONDS):
                    return
                try:
                    self.answers.append(ask(client, self.model, prompt))
                except (httpx.HTTPError, KeyError, ValueError):
                    self.failed += 1

    def mixed(self, alone: Mapping[str, Mapping[str, str]]) -> int:
        """Return how many answers are not what their version says alone (manifest -> prompt -> text)."""
        return sum(
            alone.get(answer.manifest, {}).get(answer.prompt) != answer.text for answer in self.answers
        )
