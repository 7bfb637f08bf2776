"""Connections: those that are held when the process lets go are closed, too."""

from sqlalchemy import text

from app.storage.database import close, connect


def test_a_connection_that_is_held_is_closed_when_it_comes_back(database_url: str) -> None:
    engine = connect(database_url, statement_seconds=5)
    with engine.connect() as kept, engine.connect() as held:
        driver, other = kept.connection.dbapi_connection, held.connection.dbapi_connection
        assert driver is not None
        assert other is not None
        held.close()
        close(engine)
        assert (driver.closed, other.closed) == (False, True)
        assert kept.scalar(text("SELECT 1")) == 1, "whoever holds one goes on with it"
    assert driver.closed
    with engine.connect() as late:
        found = late.connection.dbapi_connection
        assert found is not None
        assert late.scalar(text("SELECT 1")) == 1, "and a thread that comes late is served"
    assert found.closed
