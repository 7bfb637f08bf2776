"""The mapped classes, one file per aggregate; imported here so that the metadata is complete.

Columns that hold a state are text with a CHECK; the vocabulary belongs to the rule module of its
domain, and a test compares the two.
"""

from app.tables.audit import AuditEvent, AuditHead
from app.tables.auth import ApiKey, Principal
from app.tables.base import Base, new_id
from app.tables.certificates import Certificate
from app.tables.erasure import Approval, ErasureRequest, RequestRecord, RequestTarget
from app.tables.jobs import Job, JobStep
from app.tables.queue import IdempotencyKey, Outbox
from app.tables.records import Dataset, Record, RecordExclusion
from app.tables.registry import Model, ModelVersion, ReferenceModel
from app.tables.serving import ServingReplica
from app.tables.transparency import LogCheckpoint, LogCosignature, LogLeaf, LogNode, LogOutbox
from app.tables.verification import Measurement, Qualification, VerdictRow

__all__ = [
    "ApiKey",
    "Approval",
    "AuditEvent",
    "AuditHead",
    "Base",
    "Certificate",
    "Dataset",
    "ErasureRequest",
    "IdempotencyKey",
    "Job",
    "JobStep",
    "LogCheckpoint",
    "LogCosignature",
    "LogLeaf",
    "LogNode",
    "LogOutbox",
    "Measurement",
    "Model",
    "ModelVersion",
    "Outbox",
    "Principal",
    "Qualification",
    "Record",
    "RecordExclusion",
    "ReferenceModel",
    "RequestRecord",
    "RequestTarget",
    "ServingReplica",
    "VerdictRow",
    "new_id",
]
