"""Places are kept as they are written, and a secret in one is refused."""

from pathlib import Path

import pytest

from app.errors import Invalid, NotFound
from app.storage import locations


@pytest.mark.parametrize(
    "uri",
    [
        "/data/people.jsonl",
        "file:///data/with%20space.jsonl",
        "s3://bucket/people.parquet",
        "abfs://container@account.dfs.core.windows.net/people.jsonl",
        "https://example.org/people.jsonl?version=3",
        "simplecache::s3://bucket/people.jsonl",
    ],
)
def test_places_without_secrets_are_kept(uri: str) -> None:
    assert locations.check_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("https://ada:hunter2@example.org/x", "uri-credentials"),
        ("https://hunter2@example.org/x", "uri-credentials"),
        ("s3://key:hunter2@bucket/x", "uri-credentials"),
        ("abfs://container:hunter2@account/x", "uri-credentials"),
        ("https://example.org/x?X-Amz-Signature=hunter2", "uri-credentials"),
        ("https://example.org/x?sv=1&sig=hunter2", "uri-credentials"),
        ("https://example.org/x?access_token=hunter2", "uri-credentials"),
        ("simplecache::https://ada:hunter2@example.org/x", "uri-credentials"),
        ("people.jsonl", "uri-relative"),
        ("../people.jsonl", "uri-relative"),
        ("gopher://example.org/x", "uri-scheme"),
        ("/data/\nx", "uri-form"),
        ("/" + "x" * 2048, "uri-form"),
        ("https://[::1/x", "uri-form"),
    ],
)
def test_others_are_refused_without_being_quoted(uri: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        locations.check_uri(uri)
    assert refused.value.code == code
    assert "hunter2" not in str(refused.value)


def test_a_file_is_opened_by_path_and_by_uri(tmp_path: Path) -> None:
    path = tmp_path / "with space"
    path.write_bytes(b"abc")
    for uri in (str(path), path.as_uri(), f"local://{path}"):
        with locations.opened(uri) as file:
            file.seek(1)
            assert file.read() == b"bc"


def test_what_is_here_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert locations.copied((tmp_path / "base").as_uri(), tmp_path / "into") == tmp_path / "base"
    copy = locations.copied(f"local://{tmp_path}/base", tmp_path / "into")
    assert (copy / "config.json").read_text() == "{}"
    for missing in (str(tmp_path / "none"), f"local://{tmp_path}/none", str(copy / "config.json")):
        with pytest.raises(NotFound):
            locations.copied(missing, tmp_path / "again")
