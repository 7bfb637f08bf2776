"""The keys: made once, kept private, refused when they are not keys."""

import stat
import threading
from pathlib import Path

import pytest

from app.storage.keyring import KeyMissing, Keyring


def test_keys_are_made_once_and_differ_by_use(tmp_path: Path) -> None:
    made = Keyring.open(tmp_path / "keys", create=True)
    assert Keyring.open(tmp_path / "keys") == made
    values = {
        made.subject,
        made.content,
        made.lottery,
        made.placement,
        made.api,
        made.idempotency,
        made.cursor,
    }
    assert len(values) == 7
    assert all(len(value) == 32 for value in values)


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    Keyring.open(tmp_path / "keys", create=True)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "keys").iterdir()} == {0o600}


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    found: list[Keyring] = []
    threads = [
        threading.Thread(target=lambda: found.append(Keyring.open(tmp_path / "keys", create=True)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({keyring.subject for keyring in found}) == 1


def test_a_missing_key_is_said_and_not_invented(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match=r"subject\.key does not exist"):
        Keyring.open(tmp_path)


@pytest.mark.parametrize("text", ["", "changeme", "00" * 32, "ab" * 16, "zz" * 32])
def test_a_placeholder_is_no_key(tmp_path: Path, text: str) -> None:
    Keyring.open(tmp_path, create=True)
    (tmp_path / "api.key").write_text(text)
    with pytest.raises(KeyMissing, match=r"api\.key is not a key"):
        Keyring.open(tmp_path, create=True)


def test_what_is_printed_of_a_keyring_is_where_it_lies(tmp_path: Path) -> None:
    keyring = Keyring.open(tmp_path, create=True)
    assert str(tmp_path) in repr(keyring)
    assert keyring.admin_token not in repr(keyring)
    assert "subject" not in repr(keyring)
