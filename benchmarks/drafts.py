"""Drafts: our PyTorch engine with and without `serve.draft`, and transformers' prompt lookup.

The model is made to write a given text: it does all the work of a Llama of 163 million parameters, and what
it adds to the embeddings is zero, so that the token after each is fixed. A prompt holds what is to be written
as a document holds its next version, and how well it is guessed follows from that:

  edit     every twentieth token of the prompt is another than in the text
  quotes   the text quotes twelve tokens of the prompt, then has twelve that are new, and so on
  new      nothing of the text is in the prompt
  misled   every fourth token is another: what is looked up is found each time and wrong at once
  corpus   as new, but the text is in a corpus that was counted, every twentieth token another there

Compared are tokens a second of 128 new ones after some 200, temperature 0, 1 text and 4 or 8 at once (_x4,
_x8). `ours` is with the draft, `peer` without; edit_vs_transformers has transformers' own `generate` with
`prompt_lookup_num_tokens` as peer.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import Result, interleaved, options, report
from _served import FULL, SMALL

from platen.baselines.count_drafts import count_continuations
from platen.engines.batching.draft import DraftOptions
from platen.engines.batching.draft_ngrams import Continuations
from platen.engines.batching.engine import BatchingEngine
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.engines.threads import prepare_process
from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.runner import TorchRunner
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.tokens.files import SplitTokens, TokensMeta

WRITTEN = 128
CASES = (
    "edit",
    "edit_x4",
    "edit_x8",
    "quotes",
    "quotes_x4",
    "new",
    "misled",
    "misled_x4",
    "corpus",
    "corpus_x4",
)


def scripted_model(config: DecoderConfig) -> Decoder:
    """Writes t + 1 after t, the first token after the last."""
    torch.manual_seed(0)
    model = Decoder(replace(config, tie_word_embeddings=False))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(model.model.embed_tokens.weight.roll(1, 0))
    return model.bfloat16().float().eval()  # as a bundle in bfloat16 is opened


def prompt_of(kind: str, first: int, vocab_size: int) -> list[int]:
    """What stands before a text that begins with token `first`; its own last token is the one before."""
    text = [(first + index) % vocab_size for index in range(WRITTEN + 50)]
    other = [(token + vocab_size // 2) % vocab_size for token in text]
    if kind == "edit":
        shown = [b if index % 20 == 10 else a for index, (a, b) in enumerate(zip(text, other, strict=True))]
    elif kind == "quotes":
        shown = [a if index // 12 % 2 else b for index, (a, b) in enumerate(zip(text, other, strict=True))]
    elif kind == "misled":
        shown = [b if index % 4 == 3 else a for index, (a, b) in enumerate(zip(text, other, strict=True))]
    else:
        shown = other
    beginning = [(first - 20 + index) % vocab_size for index in range(20)]
    return [*beginning, *shown, *beginning]


def corpus_counts(folder: Path, vocab_size: int) -> Continuations:
    """Counts of a text of the whole vocabulary, twice, in which every twentieth token is another."""
    text = np.arange(vocab_size)
    shown = np.where(text % 20 == 10, (text + vocab_size // 2) % vocab_size, text)
    row = np.tile(shown, 2).astype("<u4")
    row.tofile(folder / "train.bin")
    split = SplitTokens(tokens=len(row), bytes=len(row), documents=1)
    TokensMeta("uint32", vocab_size, vocab_size, "", {"train": split}).write(folder)
    return count_continuations(folder, order=4)


class Ours:
    """Our engine in this process."""

    def __init__(self, model: Decoder, draft: DraftOptions | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = BatchingEngine(
            TorchRunner(model, max_rows=8, cache_bytes=2**30),
            new_detokenizer=lambda _: _NoText(),
            token_text=str,
            draft=draft,
        )

    def run(self, prompts: list[list[int]]) -> float:
        """Tokens a second. Raises AssertionError when what is written is not the text."""
        began = time.perf_counter()
        texts = self._loop.run_until_complete(self._texts(prompts))
        seconds = time.perf_counter() - began
        for prompt, text in zip(prompts, texts, strict=True):
            assert text[:100] == list(range(prompt[-1] + 1, prompt[-1] + 101)), "not the text"
        return len(prompts) * WRITTEN / seconds

    async def _texts(self, prompts: list[list[int]]) -> list[list[int]]:
        return await asyncio.gather(*(self._text(str(index), ids) for index, ids in enumerate(prompts)))

    async def _text(self, name: str, prompt: list[int]) -> list[int]:
        request = GenerationRequest(name, prompt, SamplingParams(temperature=0, max_tokens=WRITTEN))
        return [token async for event in self._engine.submit(request) for token in event.token_ids]

    def stats(self) -> dict[str, float]:
        return self._engine.stats().extra

    def close(self) -> None:
        self._loop.run_until_complete(self._engine.close())


class _NoText:
    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def transformers_lookup(model: Decoder, draft: DraftOptions) -> Callable[[list[list[int]]], float]:
    """One text by `generate` with prompt lookup."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(TheirConfig(**model.config.to_hf())).eval()
    theirs.load_state_dict(model.state_dict())

    def run(prompts: list[list[int]]) -> float:
        ids, settings = torch.tensor(prompts), {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN}
        began = time.perf_counter()
        with torch.inference_mode():
            out: Any = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                prompt_lookup_num_tokens=draft.tokens,
                max_matching_ngram_size=draft.match,
                **settings,
            )
        seconds = time.perf_counter() - began
        assert out[0, len(prompts[0])] == prompts[0][-1] + 1
        return (out.shape[1] - len(prompts[0])) / seconds

    return run


def compare(
    name: str, prompts: Callable[[], list[list[int]]], ours: Ours, peer: Callable[..., float], rounds: int
) -> Result:
    before = ours.stats()
    seen = interleaved({"ours": lambda: ours.run(prompts()), "peer": lambda: peer(prompts())}, rounds)
    ratio = statistics.median(a / b for a, b in zip(seen["ours"], seen["peer"], strict=True))
    guessed, right = (ours.stats()[key] - before[key] for key in ("draft_tokens", "draft_tokens_accepted"))
    details: dict[str, object] = {"runs": seen, "guessed": guessed, "right": right}
    medians = statistics.median(seen["ours"]), statistics.median(seen["peer"])
    return Result(name, *medians, ratio, "tokens/s", "", details)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--only", nargs="*", choices=(*CASES, "transformers"), help="these alone")
    defaults = DraftOptions()
    for field in ("tokens", "match", "step_tokens"):
        default = getattr(defaults, field)
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, default=default)
    args = parser.parse_args()
    prepare_process()
    torch.set_num_threads(args.threads)
    config, rounds = (SMALL, 1) if args.quick else (FULL, 3)
    draft = DraftOptions(args.tokens, args.match, args.step_tokens)
    only = args.only or (*CASES, "transformers")
    model = scripted_model(config)
    lookup = transformers_lookup(model, draft) if "transformers" in only else None
    assert accelerate(model)
    ours, plain = Ours(model, draft), Ours(model, None)
    with tempfile.TemporaryDirectory() as folder:
        counts = corpus_counts(Path(folder), config.vocab_size)
    informed = Ours(model, replace(draft, ngram=counts))
    first = itertools.cycle(range(1000, config.vocab_size // 2, 300))

    def prompts(case: str) -> list[list[int]]:
        kind, _, count = case.partition("_x")
        return [prompt_of(kind, next(first), config.vocab_size) for _ in range(int(count or 1))]

    for engine in (ours, plain, informed):
        engine.run(prompts("edit"))
    results = [
        compare(
            case, partial(prompts, case), informed if case.startswith("corpus") else ours, plain.run, rounds
        )
        for case in CASES
        if case in only
    ]
    if lookup is not None:
        results.append(compare("edit_vs_transformers", partial(prompts, "edit"), ours, lookup, rounds))
    for engine in (ours, plain, informed):
        engine.close()
    report(results, json_file=args.json, quick=args.quick)
    for result in results:
        print(
            f"{result.name}: {result.details['right']:.0f} of {result.details['guessed']:.0f} guesses right"
        )


if __name__ == "__main__":
    main()
