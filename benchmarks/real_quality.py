"""Is a real model the same model here as in transformers? Greedy responses and perplexity, engine by engine.

    python benchmarks/real_quality.py --model models/smollm2 --text valid.txt

Both sides get the same token ids. Twenty prompts are continued greedily. Perplexity is over windows without
overlap, through each engine's own prompt log-probabilities, so what is scored is what is served. Compiled
forms are made beside the model on first use. transformers computes in float32.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import torch
from _harness import Result, options, report

from platen.compress.compile import compile_bundle
from platen.engines.local import LocalModel, open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.models.bundle import open_bundle
from platen.prompts.encoding import chat_prompt, text_prompt

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis in one sentence.",
    "List three uses of a paper clip.",
    "What is 17 times 3?",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
    "Name the planets of the solar system.",
    "Write a Python function that reverses a string.",
    "Why is the sky blue?",
    "Give me a recipe for pancakes.",
    "What does HTTP stand for?",
    "Summarize the plot of Romeo and Juliet.",
    "How many legs does a spider have?",
    "What is the difference between a list and a tuple in Python?",
    "Tell me a joke about computers.",
    "When did the Second World War end?",
    "What is a prime number?",
    "Write a short email asking for a day off.",
    "What is the boiling point of water in Fahrenheit?",
]
FORMS = {"torch": None, "openvino": ("openvino", "bf16"), "llamacpp": ("gguf", "bf16")}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), metavar="FOLDER")
    parser.add_argument("--text", type=Path, required=True, help="a UTF-8 text to score")
    parser.add_argument("--window", type=int, default=1024, help="tokens scored together")
    parser.add_argument("--windows", type=int, help="score so many windows; default: all of the text")
    parser.add_argument("--engines", nargs="+", default=list(FORMS), choices=list(FORMS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bundle = open_bundle(args.model)
    tokenizer = bundle.tokenizer
    asks = PROMPTS[:5] if args.quick else PROMPTS
    chats = bool(tokenizer.chat_template)
    prompts = [
        chat_prompt(tokenizer, [{"role": "user", "content": ask}]) if chats else text_prompt(tokenizer, ask)
        for ask in asks
    ]
    ids = tokenizer.encode(args.text.read_text("utf-8"))
    windows = [ids[start : start + args.window] for start in range(0, len(ids) - args.window, args.window)]
    windows = windows[: 4 if args.quick else args.windows]
    reference, expected = _transformers(args.model, prompts, windows)
    found = []
    for engine in args.engines:
        model = open_model(_form(args.model, engine), EngineOptions(max_concurrent=4), engine=engine)
        responses, scored = asyncio.run(_measured(model, prompts, windows))
        equal = sum(a == b for a, b in zip(responses, expected, strict=True))
        print(f"{engine}: {equal} of {len(prompts)} greedy responses equal; perplexity {scored:.4f}")
        found.append(Result(f"{engine}_perplexity", scored, reference, scored / reference, "perplexity"))
        found.append(
            Result(f"{engine}_equal_responses", equal, len(prompts), equal / len(prompts), "responses")
        )
    report(found, json_file=args.json, quick=args.quick)


def _form(bundle: Path, engine: str) -> Path:
    form = FORMS[engine]
    if form is None:
        return bundle
    folder = bundle.with_name(f"{bundle.name}-{form[1]}-{form[0]}")
    if not folder.is_dir():
        compile_bundle(bundle, folder, to=form[0], weights=form[1])
    return folder


def _transformers(
    folder: Path, prompts: list[list[int]], windows: list[list[int]]
) -> tuple[float, list[list[int]]]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    responses = []
    with torch.inference_mode():
        for ids in prompts:
            out = model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=48, pad_token_id=0, temperature=None
            )
            responses.append(out[0, len(ids) :].tolist())
        nats = 0.0
        for window in windows:
            tokens = torch.tensor([window])
            logprobs = model(tokens).logits[0, :-1].log_softmax(-1)
            nats -= float(logprobs.gather(1, tokens[0, 1:, None]).double().sum())
    return math.exp(nats / sum(len(window) - 1 for window in windows)), responses


async def _measured(
    model: LocalModel, prompts: list[list[int]], windows: list[list[int]]
) -> tuple[list[list[int]], float]:
    try:
        responses = [await _response(model, f"p{n}", ids) for n, ids in enumerate(prompts)]
        nats = 0.0
        for number, window in enumerate(windows):
            sampling = SamplingParams(max_tokens=1, temperature=0)
            request = GenerationRequest(f"w{number}", window, sampling, prompt_logprobs=0)
            async for event in model.engine.submit(request):
                nats -= sum(score.logprob for score in event.prompt_logprobs if score is not None)
        return responses, math.exp(nats / sum(len(window) - 1 for window in windows))
    finally:
        await model.engine.close()


async def _response(model: LocalModel, name: str, ids: list[int]) -> list[int]:
    request = GenerationRequest(name, ids, SamplingParams(max_tokens=48, temperature=0))
    return [token async for event in model.engine.submit(request) for token in event.token_ids]


if __name__ == "__main__":
    main()
