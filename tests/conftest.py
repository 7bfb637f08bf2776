"""What tests share: a real Postgres once per session, an empty migrated database for each test."""

import pytest

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.api",
    "tests.fixtures.post",
    "tests.fixtures.records",
    "tests.fixtures.world",
    "tests.fixtures.prepared",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run name a folder of published vectors; without it those tests skip and say so."""
    parser.addoption(
        "--vectors", metavar="FOLDER", help="published RFC 6962 proofs (transparency-dev/merkle)"
    )
