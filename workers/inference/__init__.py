"""The native model server: holds the live version of each model line and swaps without mixing two.

    python -m workers.inference.server      public OpenAI-compatible API, and an admin socket on loopback

Terms: a *slot* is one version in memory, a *line* is what a model's name stands for, a *lease* is one
request's hold on one slot. A line has up to three slots at a time:

    load ──> standby ──swap──> live ──(next swap)──> previous ──drain──> freed

Why a request can never be answered by two versions: it takes its lease once, from one pointer, and is
computed wholly by the leased slot, prompt and all. Why nothing of an erased version outlives it: the
KV cache is made for one request by one slot and dropped at its last token. There is no cache shared
between requests, so there is none to clear at a swap, and none that one could forget to clear.

This package can serve a model and cannot change it: it knows neither engines, training nor database.
"""
