"""The scopes and the roles made of them. Pure: knows neither keys nor HTTP."""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Scope(StrEnum):
    """One kind of act."""

    REQUESTS_CREATE = "requests:create"
    REQUESTS_READ = "requests:read"
    REQUESTS_READ_PII = "requests:read_pii"
    REQUESTS_RESOLVE = "requests:resolve"
    REQUESTS_REVIEW = "requests:review"
    REQUESTS_WITHDRAW = "requests:withdraw"
    REQUESTS_EXTEND = "requests:extend"
    REQUESTS_HOLD = "requests:hold"
    RECORDS_REGISTER = "records:register"
    RECORDS_LOOKUP = "records:lookup"
    JOBS_READ = "jobs:read"
    JOBS_RUN = "jobs:run"
    JOBS_CANCEL = "jobs:cancel"
    MODELS_READ = "models:read"
    MODELS_REGISTER = "models:register"
    MODELS_QUERY = "models:query"
    MODELS_PROMOTE = "models:promote"
    MODELS_FREEZE = "models:freeze"
    CERTIFICATES_READ = "certificates:read"
    AUDIT_READ = "audit:read"
    AUDIT_EXPORT = "audit:export"
    WEBHOOKS_MANAGE = "webhooks:manage"
    KEYS_MANAGE = "keys:manage"


_VIEWER = frozenset({Scope.REQUESTS_READ, Scope.JOBS_READ, Scope.MODELS_READ, Scope.CERTIFICATES_READ})

ROLES: Mapping[str, frozenset[Scope]] = {
    "intake": frozenset({Scope.REQUESTS_CREATE, Scope.REQUESTS_READ, Scope.REQUESTS_WITHDRAW}),
    "viewer": _VIEWER,
    "privacy_officer": _VIEWER
    | {
        Scope.REQUESTS_CREATE,
        Scope.REQUESTS_READ_PII,
        Scope.REQUESTS_RESOLVE,
        Scope.REQUESTS_REVIEW,
        Scope.REQUESTS_WITHDRAW,
        Scope.REQUESTS_EXTEND,
        Scope.REQUESTS_HOLD,
        Scope.RECORDS_LOOKUP,
        Scope.MODELS_QUERY,
        Scope.AUDIT_READ,
    },
    "auditor": _VIEWER | {Scope.AUDIT_READ, Scope.AUDIT_EXPORT},
    "ml_engineer": _VIEWER
    | {
        Scope.RECORDS_REGISTER,
        Scope.JOBS_RUN,
        Scope.JOBS_CANCEL,
        Scope.MODELS_REGISTER,
        Scope.MODELS_QUERY,
        Scope.MODELS_PROMOTE,
        Scope.MODELS_FREEZE,
    },
    # Whoever hands out keys could make a second person: so an admin cannot approve, nor hand that on.
    "admin": frozenset(Scope) - {Scope.REQUESTS_REVIEW, Scope.REQUESTS_READ_PII},
}


def of_roles(roles: Iterable[str]) -> frozenset[Scope]:
    """Return every scope of the roles together."""
    return frozenset().union(*(ROLES[role] for role in roles))
