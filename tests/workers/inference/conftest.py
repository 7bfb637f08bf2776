"""Fixtures that load torch, for these tests alone."""

from tests.fixtures.models import adopted, directories, order, replica, serve, start, store, tokenizer

__all__ = ["adopted", "directories", "order", "replica", "serve", "start", "store", "tokenizer"]
