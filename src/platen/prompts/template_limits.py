"""What one rendering of a chat template may use: time, and the size of what it makes."""

from __future__ import annotations

import re
import time
from typing import Any

import jinja2

MOST_SECONDS = 1.0
"""For one rendering, the second half of it of the processor; a long conversation takes a hundredth."""
MOST_CHARACTERS = 16_000_000
"""In one text or list, with all that it contains."""
MOST_IN_ALL = 256_000_000
"""Characters in all texts that one rendering makes on its way."""
_ENTRY = 16
"""What an entry of a list weighs beside what it holds, in characters."""
MOST_WIDTH = 10_000
"""To which a text is padded, or by which it is indented."""
_MOST_BITS = 16_384


class TemplateLimit(jinja2.TemplateRuntimeError):
    """A template takes too long or makes too much."""


class Meter:
    """What one rendering has used. Containers never weigh more than the limit, aliases counted each time, so
    comparing, hashing or printing one is bounded too."""

    def __init__(self, seconds: float = MOST_SECONDS) -> None:
        self._seconds = seconds
        # Asking for the processor's time is slow, so it begins to count after half of the time on the clock.
        self._look = time.monotonic() + seconds / 2
        self._end: float | None = None
        self._made = 0
        self._weights: dict[int, tuple[object, int]] = {}  # with the object, so that its id stays its own

    def tick(self) -> None:
        """To be called before everything that takes time. Raises TemplateLimit."""
        now = time.monotonic()
        if now < self._look:
            return
        spent = time.thread_time()
        if self._end is None:
            self._end = spent + self._seconds / 2
        elif spent >= self._end:
            raise TemplateLimit(f"it takes longer than {self._seconds:g} s")
        self._look = now + self._end - spent

    def allow(self, characters: int) -> None:
        """Raises TemplateLimit when something of this size may not be made."""
        if characters > MOST_CHARACTERS:
            raise TemplateLimit(f"it makes a text or list of more than {MOST_CHARACTERS:,} characters")

    def admit(self, value: Any) -> Any:
        """Count a value that has been made; returns it."""
        if isinstance(value, str):
            self.count(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.allow(self.weigh(value))
            self.count(_ENTRY * len(value))
        return value

    def count(self, characters: int) -> None:
        """Count a text that is about to be made."""
        self.allow(characters)
        self._made += characters
        if self._made > MOST_IN_ALL:
            raise TemplateLimit(f"it makes more than {MOST_IN_ALL:,} characters on its way")

    def weigh(self, value: Any) -> int:
        """The characters that a value would make as text, roughly."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, int):
            return 1 + value.bit_length() // 3
        if not isinstance(value, (list, tuple, dict)):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        total = _ENTRY * len(value)
        for child in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            total += self.weigh(child)
            self.allow(total)
        self._weights[id(value)] = (value, total)
        return total

    def allow_format(self, template: str, given: Any) -> None:
        """Check widths and sizes before a text is filled in, with `%` or in braces."""
        if re.search(r"%[^a-zA-Z%]*\d{5}|:[^{}]*\d{5}|\{[^{}]*\{|%[^a-zA-Z%]*\*", template):
            raise TemplateLimit("it fills in a text with a width that is too large, or not written out")
        fields = template.count("%") + template.count("{")
        self.allow(len(template) + fields * self.weigh(given))

    def allow_power(self, operator: str, left: Any, right: Any) -> None:
        """Check the size of a product or a power."""
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, (str, list, tuple)) and isinstance(other, int):
                self.allow(self.weigh(one) * max(0, other))
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MOST_BITS:
                raise TemplateLimit("it computes with numbers that are too large")

    def allow_method(self, text: str, name: str, given: list[Any]) -> None:
        """Check a method of a text that can make a much larger one."""
        if name == "replace" and len(given) > 1 and all(isinstance(one, str) for one in given[:2]):
            self.allow(len(text) + text.count(given[0]) * len(given[1]))
        elif name == "join" and given:
            self.allow(sum(len(text) + self.weigh(item) for item in given[0]))
        elif name == "expandtabs":
            self.allow(
                len(text) + text.count("\t") * max([8, *(one for one in given if isinstance(one, int))])
            )
        elif name in ("translate", "striptags"):
            raise TemplateLimit(f"{name} is not for chat templates")
