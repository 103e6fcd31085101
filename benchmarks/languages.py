"""How often the language block is right: on messages of this machine's own programs, in their translations.

Sentences are the translated messages of at least 100 letters under /usr/share/locale, without placeholders,
options, tags and addresses; at most 200 a language, from languages with at least 50. Norwegian's two written
forms count as one. Where the machine has no such catalogues, says so and ends.

    python benchmarks/languages.py
"""

from __future__ import annotations

import gettext
import json
import random
import re
import time
from collections import Counter
from pathlib import Path

from _harness import options

from platen.data.filters.language import identify

CATALOGUES = Path("/usr/share/locale")
LANGUAGES = (
    "be", "bg", "ca", "cs", "da", "de", "el", "eo", "es", "et", "eu", "fa", "fi", "fr", "gl", "he", "hi",
    "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "ko", "lt", "lv", "mk", "nb", "nl", "nn", "pl", "pt",
    "ro", "ru", "sk", "sl", "sr", "sv", "ta", "th", "tr", "uk", "vi", "zh_CN",
)  # fmt: skip
CODES = {"nb": "no", "nn": "no", "zh_CN": "zh"}
FEWEST, MOST, LETTERS, BAR = 50, 200, 100, 0.98
_NOT_PROSE = re.compile(r"%[-#0-9.$]*[a-zA-Z]+|<[^>]*>|\{[^}]*\}|--?[\w-]+|\\\w|https?://\S+")


def sentences(language: str) -> list[str]:
    """Messages translated into a language, each once, in an order of chance that is always the same."""
    found: set[str] = set()
    for file in sorted((CATALOGUES / language / "LC_MESSAGES").glob("*.mo")):
        try:
            with file.open("rb") as stream:
                catalogue = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, UnicodeDecodeError):
            continue
        for message, translated in catalogue.items():
            text = " ".join(_NOT_PROSE.sub("", translated).split())
            prose = sum(map(str.isalpha, text)) >= 0.7 * len(text)
            if message and translated != message and len(text) >= LETTERS and prose:
                found.add(text)
    ordered = sorted(found)
    random.Random(1).shuffle(ordered)
    return ordered[:MOST]


def main() -> None:
    arguments = options(__doc__ or "").parse_args()
    samples = {language: sentences(language) for language in LANGUAGES}
    samples = {language: texts for language, texts in samples.items() if len(texts) >= FEWEST}
    if len(samples) < 20:
        print(
            f"skipped: {CATALOGUES} has {len(samples)} languages with {FEWEST} long messages; 20 are needed"
        )
        return
    if arguments.quick:
        samples = {language: texts[:20] for language, texts in samples.items()}
    identify("warm up")
    right: Counter[str] = Counter()
    began = time.perf_counter()
    for language, texts in samples.items():
        answers = Counter(identify(text)[0] for text in texts)
        right[language] = answers[CODES.get(language, language)]
        others = ", ".join(f"{code} {n}" for code, n in answers.most_common(4))
        print(f"{language:6} {right[language] / len(texts):.3f} of {len(texts)}  ({others})")
    total = sum(map(len, samples.values()))
    each = (time.perf_counter() - began) / total
    share = right.total() / total
    print(f"{len(samples)} languages, {total} sentences, {each * 1e6:.0f} µs each")
    print(f"right: {share:.4f}, bar {BAR} {'ok' if share >= BAR else 'MISSED'}")
    if arguments.json:
        figures = {
            "right": share,
            "sentences": total,
            "by_language": {k: right[k] / len(v) for k, v in samples.items()},
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
