"""Erasure requests over HTTP: one router per kind of call, each with its own file.

requests    receive, read, list, search, and what is read of one request
decisions   resolve, approve, send back, exempt, withdraw, reject, release
clock       proof of identity, pauses, extension
holds       place, list, lift
"""
