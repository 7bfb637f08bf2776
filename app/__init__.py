"""Lethe's service: requests, records, verdicts, certificates.

Everything here runs without a GPU and never imports torch or `workers`, so the image that answers
HTTP stays small and whoever doubts a verdict can recompute it on a laptop.
"""
