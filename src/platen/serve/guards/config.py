"""The project file's `serve.guards`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from platen.core.config import PathInFile, Section, Text
from platen.scan.config import GuardMask, SecretKind

GuardAction = Literal["off", "log", "mask", "refuse"]


class InjectionGuard(Section):
    """Looks in what comes in for attempts to turn the model against its instructions."""

    input: Literal["off", "log", "refuse"] = "off"
    """What is done: `log` only says so."""
    threshold: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Weight of clues from which it acts; lower finds more, and more that is harmless."""


class SecretsGuard(Section):
    """Looks for secrets and personal data."""

    input: GuardAction = "off"
    """In what comes in, and in what a gateway sends to others."""
    output: GuardAction = "off"
    """In answers."""
    kinds: Annotated[tuple[SecretKind, ...], Field(min_length=1)] = get_args(SecretKind)
    """Which kinds."""
    mask: GuardMask = "label"
    """What `mask` puts in its place: `[EMAIL]`, `[EMAIL:1f3a9c02]` (equal for equal secrets), or nothing."""


class BlocklistGuard(Section):
    """Looks for words and patterns of your own."""

    input: GuardAction = "off"
    """In what comes in."""
    output: GuardAction = "off"
    """In answers."""
    words: Text | None = None
    """A file with a word or phrase a line, without wildcards, `#` before comments; case, accents and
    look-alike letters make no difference."""
    patterns: Text | None = None
    """A file with a regular expression a line, `#` before comments; what repeats must be bounded."""

    def located(self, directory: Path) -> BlocklistGuard:
        """With paths as seen from anywhere; in the file they are relative to its `directory`."""
        files = {"words": self.words, "patterns": self.patterns}
        found = {key: str(directory / name) for key, name in files.items() if name is not None}
        return self.model_copy(update=found)

    def paths(self) -> Iterator[PathInFile]:
        if self.words is not None:
            yield PathInFile("words", self.words, "block list", self)
        if self.patterns is not None:
            yield PathInFile("patterns", self.patterns, "patterns", self)

    @model_validator(mode="after")
    def _has_a_list(self) -> BlocklistGuard:
        if (self.input, self.output) != ("off", "off") and self.words is None and self.patterns is None:
            raise ValueError("a block list needs a file: words or patterns")
        return self


class CanaryGuard(Section):
    """Puts a secret mark into system prompts and looks for it in answers."""

    output: Literal["off", "log", "refuse"] = "off"
    """What is done with an answer that has it."""


class GuardsConfig(Section):
    """What may not go into the model or come out of it. All guards are off until they are asked for."""

    injection: InjectionGuard = InjectionGuard()
    """Prompt injection."""
    secrets: SecretsGuard = SecretsGuard()
    """Secrets and personal data."""
    blocklist: BlocklistGuard = BlocklistGuard()
    """Your own lists."""
    canary: CanaryGuard = CanaryGuard()
    """Leaks of the system prompt."""
    on_input: Literal["error", "refusal"] = "error"
    """A refused request gets an error (400, content_filter), or an answer that is a refusal."""
