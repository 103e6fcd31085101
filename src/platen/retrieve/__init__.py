"""Vectors of whole corpora: one interface over all models, a cache, files that know their model, a map."""
