"""Opens a batching engine over a runner, with its detokenizer and grammars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from platen.core.phases import Phase
from platen.engines.batching.detokenize import Detokenizer
from platen.engines.batching.engine import BatchingEngine
from platen.engines.batching.grammar import GrammarCompiler
from platen.engines.batching.runner import Runner
from platen.engines.options import EngineOptions
from platen.tokens.tokenizer import TextStream

if TYPE_CHECKING:
    from platen.models.resolve import ResolvedModel

PREFILL_CHUNK = 512
"""Prompt tokens computed beside the decoding of other sequences in one step."""


class TextTools(TypedDict):
    """What every engine needs to turn tokens into text."""

    new_detokenizer: Callable[[Sequence[int]], Detokenizer]
    token_text: Callable[[int], str]
    eos_ids: tuple[int, ...]
    grammars: GrammarCompiler


def text_tools(model: ResolvedModel, vocab_size: int | None = None) -> TextTools:
    """Those of a model, whose vocabulary its config tells unless `vocab_size` does."""
    tokenizer, end_ids = model.tokenizer, model.end_ids
    return TextTools(
        new_detokenizer=lambda prompt_ids: TextStream(tokenizer, after=prompt_ids),
        token_text=tokenizer.token_text,
        eos_ids=end_ids,
        grammars=GrammarCompiler(tokenizer, vocab_size or model.config.vocab_size, end_ids),
    )


def open_batching(
    model: ResolvedModel, runner: Runner, options: EngineOptions, phase: Phase
) -> BatchingEngine:
    """The engine over a runner that has opened `model`; closing it gives the model's files back."""
    with phase("start engine"):
        return BatchingEngine(
            runner,
            prefill_chunk=PREFILL_CHUNK,
            max_concurrent=options.max_concurrent,
            max_queue=options.max_queue,
            max_wait=options.max_wait,
            draft=options.draft,
            on_close=model.release,
            **text_tools(model, runner.vocab_size),
        )
