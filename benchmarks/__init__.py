"""What it costs, and what it reaches: every number with machine, commit and seeds, beside a baseline.

A benchmark may use the unlearning library and the judge; the service it starts by command line.
"""
