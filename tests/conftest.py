"""What tests share: a real Postgres once per session, an empty migrated database for each test."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.api"]
