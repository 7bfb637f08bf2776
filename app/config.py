"""Where things are and how long to wait: the settings, read once by a composition root.

Why so: a setting never says what is right. Thresholds, batch limits and the order of engines are
versioned policies whose digests enter the certificate (`app/verification/policies`,
`app/jobs/policies`). No secret is a setting; secrets are files in the keyring directory.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_home() -> Path:
    """Return where data lives unless told otherwise: the XDG data directory, as root /var/lib."""
    if os.geteuid() == 0:
        return Path("/var/lib/lethe")
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "lethe"


class Settings(BaseSettings):
    """Every setting of every process, from `LETHE_...` environment variables.

    Unset URLs mean the embedded part: `lethe up` starts it and passes its address on.
    """

    model_config = SettingsConfigDict(env_prefix="LETHE_", frozen=True, extra="ignore")

    profile: Literal["embedded", "production"] = "embedded"
    home: Path = Field(default_factory=default_home)
    database_url: str | None = None
    database_owner_url: str | None = None
    """The same database as who owns its tables: what `lethe migrate` connects as, and nothing else."""
    redis_url: str | None = None
    model_server_url: str | None = None
    model_admin_url: str | None = None
    storage_url: str | None = None
    keyring: Path | None = None
    public_url: str = "http://127.0.0.1:8000"
    host: str = "127.0.0.1"
    port: PositiveInt = 8000
    model_port: PositiveInt = 8001
    model_admin_port: PositiveInt = 8002
    requests_policy: str = "default"
    """Which of `app/erasure/policies` new requests come in under."""
    jurisdiction: str = "EU"
    """Whose holidays count: `EU`, a country (`DE`), or a part of one (`DE-BY`)."""
    time_zone: str = "UTC"
    outbound_hosts: str = ""
    """Of a closed network: the hosts that webhooks and callbacks go to, and no others (`a.example,10.0.0.7`).
    Unset, they go to public addresses by https."""
    outbound_authorities: Path | None = None
    """Certificates (PEM) of authorities that are trusted there besides the public ones."""
    opendsr_domain: str | None = None
    """The domain that OpenDSR answers for; unset, it is off."""
    opendsr_key: Path | None = None
    opendsr_chain: Path | None = None
    """Its RSA key and the certificates from its own to its authority's (PEM)."""
    opendsr_regulation_required: bool = True
    opendsr_legacy_names: bool = False
    """Also answer under the names of OpenGDPR, by which the protocol went before."""
    oidc_issuer: str | None = None
    """The identity provider whose access tokens count beside API keys, by its `iss`; unset: none."""
    oidc_audience: str | None = None
    """What their `aud` must name; unset, the public URL."""
    oidc_keys_url: str | None = None
    """Its JWK set; unset, where its OpenID Connect description says."""
    oidc_typ: str = "at+jwt"
    """What their `typ` must be (RFC 9068); empty for providers that leave it out."""
    oidc_roles_claim: str = "roles"
    oidc_name_claim: str = "preferred_username"
    oidc_person_claim: str = "auth_time"
    """The claim that people's tokens bear and machines' do not: only a person approves."""
    oidc_client_id: str | None = None
    """Who we are to it when a person logs in with a browser; unset, nobody does."""
    oidc_client_secret: Path | None = None
    """A file with the secret of that client; unset, it has none, and PKCE alone binds the code."""
    oidc_scope: str = "openid profile"
    """What is asked for then; some providers put roles into the ID token only for a scope of their own."""
    session_idle_minutes: PositiveInt = 30
    session_hours: PositiveInt = 8
    """How long a person stays logged in: unused, and at all."""
    logins_per_minute: PositiveInt = 30
    """Of each address; one too many is answered 429."""
    smtp_url: str | None = None
    """What sends one-time codes to people (`smtps://user@host`); unset, an officer proves who they are."""
    smtp_from: str | None = None
    smtp_password: Path | None = None
    """A file with the password of the user in that URL."""
    issuer: str = "https://issuer.example"
    tsa_url: str | None = None
    """A time stamp authority (RFC 3161) that is asked to stamp each certificate; none unless named."""
    tsa_roots: Path | None = None
    """The roots under which its word counts: PEM."""
    reads_per_minute: PositiveInt = 600
    writes_per_minute: PositiveInt = 120
    """Of each caller; one too many is answered 429."""
    tracing: bool = False
    """OpenTelemetry spans of calls, to where its own variables say; needs the extra `tracing`."""
    body_bytes_max: PositiveInt = 2 * 1024 * 1024
    imports_per_hour: PositiveInt = 10
    import_bytes_max: PositiveInt = 16 * 1024 * 1024
    import_rows_max: PositiveInt = 10_000
    """Of each caller; of each file of requests."""
    lease_seconds: PositiveFloat = 60
    lease_renew_seconds: PositiveFloat = 15
    sweep_seconds: PositiveFloat = 30
    beat_seconds: PositiveFloat = 10
    drain_seconds: PositiveFloat = 120
    stage_attempts_max: PositiveInt = 3
    stage_kills_max: PositiveInt = 12
    """A stage that is killed is tried again; but not for ever, as memory may be what it lacks."""
    parallel_runs: PositiveInt = Field(default_factory=lambda: max(1, os.cpu_count() or 1))

    @property
    def keys(self) -> Path:
        """Return the keyring directory (0700; every file in it 0600)."""
        return self.keyring or self.home / "keys"

    @property
    def epochs(self) -> Path:
        """Return the directory of the weekly keys, under which what is known of people lies sealed."""
        return self.keys / "epochs"

    @property
    def storage(self) -> str:
        """Return the URL of the content-addressed store."""
        return self.storage_url or (self.home / "store").resolve().as_uri()

    @property
    def work(self) -> Path:
        """Return the directory for the files of running jobs; emptied when a job concludes."""
        return self.home / "work"
