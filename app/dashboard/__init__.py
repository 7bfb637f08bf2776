"""What is read across all domains: how requests stand, how long each step takes, what is stuck.

Read-only SQL over everything (`queries`), for people (`/v1/stats`, `lethe stats`) and for machines
(`/metrics`). Whoever asks counts anew: there is no gauge to go stale, and no process that must be
reached, as every fact lies in Postgres. Nothing here knows an id of a person or of a request.
"""
