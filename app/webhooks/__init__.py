"""Telling others what happened: Standard Webhooks 1.0, read from the audit sequence by cursor.

    audit sequence ──tell──▶ message, one delivery per endpoint that wants it ──deliver──▶ 2xx
                                          │ failed: again after 5 s, 5 min ... 24 h     410: disabled
                                          ▼
                             pending ─▶ delivered | failed | stopped ─▶ pending (asked for again)

Terms: an *endpoint* is a URL with the kinds it wants and keys of its own; a *message* is one event with
an id that never changes; a *delivery* is one message to one endpoint; an *attempt* is one call. At
least once: a receiver that sees an id again has it already. Events about one thing reach an endpoint
in their order. A message holds public ids and codes, never anything about a person. Whoever records
an event does not know that anybody is told.
"""
