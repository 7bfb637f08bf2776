"""The six ways in which a request can be impossible; one map (`app.http.problems`) turns them to HTTP.

    Problem
    ├── NotFound      there is no such thing, or not for this caller
    ├── Gone          it was there, and is destroyed for good
    ├── Conflict      it cannot be done in the present state
    ├── Forbidden     this caller may not do it
    ├── Unavailable   it could be done, and cannot right now; trying again is right
    └── Invalid       the input is understood and cannot be accepted

A message states a fact and carries ids, never personal data. `code` is the machine's word for it.
"""

from collections.abc import Sequence


class Problem(Exception):  # noqa: N818  it is named for what it tells the caller
    """Something the caller should be told; never an accident of ours."""

    code = "problem"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Carry a message for people and a code for machines."""
        super().__init__(message)
        if code is not None:
            self.code = code


class NotFound(Problem):
    """There is no such thing, or not for this caller."""

    code = "not-found"


class Gone(Problem):
    """It was there, and is destroyed for good."""

    code = "gone"


class Conflict(Problem):
    """It cannot be done in the present state."""

    code = "conflict"


class Forbidden(Problem):
    """This caller may not do it."""

    code = "forbidden"


class Unavailable(Problem):
    """It could be done, and cannot right now; trying again is right."""

    code = "unavailable"


class Invalid(Problem):
    """The input is understood and cannot be accepted.

    `errors` says where and why as (JSON pointer, code), never what stood there.
    """

    code = "invalid"

    def __init__(
        self, message: str, *, code: str | None = None, errors: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Carry also the places that cannot be accepted."""
        super().__init__(message, code=code)
        self.errors = tuple(errors)


class LeaseLost(Conflict):
    """Another worker holds the model now; whatever this one computed is void."""

    code = "lease-lost"
