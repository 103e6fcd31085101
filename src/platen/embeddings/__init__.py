"""Vectors of whole corpora: one interface over all models, a cache, a file that knows its model, a map of it."""
