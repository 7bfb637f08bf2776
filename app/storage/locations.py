"""Where other people's files lie: an absolute path, or any URI that fsspec knows; never a secret.

A secret in a URI would end up in the database, in its backups and in whatever lists datasets, so
credentials belong to the environment of the worker. Knows neither what the files are nor ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import fsspec
import fsspec.core

from app.errors import Invalid, NotFound, Unavailable

URI_CHARACTERS_MAX = 2048

_ACCOUNT_BEFORE_HOST = {"abfs", "abfss"}
"""Azure writes `abfs://container@account...`; what stands before the @ is no user there."""
_SECRET_WORDS = (
    "sig",
    "token",
    "secret",
    "password",
    "credential",
    "accesskey",
    "access_key",
    "apikey",
    "api_key",
)


def check_uri(uri: str) -> str:
    """Return the URI as it is kept; Invalid if it carries a secret or names no place."""
    if len(uri) > URI_CHARACTERS_MAX or not uri.isprintable():
        raise Invalid("the URI is too long or has control characters", code="uri-form")
    if _is_path(uri):
        if not Path(uri).is_absolute():
            raise Invalid("a path must be absolute: a worker has its own directory", code="uri-relative")
        return uri
    for link in uri.split("::"):
        _refuse_secrets(link)
    scheme = uri.partition(":")[0].lower()
    if scheme != "file" and scheme not in fsspec.available_protocols():
        raise Invalid("no such kind of storage is known", code="uri-scheme")
    return uri


def local_path(uri: str) -> Path | None:
    """Return the path of a plain path or a `file:` URI, None for what is not on this machine."""
    if _is_path(uri):
        return Path(uri)
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else None


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """Open a file for reading and seeking."""
    path = local_path(uri)
    if path is not None:
        with path.open("rb") as file:
            yield file
        return
    with fsspec.open(uri, "rb") as file:
        yield cast("BinaryIO", file)


def copied(uri: str, into: Path) -> Path:
    """Return a directory of this machine with the files of `uri`; only what is elsewhere is copied."""
    path = local_path(uri)
    if path is None:
        try:
            filesystem, remote = fsspec.core.url_to_fs(uri)
            filesystem.get(remote.rstrip("/") + "/", f"{into}/", recursive=True)
        except FileNotFoundError:
            raise NotFound("there is nothing at the URI", code="source-missing") from None
        except OSError:
            raise Unavailable("the URI cannot be read now", code="source-unreadable") from None
        path = into
    if not path.is_dir():
        raise NotFound("there is no directory at the URI", code="source-missing")
    return path


def _is_path(uri: str) -> bool:
    return "://" not in uri and not uri.startswith("file:")


def _refuse_secrets(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        names = [name.lower().replace("-", "") for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise Invalid("the URI cannot be parsed", code="uri-form") from None
    user, at, _ = parts.netloc.rpartition("@")
    in_host = bool(at) and (parts.scheme not in _ACCOUNT_BEFORE_HOST or ":" in user)
    if in_host or any(word in name for name in names for word in _SECRET_WORDS):
        raise Invalid("the URI carries credentials; give them to the worker", code="uri-credentials")
