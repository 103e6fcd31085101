"""Stages in order: which there are (`graph`), which are stale (`planner`), running them (`runner`)."""
