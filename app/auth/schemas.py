"""Keys on the wire; the key itself is in one answer only."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.auth.scopes import Scope
from app.auth.service import KEY_DAYS_MAX, NAME
from app.http.ids import KeyId, PrincipalId

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]


class KeyCreate(BaseModel):
    """A key for a known `principal`, or for a new one called `name`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    principal: PrincipalId | None = None
    name: Name | None = None
    kind: Literal["person", "machine"] = "machine"
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    vouches: bool = True
    """Whether its holder knows who asks; if not, each person proves it by a code (`identity_pending`)."""
    days: Annotated[int, Field(ge=1, le=KEY_DAYS_MAX)] = KEY_DAYS_MAX

    @model_validator(mode="after")
    def for_whom(self) -> Self:
        """Say for whom: exactly one of the two."""
        if (self.principal is None) == (self.name is None):
            raise PydanticCustomError("principal_or_name", "give a principal or a name")
        return self


class Key(BaseModel):
    """A key as it is listed."""

    id: KeyId
    principal: PrincipalId
    name: str
    kind: str
    scopes: list[str]
    vouches: bool
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class KeyCreated(Key):
    """The only answer that shows the key itself."""

    key: str = Field(repr=False)
