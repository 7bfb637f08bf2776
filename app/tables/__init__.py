"""The mapped classes, one file per aggregate; imported here so that the metadata is complete.

Columns that hold a state are text with a CHECK; the vocabulary belongs to the rule module of its
domain, and a test compares the two.
"""

from app.tables.audit import AuditCheck, AuditEvent, AuditHead, StatedHead
from app.tables.auth import ApiKey, Login, PersonSession, Principal
from app.tables.base import Base, new_id
from app.tables.certificates import Certificate, Publication, StatusList
from app.tables.erasure import (
    Approval,
    ClockPause,
    ErasureRequest,
    Hold,
    IdentityChallenge,
    IdentityKnock,
    KeyEpoch,
    RequestProposal,
    RequestRecord,
    RequestScan,
    RequestSearch,
    RequestSecrets,
    RequestTarget,
)
from app.tables.intake import Import, ImportRow, OpenDsrCallback, OpenDsrRequest
from app.tables.jobs import Job, JobCover, JobStep
from app.tables.queue import IdempotencyKey, Outbox
from app.tables.records import Dataset, Record, RecordExclusion, RecordSketch, Suppression
from app.tables.registry import Model, ModelVersion, ReferenceModel
from app.tables.serving import ServingReplica
from app.tables.transparency import LogCheckpoint, LogCosignature, LogLeaf, LogNode, LogOutbox
from app.tables.verification import Audit, Measurement, Qualification, VerdictRow
from app.tables.webhooks import (
    EventCursor,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookMessage,
    WebhookSecret,
)

__all__ = [
    "ApiKey",
    "Approval",
    "Audit",
    "AuditCheck",
    "AuditEvent",
    "AuditHead",
    "Base",
    "Certificate",
    "ClockPause",
    "Dataset",
    "ErasureRequest",
    "EventCursor",
    "Hold",
    "IdempotencyKey",
    "IdentityChallenge",
    "IdentityKnock",
    "Import",
    "ImportRow",
    "Job",
    "JobCover",
    "JobStep",
    "KeyEpoch",
    "LogCheckpoint",
    "LogCosignature",
    "LogLeaf",
    "LogNode",
    "LogOutbox",
    "Login",
    "Measurement",
    "Model",
    "ModelVersion",
    "OpenDsrCallback",
    "OpenDsrRequest",
    "Outbox",
    "PersonSession",
    "Principal",
    "Publication",
    "Qualification",
    "Record",
    "RecordExclusion",
    "RecordSketch",
    "ReferenceModel",
    "RequestProposal",
    "RequestRecord",
    "RequestScan",
    "RequestSearch",
    "RequestSecrets",
    "RequestTarget",
    "ServingReplica",
    "StatedHead",
    "StatusList",
    "Suppression",
    "VerdictRow",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookMessage",
    "WebhookSecret",
    "new_id",
]
