"""Artifact kinds that several packages read: each module alone knows its kind's file names."""
