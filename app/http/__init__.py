"""The HTTP door: what every endpoint shares, and nothing of any domain.

- middleware    request id, access log, a bound on the body
- routing       the route class: keeps the receipt of a call that must not run twice
- dependencies  session, clock, settings, keys
- problems      the one map from errors to RFC 9457
- grouping      calls that come at once are done together
- idempotency   R18;  pagination: keyset cursors;  ids: public ids
- streaming     answers longer than memory should be;  cells: CSV that no spreadsheet computes
- preconditions which version a caller has seen;  watching, hub: waiting for the next one
"""
