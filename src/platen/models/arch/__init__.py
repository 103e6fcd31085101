"""One decoder for all open model families: a config dataclass, its network, a table per family."""
