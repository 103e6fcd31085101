"""Coroutine tests run here as those of the engines do."""

from __future__ import annotations

from tests.engines.conftest import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
