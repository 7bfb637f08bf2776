"""Lay the first tables; the audit chain and the public log can only grow.

The first revision: there is nothing before it to stay compatible with.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit_events", "stated_heads", "log_leaves", "log_nodes", "log_cosignatures")


def upgrade() -> None:
    """Expand."""
    op.create_table(
        "audit_events",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_events")),
        sa.UniqueConstraint("prev_hash", name=op.f("uq_audit_events_prev_hash")),
    )
    op.create_index(op.f("ix_audit_events_kind"), "audit_events", ["kind"], unique=False)
    op.create_index(op.f("ix_audit_events_subject_id"), "audit_events", ["subject_id"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "stated_heads",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("pae_sha256", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("produced_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_stated_heads")),
    )
    op.create_table(
        "audit_checks",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("broken_at", sa.BigInteger(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("whole_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_checks_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_checks")),
    )
    op.create_table(
        "event_cursors",
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reader", name=op.f("pk_event_cursors")),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "committed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'committed') = (note IS NULL)", name=op.f("ck_log_checkpoints_note")),
        sa.CheckConstraint(
            "state IN ('committed', 'signed', 'published')", name=op.f("ck_log_checkpoints_state")
        ),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_log_checkpoints")),
    )
    op.create_table(
        "log_leaves",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column(
            "appended_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "leaf_hash = sha256('\\x00'::bytea || entry)", name=op.f("ck_log_leaves_leaf_hash")
        ),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_log_leaves")),
        sa.UniqueConstraint("leaf_hash", name=op.f("uq_log_leaves_leaf_hash")),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("level BETWEEN 1 AND 7", name=op.f("ck_log_nodes_level")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_log_nodes_hash")),
        sa.PrimaryKeyConstraint("level", "idx", name=op.f("pk_log_nodes")),
    )
    op.create_table(
        "log_outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "leaf_hash = sha256('\\x00'::bytea || entry)", name=op.f("ck_log_outbox_leaf_hash")
        ),
        sa.CheckConstraint("octet_length(entry) BETWEEN 1 AND 65535", name=op.f("ck_log_outbox_entry")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_outbox")),
        sa.UniqueConstraint("idx", name=op.f("uq_log_outbox_idx")),
        sa.UniqueConstraint("leaf_hash", name=op.f("uq_log_outbox_leaf_hash")),
    )
    op.create_index(
        "unsequenced", "log_outbox", ["id"], unique=False, postgresql_where=sa.text("idx IS NULL")
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("target_id", sa.Uuid(), nullable=False),
        sa.Column(
            "rung_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_rung_at"), "outbox", ["rung_at"], unique=False)
    op.create_table(
        "principals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("provider_mac", sa.LargeBinary(), nullable=True),
        sa.Column("manages_keys", sa.Boolean(), nullable=False),
        sa.Column("roles", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("roles_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("kind IN ('person', 'machine')", name=op.f("ck_principals_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principals")),
        sa.UniqueConstraint("name", name=op.f("uq_principals_name")),
        sa.UniqueConstraint("provider_mac", name=op.f("uq_principals_provider_mac")),
    )
    op.create_table(
        "status_lists",
        sa.Column("pae_sha256", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("produced_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pae_sha256", name=op.f("pk_status_lists")),
    )
    op.create_index(op.f("ix_status_lists_produced_at"), "status_lists", ["produced_at"], unique=False)
    op.create_table(
        "webhook_messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_messages")),
        sa.UniqueConstraint("seq", name=op.f("uq_webhook_messages_seq")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("vouches", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"], name=op.f("fk_api_keys_principal_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("mac", name=op.f("uq_api_keys_mac")),
    )
    op.create_table(
        "person_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_how", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("(ended_at IS NULL) = (ended_how IS NULL)", name=op.f("ck_person_sessions_ended")),
        sa.CheckConstraint(
            "ended_how IS NULL OR ended_how IN ('logout', 'replaced', 'revoked', 'roles_changed', 'disabled', 'provider')",
            name=op.f("ck_person_sessions_ended_how"),
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_person_sessions_principal_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_sessions")),
        sa.UniqueConstraint("mac", name=op.f("uq_person_sessions_mac")),
    )
    op.create_index("ix_person_sessions_created", "person_sessions", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_person_sessions_open",
        "person_sessions",
        ["principal_id"],
        unique=False,
        postgresql_where="ended_at IS NULL",
    )
    op.create_table(
        "logins",
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.Column("browser_mac", sa.LargeBinary(), nullable=False),
        sa.Column("return_to", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("mac", name=op.f("pk_logins")),
    )
    op.create_index(op.f("ix_logins_expires_at"), "logins", ["expires_at"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("hold_back", sa.Integer(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("records", sa.BigInteger(), nullable=True),
        sa.Column("subjects", sa.BigInteger(), nullable=True),
        sa.Column("held_back", sa.BigInteger(), nullable=True),
        sa.Column("forgotten", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("forgotten_places", postgresql.ARRAY(sa.Integer()), server_default="{}", nullable=False),
        sa.Column("lottery_commitment", sa.LargeBinary(), nullable=True),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("failure", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("sketch", sa.Text(), nullable=True),
        sa.Column("sketching", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("format IN ('jsonl', 'parquet')", name=op.f("ck_datasets_format")),
        sa.CheckConstraint("state IN ('registering', 'ready', 'failed')", name=op.f("ck_datasets_state")),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_datasets_created_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "erasure_requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attention", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Uuid(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("subject_macs", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.Column("content_macs", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.Column("record_set_hash", sa.LargeBinary(), nullable=True),
        sa.Column("records_matched", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_on", sa.Date(), nullable=False),
        sa.Column("due_on", sa.Date(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_without_pause", sa.Date(), nullable=False),
        sa.Column("internal_target", sa.Date(), nullable=False),
        sa.Column("calendar", sa.Text(), nullable=False),
        sa.Column("jurisdiction", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("alerted_days", sa.Integer(), nullable=True),
        sa.Column("extended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("extension_reason", sa.Text(), nullable=True),
        sa.Column("extension_notified_on", sa.Date(), nullable=True),
        sa.Column("clock_paused", sa.Boolean(), nullable=False),
        sa.Column("legal_hold", sa.Boolean(), nullable=False),
        sa.Column("duplicate_of", sa.Uuid(), nullable=True),
        sa.Column("identity_method", sa.Text(), nullable=True),
        sa.Column("records_exempt", sa.Integer(), nullable=False),
        sa.Column("records_near", sa.Integer(), server_default="0", nullable=False),
        sa.Column("records_mentioning", sa.Integer(), server_default="0", nullable=False),
        sa.Column("proposals_open", sa.Integer(), server_default="0", nullable=False),
        sa.Column("indexes", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("concluded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ground", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("notified_on", sa.Date(), nullable=True),
        sa.Column("notice_ref", sa.Text(), nullable=True),
        sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("grounds_kept", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "ground IS NULL OR ground IN ('12.5', '12.6', '17.3.a', '17.3.b', '17.3.c', '17.3.d', '17.3.e')",
            name=op.f("ck_erasure_requests_ground"),
        ),
        sa.CheckConstraint(
            "state IN ('received', 'identity_pending', 'triage', 'awaiting_approval', 'no_match', 'scheduled', 'unlearning', 'verifying', 'publishing', 'completed', 'withdrawn', 'rejected')",
            name=op.f("ck_erasure_requests_state"),
        ),
        sa.CheckConstraint(
            "decided_by IS NULL OR decided_by <> submitted_by", name=op.f("ck_erasure_requests_second_person")
        ),
        sa.CheckConstraint(
            "purged_at IS NULL OR (cardinality(subject_macs) = 0 AND num_nonnulls(external_ref, notice_ref, duplicate_of) = 0)",
            name=op.f("ck_erasure_requests_tombstone"),
        ),
        sa.ForeignKeyConstraint(
            ["decided_by"], ["principals.id"], name=op.f("fk_erasure_requests_decided_by")
        ),
        sa.ForeignKeyConstraint(
            ["duplicate_of"], ["erasure_requests.id"], name=op.f("fk_erasure_requests_duplicate_of")
        ),
        sa.ForeignKeyConstraint(
            ["submitted_by"], ["principals.id"], name=op.f("fk_erasure_requests_submitted_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure_requests")),
    )
    op.create_index("ix_erasure_requests_created", "erasure_requests", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_erasure_requests_due",
        "erasure_requests",
        ["due_at", "id"],
        unique=False,
        postgresql_where="concluded_at IS NULL",
    )
    op.create_index(
        "ix_erasure_requests_unpurged",
        "erasure_requests",
        ["concluded_at"],
        unique=False,
        postgresql_where="concluded_at IS NOT NULL AND purged_at IS NULL",
    )
    op.create_index(
        "ix_erasure_requests_subject_macs",
        "erasure_requests",
        ["subject_macs"],
        unique=False,
        postgresql_using="gin",
    )
    op.create_index(
        "uq_erasure_requests_external",
        "erasure_requests",
        ["submitted_by", "external_ref"],
        unique=True,
        postgresql_where="external_ref IS NOT NULL",
    )
    op.create_table(
        "key_epochs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("week", sa.Date(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key_epochs")),
        sa.UniqueConstraint("week", name=op.f("uq_key_epochs_week")),
    )
    op.create_table(
        "request_secrets",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("epoch_id", sa.Uuid(), nullable=True),
        sa.Column("data_key", sa.LargeBinary(), nullable=True),
        sa.Column("identifiers", sa.LargeBinary(), nullable=True),
        sa.Column("note", sa.LargeBinary(), nullable=True),
        sa.Column("evidence", sa.LargeBinary(), nullable=True),
        sa.Column("refusal", sa.LargeBinary(), nullable=True),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(data_key IS NULL) = (destroyed_at IS NOT NULL)", name=op.f("ck_request_secrets_destroyed")
        ),
        sa.CheckConstraint(
            "(epoch_id IS NULL) = (data_key IS NULL)", name=op.f("ck_request_secrets_wrapped")
        ),
        sa.CheckConstraint(
            "destroyed_at IS NULL OR num_nonnulls(identifiers, note, evidence, refusal) = 0",
            name=op.f("ck_request_secrets_nothing_left"),
        ),
        sa.ForeignKeyConstraint(["epoch_id"], ["key_epochs.id"], name=op.f("fk_request_secrets_epoch_id")),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["erasure_requests.id"],
            name=op.f("fk_request_secrets_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_secrets")),
    )
    op.create_index(op.f("ix_request_secrets_epoch_id"), "request_secrets", ["epoch_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["principal_id"], ["principals.id"], name=op.f("fk_idempotency_keys_principal_id")
        ),
        sa.PrimaryKeyConstraint("principal_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "log_cosignatures",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("witness", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["size"], ["log_checkpoints.size"], name=op.f("fk_log_cosignatures_size")),
        sa.PrimaryKeyConstraint("size", "witness", name=op.f("pk_log_cosignatures")),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("kinds", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("after_seq", sa.BigInteger(), nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("(state = 'active') = (reason IS NULL)", name=op.f("ck_webhook_endpoints_why")),
        sa.CheckConstraint(
            "reason IS NULL OR reason IN ('asked', 'gone', 'failing', 'removed')",
            name=op.f("ck_webhook_endpoints_reason"),
        ),
        sa.CheckConstraint(
            "state IN ('active', 'disabled', 'removed')", name=op.f("ck_webhook_endpoints_state")
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["principals.id"], name=op.f("fk_webhook_endpoints_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_table(
        "approvals",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("approver_id", sa.Uuid(), nullable=False),
        sa.Column("record_set_hash", sa.LargeBinary(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("level IN ('reviewer', 'privacy_officer')", name=op.f("ck_approvals_level")),
        sa.ForeignKeyConstraint(["approver_id"], ["principals.id"], name=op.f("fk_approvals_approver_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_approvals_request_id")
        ),
        sa.PrimaryKeyConstraint("request_id", "approver_id", name=op.f("pk_approvals")),
    )
    op.create_table(
        "clock_pauses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("asked_on", sa.Date(), nullable=False),
        sa.Column("answered_on", sa.Date(), nullable=True),
        sa.Column("asked_by", sa.Uuid(), nullable=False),
        sa.Column("answered_by", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "answered_on IS NULL OR answered_on >= asked_on", name=op.f("ck_clock_pauses_in_order")
        ),
        sa.ForeignKeyConstraint(["answered_by"], ["principals.id"], name=op.f("fk_clock_pauses_answered_by")),
        sa.ForeignKeyConstraint(["asked_by"], ["principals.id"], name=op.f("fk_clock_pauses_asked_by")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_clock_pauses_request_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clock_pauses")),
    )
    op.create_index(op.f("ix_clock_pauses_request_id"), "clock_pauses", ["request_id"], unique=False)
    op.create_index(
        "one_open_pause", "clock_pauses", ["request_id"], unique=True, postgresql_where="answered_on IS NULL"
    )
    op.create_table(
        "identity_challenges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_mac", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_how", sa.Text(), nullable=True),
        sa.CheckConstraint("attempts BETWEEN 0 AND 5", name=op.f("ck_identity_challenges_attempts")),
        sa.CheckConstraint(
            "(code_mac IS NULL) = (expires_at IS NULL)", name=op.f("ck_identity_challenges_drawn")
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (ended_how IS NULL)", name=op.f("ck_identity_challenges_ended")
        ),
        sa.CheckConstraint(
            "ended_how IS NULL OR ended_how IN ('proven', 'superseded', 'failed', 'stopped')",
            name=op.f("ck_identity_challenges_ended_how"),
        ),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["erasure_requests.id"],
            name=op.f("fk_identity_challenges_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_challenges")),
    )
    op.create_index(
        op.f("ix_identity_challenges_request_id"), "identity_challenges", ["request_id"], unique=False
    )
    op.create_index(
        "one_open_code",
        "identity_challenges",
        ["request_id"],
        unique=True,
        postgresql_where="code_mac IS NOT NULL AND ended_at IS NULL",
    )
    op.create_index(
        "ix_identity_challenges_due",
        "identity_challenges",
        ["next_try_at"],
        unique=False,
        postgresql_where="sent_at IS NULL AND ended_at IS NULL",
    )
    op.create_table(
        "identity_knocks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("address_mac", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_knocks")),
    )
    op.create_index(op.f("ix_identity_knocks_at"), "identity_knocks", ["at"], unique=False)
    op.create_index("ix_identity_knocks_address", "identity_knocks", ["address_mac", "at"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("base_uri", sa.Text(), nullable=False),
        sa.Column("base_manifest", sa.Text(), nullable=True),
        sa.Column("recipe", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("layout", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("references_wanted", sa.Integer(), nullable=False),
        sa.Column("forms", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("verification_policy", sa.Text(), nullable=False),
        sa.Column("jobs_policy", sa.Text(), nullable=False),
        sa.Column("assurance_min", sa.Text(), nullable=False),
        sa.Column("live_version_id", sa.Uuid(), nullable=True),
        sa.Column("erasure_epoch", sa.BigInteger(), nullable=False),
        sa.Column("publish_epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fenced", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("breaker", sa.Text(), nullable=False),
        sa.Column("failed_jobs", sa.Integer(), nullable=False),
        sa.Column("attention", sa.Text(), nullable=True),
        sa.Column("run_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("compaction_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("breaker IN ('closed', 'open', 'frozen')", name=op.f("ck_models_breaker")),
        sa.ForeignKeyConstraint(["created_by"], ["principals.id"], name=op.f("fk_models_created_by")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_models_dataset_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_table(
        "opendsr_requests",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("controller_id", sa.Uuid(), nullable=False),
        sa.Column("subject_request_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("expected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("callback_urls", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed', 'cancelled')",
            name=op.f("ck_opendsr_requests_status"),
        ),
        sa.ForeignKeyConstraint(
            ["controller_id"], ["principals.id"], name=op.f("fk_opendsr_requests_controller_id")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_opendsr_requests_request_id")
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_opendsr_requests")),
        sa.UniqueConstraint(
            "controller_id",
            "subject_request_id",
            name=op.f("uq_opendsr_requests_controller_id_subject_request_id"),
        ),
    )
    op.create_table(
        "records",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("content_mac", sa.LargeBinary(), nullable=False),
        sa.Column("subject_macs", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.Column("cluster", sa.LargeBinary(), nullable=False),
        sa.Column("suppression_mac", sa.LargeBinary(), nullable=True),
        sa.Column("key_version", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("arm IN ('train', 'held_back')", name=op.f("ck_records_arm")),
        sa.CheckConstraint("role IN ('person', 'sentinel')", name=op.f("ck_records_role")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_records_dataset_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_records")),
    )
    op.create_index("ix_records_content_mac", "records", ["content_mac"], unique=False)
    op.create_index("ix_records_dataset_cluster", "records", ["dataset_id", "cluster"], unique=False)
    op.create_index("ix_records_dataset_external", "records", ["dataset_id", "external_id"], unique=True)
    op.create_index(
        "ix_records_erased_content",
        "records",
        ["content_mac"],
        unique=False,
        postgresql_where="erased_at IS NOT NULL",
    )
    op.create_index(
        "ix_records_subject_macs", "records", ["subject_macs"], unique=False, postgresql_using="gin"
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed', 'stopped')", name=op.f("ck_webhook_deliveries_state")
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_webhook_deliveries_endpoint_id")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["webhook_messages.id"], name=op.f("fk_webhook_deliveries_message_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint(
            "endpoint_id", "message_id", name=op.f("uq_webhook_deliveries_endpoint_id_message_id")
        ),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["next_at"],
        unique=False,
        postgresql_where="state = 'pending'",
    )
    op.create_index(
        "ix_webhook_deliveries_listed",
        "webhook_deliveries",
        ["endpoint_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_webhook_deliveries_message_id"), "webhook_deliveries", ["message_id"], unique=False
    )
    op.create_index(
        "ix_webhook_deliveries_order",
        "webhook_deliveries",
        ["endpoint_id", "subject", "seq"],
        unique=False,
        postgresql_where="state = 'pending'",
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_key", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_webhook_secrets_endpoint_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_secrets")),
    )
    op.create_index(op.f("ix_webhook_secrets_endpoint_id"), "webhook_secrets", ["endpoint_id"], unique=False)
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("record_id", sa.BigInteger(), nullable=True),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("placed_by", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "reason IN ('litigation', 'investigation', 'regulator', 'preservation_order')",
            name=op.f("ck_holds_reason"),
        ),
        sa.CheckConstraint("lifted_by IS NULL OR ended_at IS NOT NULL", name=op.f("ck_holds_ended")),
        sa.CheckConstraint(
            "lifted_by IS NULL OR lifted_by <> placed_by", name=op.f("ck_holds_second_person")
        ),
        sa.CheckConstraint(
            "num_nonnulls(request_id, record_id, model_id) = 1", name=op.f("ck_holds_one_subject")
        ),
        sa.ForeignKeyConstraint(["lifted_by"], ["principals.id"], name=op.f("fk_holds_lifted_by")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_holds_model_id")),
        sa.ForeignKeyConstraint(["placed_by"], ["principals.id"], name=op.f("fk_holds_placed_by")),
        sa.ForeignKeyConstraint(["record_id"], ["records.id"], name=op.f("fk_holds_record_id")),
        sa.ForeignKeyConstraint(["request_id"], ["erasure_requests.id"], name=op.f("fk_holds_request_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(op.f("ix_holds_model_id"), "holds", ["model_id"], unique=False)
    op.create_index(
        "ix_holds_open", "holds", ["expires_at"], unique=False, postgresql_where="ended_at IS NULL"
    )
    op.create_index(op.f("ix_holds_record_id"), "holds", ["record_id"], unique=False)
    op.create_index(op.f("ix_holds_request_id"), "holds", ["request_id"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=True),
        sa.Column("tensor_root", sa.Text(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("exact", sa.Boolean(), nullable=False),
        sa.Column("anchor_id", sa.Uuid(), nullable=True),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("delta", sa.Text(), nullable=True),
        sa.Column("curvature", sa.Text(), nullable=True),
        sa.Column("history", sa.Text(), nullable=True),
        sa.Column("history_condemned", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("erasure_epoch", sa.BigInteger(), nullable=False),
        sa.Column("statement", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("kills", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('preparing', 'candidate', 'live', 'quarantined', 'condemned', 'destroyed', 'failed')",
            name=op.f("ck_model_versions_state"),
        ),
        sa.ForeignKeyConstraint(
            ["anchor_id"], ["model_versions.id"], name=op.f("fk_model_versions_anchor_id")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_versions_model_id")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["model_versions.id"], name=op.f("fk_model_versions_parent_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_model_versions_model_id_number")),
    )
    op.create_table(
        "opendsr_callbacks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("results_count", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("expected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("ck_opendsr_callbacks_state")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed', 'cancelled')",
            name=op.f("ck_opendsr_callbacks_status"),
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["opendsr_requests.request_id"], name=op.f("fk_opendsr_callbacks_request_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_opendsr_callbacks")),
        sa.UniqueConstraint("request_id", "url", "seq", name=op.f("uq_opendsr_callbacks_request_id_url_seq")),
    )
    op.create_index(
        "ix_opendsr_callbacks_due",
        "opendsr_callbacks",
        ["next_at"],
        unique=False,
        postgresql_where="state = 'pending'",
    )
    op.create_table(
        "qualifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tests", sa.Integer(), nullable=False),
        sa.Column("sentinels", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("risk_upper", sa.Text(), nullable=False),
        sa.Column("rows_min", sa.Integer(), nullable=False),
        sa.Column("rows_max", sa.Integer(), nullable=False),
        sa.Column("jobs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("policy_digest", sa.Text(), nullable=False),
        sa.Column("through", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lapsed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lapse", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('admitted', 'refused', 'lapsed')", name=op.f("ck_qualifications_state")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_qualifications_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_qualifications")),
    )
    op.create_index(
        "one_admission_per_configuration",
        "qualifications",
        ["model_id", "configuration"],
        unique=True,
        postgresql_where="state = 'admitted'",
    )
    op.create_table(
        "record_exclusions",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("reason IN ('erased', 'withheld')", name=op.f("ck_record_exclusions_reason")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_record_exclusions_model_id")),
        sa.ForeignKeyConstraint(["record_id"], ["records.id"], name=op.f("fk_record_exclusions_record_id")),
        sa.PrimaryKeyConstraint("model_id", "record_id", name=op.f("pk_record_exclusions")),
    )
    op.create_table(
        "record_sketches",
        sa.Column("record_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bands", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.ForeignKeyConstraint(
            ["record_id"], ["records.id"], name=op.f("fk_record_sketches_record_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_record_sketches")),
    )
    op.create_index(
        "ix_record_sketches_bands",
        "record_sketches",
        ["bands"],
        unique=False,
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 64},
    )
    op.create_table(
        "reference_models",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("saw", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('ready', 'condemned', 'destroyed')", name=op.f("ck_reference_models_state")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_reference_models_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reference_models")),
    )
    op.create_index(
        "one_reference_per_shard",
        "reference_models",
        ["model_id", "shard"],
        unique=True,
        postgresql_where="state = 'ready'",
    )
    op.create_table(
        "request_proposals",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("near_id", sa.BigInteger(), nullable=True),
        sa.Column("jaccard", sa.Float(), nullable=True),
        sa.Column("found_by", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("mentions", sa.Integer(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("jaccard > 0 AND jaccard <= 1", name=op.f("ck_request_proposals_jaccard")),
        sa.CheckConstraint("num_nonnulls(near_id, found_by) > 0", name=op.f("ck_request_proposals_found")),
        sa.CheckConstraint("(near_id IS NULL) = (jaccard IS NULL)", name=op.f("ck_request_proposals_near")),
        sa.CheckConstraint(
            "(found_by IS NULL) = (mentions IS NULL)", name=op.f("ck_request_proposals_mentions")
        ),
        sa.CheckConstraint(
            "decision IS NULL OR decision IN ('adopted', 'declined')",
            name=op.f("ck_request_proposals_decision"),
        ),
        sa.CheckConstraint(
            "(decision IS NULL) = (decided_by IS NULL)", name=op.f("ck_request_proposals_decided_by")
        ),
        sa.ForeignKeyConstraint(
            ["decided_by"], ["principals.id"], name=op.f("fk_request_proposals_decided_by")
        ),
        sa.ForeignKeyConstraint(
            ["near_id"], ["records.id"], name=op.f("fk_request_proposals_near_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["record_id"], ["records.id"], name=op.f("fk_request_proposals_record_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["erasure_requests.id"],
            name=op.f("fk_request_proposals_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("request_id", "record_id", name=op.f("pk_request_proposals")),
    )
    op.create_table(
        "request_scans",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("datasets", postgresql.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("more", sa.Boolean(), nullable=False),
        sa.Column("waived", sa.Boolean(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'done')", name=op.f("ck_request_scans_state")),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["erasure_requests.id"],
            name=op.f("fk_request_scans_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_scans")),
    )
    op.create_index(
        "ix_request_scans_open",
        "request_scans",
        ["next_at"],
        unique=False,
        postgresql_where="state = 'open'",
    )
    op.create_table(
        "request_searches",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("record_set_hash", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("more", sa.Boolean(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'done', 'waived')", name=op.f("ck_request_searches_state")),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["erasure_requests.id"],
            name=op.f("fk_request_searches_request_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_request_searches")),
    )
    op.create_index(
        "ix_request_searches_open",
        "request_searches",
        ["next_at"],
        unique=False,
        postgresql_where="state = 'open'",
    )
    op.create_table(
        "request_records",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("record_id", sa.BigInteger(), nullable=False),
        sa.Column("exempt", sa.Text(), nullable=True),
        sa.Column("exempted_by", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "exempt IS NULL OR exempt IN ('17.3.a', '17.3.b', '17.3.c', '17.3.d', '17.3.e')",
            name=op.f("ck_request_records_exempt"),
        ),
        sa.CheckConstraint(
            "(exempt IS NULL) = (exempted_by IS NULL)", name=op.f("ck_request_records_exempted_by")
        ),
        sa.ForeignKeyConstraint(
            ["exempted_by"], ["principals.id"], name=op.f("fk_request_records_exempted_by")
        ),
        sa.ForeignKeyConstraint(["record_id"], ["records.id"], name=op.f("fk_request_records_record_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_request_records_request_id")
        ),
        sa.PrimaryKeyConstraint("request_id", "record_id", name=op.f("pk_request_records")),
    )
    op.create_table(
        "serving_replicas",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=True),
        sa.Column("publish_epoch", sa.BigInteger(), nullable=False),
        sa.Column("attestation", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_serving_replicas_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_serving_replicas")),
        sa.UniqueConstraint("model_id", "address", name=op.f("uq_serving_replicas_model_id_address")),
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_attempts")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("anchor_id", sa.Uuid(), nullable=True),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("candidate_id", sa.Uuid(), nullable=True),
        sa.Column("policy_digest", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("kills", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("history", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("progress", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("concluded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('erasure', 'compaction')", name=op.f("ck_jobs_kind")),
        sa.CheckConstraint(
            "stage IN ('plan', 'unlearn', 'verify', 'certify', 'publish', 'conclude', 'done')",
            name=op.f("ck_jobs_stage"),
        ),
        sa.CheckConstraint("state IN ('running', 'concluded', 'failed')", name=op.f("ck_jobs_state")),
        sa.ForeignKeyConstraint(["anchor_id"], ["model_versions.id"], name=op.f("fk_jobs_anchor_id")),
        sa.ForeignKeyConstraint(["candidate_id"], ["model_versions.id"], name=op.f("fk_jobs_candidate_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_jobs_model_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["model_versions.id"], name=op.f("fk_jobs_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "one_running_job", "jobs", ["model_id"], unique=True, postgresql_where="state = 'running'"
    )
    op.create_table(
        "publications",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("pae_sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=True),
        sa.Column("model_signature", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(envelope IS NULL) = (model_signature IS NULL)", name=op.f("ck_publications_signed")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_publications_model_id")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_publications_version_id")
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_publications")),
        sa.UniqueConstraint("pae_sha256", name=op.f("uq_publications_pae_sha256")),
    )
    op.create_index(
        "unsigned_publications",
        "publications",
        ["version_id"],
        unique=False,
        postgresql_where="envelope IS NULL",
    )
    op.create_table(
        "request_targets",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("engine_floor", sa.Text(), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("certificate_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("held", sa.Text(), nullable=True),
        sa.Column("on_hold", sa.Boolean(), nullable=False),
        sa.Column("released_by", sa.Uuid(), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "stage IN ('scheduled', 'unlearning', 'verifying', 'publishing', 'completed')",
            name=op.f("ck_request_targets_stage"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_request_targets_model_id")),
        sa.ForeignKeyConstraint(
            ["released_by"], ["principals.id"], name=op.f("fk_request_targets_released_by")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_request_targets_request_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_request_targets_version_id")
        ),
        sa.PrimaryKeyConstraint("request_id", "model_id", name=op.f("pk_request_targets")),
    )
    op.create_index(
        "unplanned",
        "request_targets",
        ["model_id"],
        unique=False,
        postgresql_where="job_id IS NULL AND stage = 'scheduled'",
    )
    op.create_table(
        "audits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("configuration", sa.Text(), nullable=False),
        sa.Column("causes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("decision", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("policy_digest", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("concluded_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'done') = (outcome IS NOT NULL)", name=op.f("ck_audits_outcome_when_done")
        ),
        sa.CheckConstraint(
            "outcome IN ('clean', 'suspected', 'withdrawn', 'insensitive')", name=op.f("ck_audits_outcome")
        ),
        sa.CheckConstraint("state IN ('due', 'done', 'void')", name=op.f("ck_audits_state")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_audits_job_id")),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_audits_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
        sa.UniqueConstraint("job_id", "attempt", name=op.f("uq_audits_job_id_attempt")),
    )
    op.create_table(
        "certificates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("pae_sha256", sa.Text(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("opening", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "issued_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("supersedes_id", sa.Uuid(), nullable=True),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revocation", sa.Text(), nullable=True),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("stamp_ed25519", sa.LargeBinary(), nullable=True),
        sa.Column("stamp_p256", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "state IN ('issued', 'released', 'superseded', 'revoked')", name=op.f("ck_certificates_state")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_certificates_job_id")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_certificates_model_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_certificates_request_id")
        ),
        sa.ForeignKeyConstraint(
            ["supersedes_id"], ["certificates.id"], name=op.f("fk_certificates_supersedes_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_certificates_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
        sa.UniqueConstraint("pae_sha256", name=op.f("uq_certificates_pae_sha256")),
        sa.UniqueConstraint(
            "request_id",
            "model_id",
            "job_id",
            "attempt",
            name=op.f("uq_certificates_request_id_model_id_job_id_attempt"),
        ),
    )
    op.create_index(
        "one_current_certificate",
        "certificates",
        ["request_id", "model_id"],
        unique=True,
        postgresql_where="state = 'released'",
    )
    op.create_table(
        "job_covers",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_covers_job_id")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_job_covers_request_id")
        ),
        sa.PrimaryKeyConstraint("job_id", "request_id", name=op.f("pk_job_covers")),
    )
    op.create_table(
        "job_steps",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("lease_epoch", sa.BigInteger(), nullable=False),
        sa.Column("output", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_steps_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_steps")),
        sa.UniqueConstraint("job_id", "attempt", "stage", name=op.f("uq_job_steps_job_id_attempt_stage")),
    )
    op.create_table(
        "measurements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("moment", sa.Text(), nullable=False),
        sa.Column("form", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_measurements_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
        sa.UniqueConstraint(
            "job_id", "attempt", "moment", "form", name=op.f("uq_measurements_job_id_attempt_moment_form")
        ),
    )
    op.create_table(
        "verdicts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("policy_digest", sa.Text(), nullable=False),
        sa.Column("decision", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("verdict IN ('V', 'I', 'N', 'F')", name=op.f("ck_verdicts_verdict")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_verdicts_job_id")),
        sa.ForeignKeyConstraint(["request_id"], ["erasure_requests.id"], name=op.f("fk_verdicts_request_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdicts")),
        sa.UniqueConstraint(
            "job_id", "attempt", "request_id", name=op.f("uq_verdicts_job_id_attempt_request_id")
        ),
    )
    op.create_table(
        "imports",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("submitted_by", sa.Uuid(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("created", sa.Integer(), nullable=False),
        sa.Column("duplicate", sa.Integer(), nullable=False),
        sa.Column("invalid", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("format IN ('ndjson', 'csv')", name=op.f("ck_imports_format")),
        sa.CheckConstraint("state IN ('working', 'done')", name=op.f("ck_imports_state")),
        sa.ForeignKeyConstraint(["submitted_by"], ["principals.id"], name=op.f("fk_imports_submitted_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
    )
    op.create_index("ix_imports_created", "imports", ["created_at", "id"], unique=False)
    op.create_index("ix_imports_fingerprint", "imports", ["submitted_by", "fingerprint"], unique=False)
    op.create_index(
        "ix_imports_working", "imports", ["touched_at"], unique=False, postgresql_where="state = 'working'"
    )
    op.create_table(
        "import_rows",
        sa.Column("import_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("errors", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("subject_macs", postgresql.ARRAY(sa.LargeBinary()), nullable=True),
        sa.Column("dataset", sa.Text(), nullable=True),
        sa.Column("record_ids", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("external_ref", sa.Text(), nullable=True),
        sa.Column("vouched", sa.Boolean(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "outcome = 'pending' OR num_nonnulls(subject_macs, dataset, record_ids) = 0",
            name=op.f("ck_import_rows_forgotten"),
        ),
        sa.CheckConstraint(
            "outcome IN ('pending', 'created', 'duplicate', 'invalid')", name=op.f("ck_import_rows_outcome")
        ),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name=op.f("fk_import_rows_import_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["erasure_requests.id"], name=op.f("fk_import_rows_request_id")
        ),
        sa.PrimaryKeyConstraint("import_id", "number", name=op.f("pk_import_rows")),
    )
    op.create_index(
        "ix_import_rows_pending",
        "import_rows",
        ["import_id", "number"],
        unique=False,
        postgresql_where="outcome = 'pending'",
    )
    op.create_index(op.f("ix_import_rows_request_id"), "import_rows", ["request_id"], unique=False)
    op.create_table(
        "suppressions",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=True),
        sa.Column("record_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["record_id"], ["records.id"], name=op.f("fk_suppressions_record_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_suppressions")),
        sa.UniqueConstraint("record_id", name=op.f("uq_suppressions_record_id")),
    )
    op.create_index(op.f("ix_suppressions_mac"), "suppressions", ["mac"], unique=False)
    # Each of the two tables points at the other; this half comes once both exist.
    op.create_foreign_key(
        "fk_models_live_version_id", "models", "model_versions", ["live_version_id"], ["id"]
    )
    # What happened, happened: not even the owner of the tables edits the chain by mistake.
    op.execute("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'))")
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    # Four eyes, whatever a program believes: nobody approves their own, nor another set than is bound.
    op.execute(
        "CREATE FUNCTION second_person() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM FROM erasure_requests r WHERE r.id = NEW.request_id"
        " AND r.submitted_by <> NEW.approver_id AND r.record_set_hash = NEW.record_set_hash FOR SHARE;"
        " IF NOT FOUND THEN RAISE EXCEPTION 'an approval is a second person''s, of the current set'; END IF;"
        " IF NOT EXISTS (SELECT FROM principals p WHERE p.id = NEW.approver_id AND p.kind = 'person')"
        " THEN RAISE EXCEPTION 'an approval is a person''s'; END IF;"
        " IF EXISTS (SELECT FROM request_records e WHERE e.request_id = NEW.request_id"
        " AND e.exempted_by = NEW.approver_id)"
        " THEN RAISE EXCEPTION 'an approval is not of one''s own exemption'; END IF;"
        " IF EXISTS (SELECT FROM api_keys k WHERE k.principal_id = NEW.approver_id"
        " AND k.revoked_at IS NULL AND k.scopes ? 'keys:manage')"
        " OR EXISTS (SELECT FROM principals p WHERE p.id = NEW.approver_id AND p.manages_keys)"
        " THEN RAISE EXCEPTION 'who hands out keys does not approve'; END IF;"
        " RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER second_person BEFORE INSERT OR UPDATE ON approvals"
        " FOR EACH ROW EXECUTE FUNCTION second_person()"
    )
    # A checkpoint is committed, then signed, then published; what it states never changes.
    op.execute(
        "CREATE FUNCTION only_go_on() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (NEW.size, NEW.root, NEW.body) IS DISTINCT FROM (OLD.size, OLD.root, OLD.body)"
        " OR (OLD.note IS NOT NULL AND NEW.note IS DISTINCT FROM OLD.note)"
        " OR (OLD.state, NEW.state) NOT IN (('committed', 'signed'), ('signed', 'published'))"
        " THEN RAISE EXCEPTION 'a checkpoint only goes on'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER only_go_on BEFORE UPDATE ON log_checkpoints"
        " FOR EACH ROW EXECUTE FUNCTION only_go_on()"
    )
    op.execute(
        "CREATE TRIGGER stay BEFORE DELETE OR TRUNCATE ON log_checkpoints"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    """Take it back."""
    op.execute("DROP TRIGGER stay ON log_checkpoints")
    op.execute("DROP TRIGGER only_go_on ON log_checkpoints")
    op.execute("DROP FUNCTION only_go_on()")
    op.execute("DROP TRIGGER second_person ON approvals")
    op.execute("DROP FUNCTION second_person()")
    for table in APPEND_ONLY:
        op.execute(f"DROP TRIGGER append_only ON {table}")
    op.execute("DROP FUNCTION refuse_change()")
    op.drop_constraint("fk_models_live_version_id", "models")
    op.drop_index(op.f("ix_suppressions_mac"), table_name="suppressions")
    op.drop_table("suppressions")
    op.drop_table("import_rows")
    op.drop_table("imports")
    op.drop_table("verdicts")
    op.drop_table("measurements")
    op.drop_table("job_steps")
    op.drop_table("job_covers")
    op.drop_index("one_current_certificate", table_name="certificates", postgresql_where="state = 'released'")
    op.drop_table("certificates")
    op.drop_table("audits")
    op.drop_index(
        "unplanned", table_name="request_targets", postgresql_where="job_id IS NULL AND stage = 'scheduled'"
    )
    op.drop_table("request_targets")
    op.drop_index("unsigned_publications", table_name="publications", postgresql_where="envelope IS NULL")
    op.drop_table("publications")
    op.drop_index("one_running_job", table_name="jobs", postgresql_where="state = 'running'")
    op.drop_table("jobs")
    op.drop_table("webhook_attempts")
    op.drop_table("serving_replicas")
    op.drop_table("request_records")
    op.drop_index(
        "ix_request_searches_open", table_name="request_searches", postgresql_where="state = 'open'"
    )
    op.drop_table("request_searches")
    op.drop_index("ix_request_scans_open", table_name="request_scans", postgresql_where="state = 'open'")
    op.drop_table("request_scans")
    op.drop_table("request_proposals")
    op.drop_index("ix_record_sketches_bands", table_name="record_sketches", postgresql_using="gin")
    op.drop_table("record_sketches")
    op.drop_index(
        "one_reference_per_shard", table_name="reference_models", postgresql_where="state = 'ready'"
    )
    op.drop_table("reference_models")
    op.drop_table("record_exclusions")
    op.drop_index(
        "one_admission_per_configuration", table_name="qualifications", postgresql_where="state = 'admitted'"
    )
    op.drop_table("qualifications")
    op.drop_index(
        "ix_opendsr_callbacks_due", table_name="opendsr_callbacks", postgresql_where="state = 'pending'"
    )
    op.drop_table("opendsr_callbacks")
    op.drop_table("model_versions")
    op.drop_index(op.f("ix_holds_request_id"), table_name="holds")
    op.drop_index(op.f("ix_holds_record_id"), table_name="holds")
    op.drop_index("ix_holds_open", table_name="holds", postgresql_where="ended_at IS NULL")
    op.drop_index(op.f("ix_holds_model_id"), table_name="holds")
    op.drop_table("holds")
    op.drop_index(op.f("ix_webhook_secrets_endpoint_id"), table_name="webhook_secrets")
    op.drop_table("webhook_secrets")
    op.drop_index(
        "ix_webhook_deliveries_order", table_name="webhook_deliveries", postgresql_where="state = 'pending'"
    )
    op.drop_index(op.f("ix_webhook_deliveries_message_id"), table_name="webhook_deliveries")
    op.drop_index("ix_webhook_deliveries_listed", table_name="webhook_deliveries")
    op.drop_index(
        "ix_webhook_deliveries_due", table_name="webhook_deliveries", postgresql_where="state = 'pending'"
    )
    op.drop_table("webhook_deliveries")
    op.drop_index("ix_records_subject_macs", table_name="records", postgresql_using="gin")
    op.drop_index("ix_records_erased_content", table_name="records", postgresql_where="erased_at IS NOT NULL")
    op.drop_index("ix_records_dataset_external", table_name="records")
    op.drop_index("ix_records_dataset_cluster", table_name="records")
    op.drop_index("ix_records_content_mac", table_name="records")
    op.drop_table("records")
    op.drop_table("opendsr_requests")
    op.drop_table("models")
    op.drop_index("ix_identity_knocks_address", table_name="identity_knocks")
    op.drop_index(op.f("ix_identity_knocks_at"), table_name="identity_knocks")
    op.drop_table("identity_knocks")
    op.drop_index(
        "ix_identity_challenges_due",
        table_name="identity_challenges",
        postgresql_where="sent_at IS NULL AND ended_at IS NULL",
    )
    op.drop_index(
        "one_open_code",
        table_name="identity_challenges",
        postgresql_where="code_mac IS NOT NULL AND ended_at IS NULL",
    )
    op.drop_index(op.f("ix_identity_challenges_request_id"), table_name="identity_challenges")
    op.drop_table("identity_challenges")
    op.drop_index("one_open_pause", table_name="clock_pauses", postgresql_where="answered_on IS NULL")
    op.drop_index(op.f("ix_clock_pauses_request_id"), table_name="clock_pauses")
    op.drop_table("clock_pauses")
    op.drop_table("approvals")
    op.drop_table("webhook_endpoints")
    op.drop_table("log_cosignatures")
    op.drop_table("idempotency_keys")
    op.drop_index(op.f("ix_request_secrets_epoch_id"), table_name="request_secrets")
    op.drop_table("request_secrets")
    op.drop_table("key_epochs")
    op.drop_index(
        "uq_erasure_requests_external",
        table_name="erasure_requests",
        postgresql_where="external_ref IS NOT NULL",
    )
    op.drop_index(
        "ix_erasure_requests_unpurged",
        table_name="erasure_requests",
        postgresql_where="concluded_at IS NOT NULL AND purged_at IS NULL",
    )
    op.drop_index("ix_erasure_requests_subject_macs", table_name="erasure_requests", postgresql_using="gin")
    op.drop_index(
        "ix_erasure_requests_due", table_name="erasure_requests", postgresql_where="concluded_at IS NULL"
    )
    op.drop_index("ix_erasure_requests_created", table_name="erasure_requests")
    op.drop_table("erasure_requests")
    op.drop_table("datasets")
    op.drop_index(op.f("ix_logins_expires_at"), table_name="logins")
    op.drop_table("logins")
    op.drop_index(
        "ix_person_sessions_open", table_name="person_sessions", postgresql_where="ended_at IS NULL"
    )
    op.drop_index("ix_person_sessions_created", table_name="person_sessions")
    op.drop_table("person_sessions")
    op.drop_table("api_keys")
    op.drop_table("webhook_messages")
    op.drop_index(op.f("ix_status_lists_produced_at"), table_name="status_lists")
    op.drop_table("status_lists")
    op.drop_table("principals")
    op.drop_index(op.f("ix_outbox_rung_at"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_index("unsequenced", table_name="log_outbox", postgresql_where=sa.text("idx IS NULL"))
    op.drop_table("log_outbox")
    op.drop_table("log_nodes")
    op.drop_table("log_leaves")
    op.drop_table("log_checkpoints")
    op.drop_table("event_cursors")
    op.drop_table("stated_heads")
    op.drop_table("audit_checks")
    op.drop_table("audit_head")
    op.drop_index(op.f("ix_audit_events_subject_id"), table_name="audit_events")
    op.drop_index(op.f("ix_audit_events_kind"), table_name="audit_events")
    op.drop_table("audit_events")
