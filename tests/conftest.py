"""What tests share: a real Postgres once per session, an empty migrated database for each test."""

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, and no clock: how crowded a machine is, is no finding. `search` is for whoever
# looks for new ones: `pytest --hypothesis-profile=search`.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", _UNHURRIED, derandomize=True)
settings.register_profile("search", _UNHURRIED, max_examples=1000)
settings.load_profile("suite")

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
