"""The stages `tokenizer` and `tokens`, declared. A project with `base` has the tokenizer of that model."""

from __future__ import annotations

from pathlib import Path

from platen.core.config import Section
from platen.core.stage import ProjectView, Sources, StageSpec, needs
from platen.tokens.config import TokenizerConfig


def _tokenizer(project: ProjectView) -> TokenizerConfig | None:
    if project.base is not None or not project.makes_tokens:
        return None
    return project.section("tokenizer", TokenizerConfig)


def _template(config: TokenizerConfig, directory: Path) -> Sources:
    """The chat template's file. One that is not there is the stage's to complain of."""
    if config.chat_template is None:
        return ()
    file = directory / config.chat_template
    return (file,) if file.is_file() else ()


TOKENIZER = StageSpec(
    name="tokenizer",
    kind="tokenizer",
    config=TokenizerConfig,
    run="platen.tokens.train:train_tokenizer",
    inputs={"data": needs("data")},
    settings=_tokenizer,
    sources=_template,
    extra="data",
)
TOKENS = StageSpec(
    name="tokens",
    kind="tokens",
    config=Section,
    run="platen.tokens.train:encode_corpus",
    inputs={"data": needs("data"), "tokenizer": needs("tokenizer", "model")},
    settings=lambda project: Section() if project.makes_tokens else None,
    extra="data",
)
