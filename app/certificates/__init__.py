"""Certificates: what is said about one request and one model, and how anybody checks it offline.

    facts ──statement──▶ JCS ──DSSE, two keys──▶ envelope ──bundle──▶ lethe-<uuid>.zip ──check──▶ report
    records ──commitments──▶ root in the statement, opening for the requester alone

Terms: a *certificate* is the signed statement; its identity is the SHA-256 of what was signed. A
*commitment* hides a record until its *opening* shows it. A *level* is how much is claimed, never more
than the method's class allows. `FORMAT.md` is the format; `check.py` is one file anybody can run.
"""
