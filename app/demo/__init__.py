"""The demo: fictitious people, a model that recites them, three requests, and what is left after.

    people.py   who they are (pure; the benchmarks use them too)
    base.py     a model's shape and its tokenizer, learned from other people
    asking.py   a client that keeps asking while the served model is swapped
    caller.py   the callers, each with a key of its own
    findings.py what the served model gives away, before and after
    checking.py a bundle, taken once and checked offline
    walk.py     `lethe demo`: the story, in order

Why over HTTP: the demo is a caller like any other. What it shows, a customer could do.
"""
