"""Platen: from raw text to a language model in production."""

__version__ = "0.1.0"
