"""The demo: fictitious people, a model that recites them, three requests, and what is left after.

    people.py   who they are (pure; the benchmarks use them too)
    base.py     a model's shape and its tokenizer, learned from other people
    asking.py   a client that keeps asking while the served model is swapped
    walk.py     `lethe demo`: the callers, in order, and what each of them sees

Why over HTTP: the demo is a caller like any other. What it shows, a customer could do.
"""
