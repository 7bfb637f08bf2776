"""Whatever touches weights, and the processes that watch over it.

`pipeline.py` tells the story of a job from top to bottom; `unlearning/` is a library of its own.
"""
