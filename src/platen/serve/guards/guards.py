"""The guards of one server, as its project file has them: over what comes in and what goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from platen.scan.config import GuardMask
from platen.scan.lists import read_lines, read_words
from platen.scan.screen import Blocked, Scanner, Screen
from platen.scan.secrets import Secrets
from platen.scan.words import Words
from platen.serve.guards.actions import Direction, GuardRefusal, Origin, Report, acting
from platen.serve.guards.canary import Canary
from platen.serve.guards.config import BlocklistGuard, GuardAction, GuardsConfig
from platen.serve.guards.injection import suspicion
from platen.serve.guards.patterns import Patterns
from platen.serve.metrics import Metrics

T = TypeVar("T")
Message = dict[str, Any]

LONG_TEXT = 5_000
"""Characters from which texts are checked on a thread."""

PIECE = 16_384
"""Characters of a text scanned in one go: one search of a pattern keeps every other thread waiting."""

READ = ("content", "tool_calls", "reasoning_content")
"""Of a message, what is looked over."""

TRUSTED = ("system", "developer")
"""Roles whose text is the operator's own: not looked over for injection."""


@dataclass(frozen=True)
class _Use:
    """A scanner, and what is done about its findings in each direction."""

    scanner: Scanner
    input: GuardAction
    output: GuardAction
    mask: GuardMask = "label"


class Guards:
    """All guards. Those that are off cost nothing."""

    def __init__(self, config: GuardsConfig, metrics: Metrics) -> None:
        """Raises ConfigError when a list can't be read."""
        self._metrics = metrics
        self._injection = config.injection
        self._canary = None if config.canary.output == "off" else Canary()
        self.answers_refusals = config.on_input == "refusal"
        """A refused request is answered with a refusal, not with an error."""
        secrets, lists = config.secrets, config.blocklist
        uses = [_Use(scanner, lists.input, lists.output) for scanner in _listed(lists)]
        if self._canary is not None:
            uses.insert(0, _Use(self._canary, "off", config.canary.output))
        uses.append(_Use(Secrets(secrets.kinds), secrets.input, secrets.output, secrets.mask))
        sure: GuardAction = "refuse" if secrets.input == "refuse" else "mask"
        self._leaving = [use for use in [*uses[:-1], replace(uses[-1], input=sure)] if use.input != "off"]
        self._inward = [use for use in uses if use.input != "off"]
        self._outward = [use for use in uses if use.output != "off"]

    @property
    def screens_output(self) -> bool:
        return bool(self._outward)

    def redact(self, text: str, origin: Origin) -> str:
        """A text that is sent out to a vendor's model. Raises GuardRefusal.

        Whatever `secrets.input` says, secrets are masked if they are not refused.
        """
        report = Report(self._metrics, origin, "input")
        self._suspect(text, report)
        return _scanned(text, self._leaving, report)

    def prompt(self, text: str, origin: Origin) -> str:
        """A text that a model here is to continue. Raises GuardRefusal."""
        report = Report(self._metrics, origin, "input")
        self._suspect(text, report)
        return _scanned(text, self._inward, report)

    def chat(self, messages: Sequence[Message], origin: Origin) -> list[Message]:
        """A conversation for a model here, its system prompt with the canary. Raises GuardRefusal."""

        def scanned(value: Any) -> Any:
            if isinstance(value, str):
                return _scanned(value, self._inward, Report(self._metrics, origin, "input"))
            if isinstance(value, list):
                return [scanned(item) for item in value]
            return {key: scanned(item) for key, item in value.items()} if isinstance(value, dict) else value

        kept = []
        for message in messages:
            if message["role"] not in TRUSTED:
                for text in (message["content"], message.get("reasoning_content") or ""):
                    self._suspect(text, Report(self._metrics, origin, "input"))
            # An assistant's reasoning and its calls' arguments are text that the model reads, too.
            kept.append({key: scanned(value) if key in READ else value for key, value in message.items()})
        if self._canary is not None and kept[0]["role"] in TRUSTED:
            kept[0]["content"] = self._canary.marked(kept[0]["content"])
        return kept

    def incoming(self, origin: Origin) -> Incoming | None:
        """Looks over the texts of one request; None when there is nothing to do."""
        idle = self._injection.input == "off" and self._canary is None and not self._inward
        return None if idle else Incoming(self, origin)

    def outgoing(self, origin: Origin) -> Outgoing:
        """Looks over one answer as it is written."""
        report = Report(self._metrics, origin, "output")
        return Outgoing(_screens(self._outward, report), report.direction)

    def _suspect(self, text: str, report: Report) -> None:
        """Raises GuardRefusal when a text looks like injection and that is refused."""
        if self._injection.input == "off":
            return
        found = suspicion(text)
        if found.score >= self._injection.threshold:
            for rule in found.rules:
                report.found("injection", rule, self._injection.input, first=True, score=found.score)
            if self._injection.input == "refuse":
                raise GuardRefusal("injection", "input")


class Incoming:
    """Looks over the texts of one request; long ones on a thread, so that other streams go on meanwhile.

    Each method gives the texts and, if the request is refused and such requests are answered, the refusal;
    else it raises GuardRefusal.
    """

    def __init__(self, guards: Guards, origin: Origin) -> None:
        self._guards, self._origin = guards, origin

    async def prompts(self, texts: Sequence[str]) -> tuple[list[str], str | None]:
        """Texts to continue."""
        return await self._checked(list(texts), sum(map(len, texts)), lambda: self._prompts(texts))

    async def inputs(self, texts: Sequence[str]) -> list[str]:
        """Texts that are not continued, such as those to embed. Raises GuardRefusal for any refusal."""
        return await self._done(sum(map(len, texts)), lambda: self._prompts(texts))

    async def chat(self, messages: list[Message]) -> tuple[list[Message], str | None]:
        """A conversation."""
        return await self._checked(
            messages,
            sum(len(str(message)) for message in messages),
            lambda: self._guards.chat(messages, self._origin),
        )

    async def _checked(
        self, given: list[T], size: int, work: Callable[[], list[T]]
    ) -> tuple[list[T], str | None]:
        try:
            return await self._done(size, work), None
        except GuardRefusal as refusal:
            if not self._guards.answers_refusals:
                raise
            return given, refusal.message

    async def _done(self, size: int, work: Callable[[], list[T]]) -> list[T]:
        return work() if size < LONG_TEXT else await asyncio.to_thread(work)

    def _prompts(self, texts: Sequence[str]) -> list[str]:
        return [self._guards.prompt(text, self._origin) for text in texts]


class Outgoing:
    """One text through all screens, piece by piece."""

    def __init__(self, screens: Sequence[tuple[str, Screen]], direction: Direction) -> None:
        self._screens, self._direction = screens, direction

    def push(self, piece: str) -> str:
        """What of the text so far can go on. Raises GuardRefusal with the last of it."""
        return self._through(0, piece, last=False) if piece else ""

    def finish(self) -> str:
        """The text is over: what was held back. Raises GuardRefusal with the last of it."""
        return self._through(0, "", last=True)

    def _through(self, first: int, text: str, *, last: bool) -> str:
        for number, (guard, screen) in enumerate(self._screens[first:], first):
            given = ""
            try:
                given = screen.push(text)
                if last:
                    given += screen.finish()
            except Blocked as blocked:
                # The later screens see the rest as well, and may stop it even earlier.
                before = self._through(number + 1, given + blocked.before, last=True)
                raise GuardRefusal(guard, self._direction, before) from None
            text = given
        return text


def _scanned(text: str, uses: Sequence[_Use], report: Report) -> str:
    whole = Outgoing(_screens(uses, report), report.direction)
    given = [whole.push(text[at : at + PIECE]) for at in range(0, len(text), PIECE)]
    return "".join([*given, whole.finish()])


def _screens(uses: Iterable[_Use], report: Report) -> list[tuple[str, Screen]]:
    result = []
    for use in uses:
        action = use.input if report.direction == "input" else use.output
        act = acting(use.scanner.name, action, use.mask, report)
        result.append((use.scanner.name, Screen(use.scanner, act)))
    return result


def _listed(config: BlocklistGuard) -> list[Scanner]:
    """Scanners for the files of a block list."""
    if config.input == config.output == "off":
        return []
    scanners: list[Scanner] = []
    if config.words is not None:
        scanners.append(Words(read_words(Path(config.words), "block list")))
    if config.patterns is not None:
        scanners.append(Patterns(read_lines(Path(config.patterns), "block list")))
    return scanners
