"""The base of the mapped classes: names of constraints, an id, times."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import DateTime, MetaData, func
from sqlalchemy.orm import DeclarativeBase, mapped_column

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Base(DeclarativeBase):
    """Mapped classes hold columns and no behaviour; a relationship that was not asked for raises."""

    metadata = metadata


def new_id() -> UUID:
    """Return a UUIDv7: unique, and increasing with time, which keeps indexes dense (RFC 9562)."""
    return uuid_utils.compat.uuid7()


Id = Annotated[UUID, mapped_column(primary_key=True, default=new_id)]
CreatedAt = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())]


def one_of(column: str, *values: str) -> str:
    """Return the CHECK that keeps a text column to a vocabulary; the enum itself lives with the rule."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
