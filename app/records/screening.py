"""Keep erased records out of a training: one file, needs nothing but the standard library; copy it.

    from app.records.screening import Screen

    screen = Screen("https://lethe.example", token)                    # asks the service
    screen = Screen.from_list("suppressed.ndjson", "suppression.key")  # or has its list, and its key
    for record in screen.keep(records):  # texts, or mappings with `text`, or `prompt` and `completion`
        ...

What leaves here are SHA-256 digests of the records, never a record. It fails closed: what could not be
screened is not handed on, and a list that breaks off is not believed.

    python -m app.records.screening FILE --out CLEAN [--url URL] [--list FILE --key FILE]
"""

import argparse
import hashlib
import hmac
import json
import os
import sys
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

BATCH = 10_000
CALL_SECONDS = 60
KEY_BYTES = 32

Record = TypeVar("Record", bound=str | Mapping[str, Any])


class NotScreened(Exception):  # noqa: N818  it is named for what it says
    """Nobody could say whether these records may be trained on, so they may not."""


class _Barred(Protocol):
    def __call__(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of what must not be trained on."""


class Screen:
    """Lets through what may be trained on, and counts what it has kept back."""

    def __init__(self, url: str, token: str, *, manifest_digest: str | None = None) -> None:
        """Ask the service at `url`; its key needs the scope `records:register`.

        `manifest_digest` (64 hexadecimal digits) names the training set in the service's audit chain.
        """
        self.list_version = 0
        self.screened = self.barred = 0
        self._barred: _Barred = _Service(url, token, manifest_digest, self)

    @classmethod
    def from_list(cls, path: str | Path, key: str | Path) -> "Screen":
        """Use a list that `GET /v1/suppression` gave, and the key by which its digests were made."""
        screen = cls("", "")
        screen._barred = _List(Path(path), Path(key), screen)
        return screen

    def keep(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that may be trained on, in their order; in memory are `BATCH` at a time."""
        left = iter(records)
        while batch := list(islice(left, BATCH)):
            barred = self._barred([digest_of(record) for record in batch])
            self.screened, self.barred = self.screened + len(batch), self.barred + len(barred)
            yield from (record for position, record in enumerate(batch) if position not in barred)


def digest_of(record: str | Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a record's canonical bytes (`lethe/canon/1`).

    A text is a record with nothing else. Of a mapping counts `text`, or `prompt` and `completion`; ids,
    subjects and annotations are no content, so a copy under another id is recognised.
    """
    if isinstance(record, str):
        record = {"text": record}
    if record.get("text") is not None:
        content = {"text": record["text"]}
    elif record.get("completion") is not None:
        content = {"prompt": record.get("prompt") or "", "completion": record["completion"]}
    else:
        raise NotScreened("a record has neither a text nor a completion")
    fields = {name: _canonical_text(value) for name, value in content.items()}
    # For a flat object of texts under ASCII names these are the bytes of RFC 8785.
    written = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return hashlib.sha256(written.encode()).digest()
    except UnicodeEncodeError:
        raise NotScreened("a record's content is not Unicode text") from None


def _canonical_text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotScreened("a record's content is not a text")
    return unicodedata.normalize("NFC", value.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


class _Service:
    """Asks which digests are barred."""

    def __init__(self, url: str, token: str, manifest_digest: str | None, screen: Screen) -> None:
        self.url = url.rstrip("/") + "/v1/suppression/screenings"
        self.manifest_digest = manifest_digest
        self.screen = screen
        self._token = token

    def __call__(self, digests: Sequence[bytes]) -> set[int]:
        body = {"digests": [each.hex() for each in digests], "manifest_digest": self.manifest_digest}
        if not self.url.startswith(("https://", "http://")):
            raise NotScreened("the service's URL begins with https:// or http://")
        call = urllib.request.Request(  # noqa: S310  its scheme was looked at
            self.url,
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(call, timeout=CALL_SECONDS) as answer:  # noqa: S310  likewise
                said = json.load(answer)
            hits = {int(position) for position in said["hits"]}
            if said["screened"] != len(digests) or not hits <= set(range(len(digests))):
                raise NotScreened("the service answered about other records than were asked about")
            self.screen.list_version = int(said["list_version"])
        except urllib.error.HTTPError as refused:
            with refused:
                raise NotScreened(f"the service refused with {refused.code}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotScreened(f"the service cannot be asked ({type(error).__name__})") from None
        return hits


class _List:
    """Knows the whole list, and its key."""

    def __init__(self, path: Path, key: Path, screen: Screen) -> None:
        self._key = bytes.fromhex(key.read_text("ascii").strip())
        if len(self._key) != KEY_BYTES:
            raise NotScreened("this is not the key of a suppression list")
        self._barred = set[bytes]()
        ended: Mapping[str, Any] | None = None
        with path.open(encoding="ascii") as lines:
            for line in lines:
                entry = json.loads(line)
                if ended is not None:
                    raise NotScreened("the list goes on after its end")
                if entry.get("end"):
                    ended = entry
                else:
                    self._barred.add(bytes.fromhex(entry["digest"]))
        if ended is None:
            raise NotScreened("the list breaks off; get it again")
        screen.list_version = int(ended["list_version"])

    def __call__(self, digests: Sequence[bytes]) -> set[int]:
        macs = (hmac.digest(self._key, b"lethe/suppression/v1\0" + digest, "sha256") for digest in digests)
        return {position for position, mac in enumerate(macs) if mac in self._barred}


def screen_file(screen: Screen, source: Path, out: Path) -> None:
    """Copy the lines of a JSONL file that may be trained on, byte for byte; whole or not at all."""
    part = out.with_name(out.name + ".part")
    try:
        with source.open("rb") as lines, part.open("wb") as kept:
            parsed = (_Line(line) for line in lines if line.strip())
            for each in screen.keep(parsed):
                kept.write(each.line if each.line.endswith(b"\n") else each.line + b"\n")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


class _Line(dict[str, Any]):
    """A line with what it says."""

    def __init__(self, line: bytes) -> None:
        try:
            super().__init__(json.loads(line))
        except (ValueError, TypeError):
            raise NotScreened("a line is not a JSON object") from None
        self.line = line


def main() -> int:
    """Screen a file; 0 if it was written, whatever was kept back, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="JSON lines: text, or prompt and completion")
    parser.add_argument("--out", type=Path, required=True, help="what may be trained on")
    parser.add_argument("--url", default=os.environ.get("LETHE_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--list", type=Path, help="a list that was downloaded, instead of asking")
    parser.add_argument("--key", type=Path, help="and the key of the list")
    given = parser.parse_args()
    try:
        if given.list is not None and given.key is not None:
            screen = Screen.from_list(given.list, given.key)
        else:
            screen = Screen(given.url, os.environ.get("LETHE_API_KEY", ""))
        screen_file(screen, given.file, given.out)
    except (NotScreened, OSError) as reason:
        sys.stderr.write(f"not screened: {reason}\n")
        return 1
    sys.stderr.write(f"{screen.screened} records, {screen.barred} kept back\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
