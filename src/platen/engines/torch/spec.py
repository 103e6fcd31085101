"""PyTorch's engine, the reference: bundles of the architectures that `models` has, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platen.core.errors import BundleError, ConfigError
from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    with phase("import PyTorch"):
        import torch

        from platen.core.devices import select_device
        from platen.engines.batching.opening import open_batching
        from platen.engines.threads import on_passing_thread
        from platen.engines.torch.cpu.accelerate import accelerate
        from platen.engines.torch.runner import TorchRunner, divided
        from platen.models.arch.config import DecoderConfig
        from platen.models.bundle import open_bundle

    device = select_device(options.device)
    dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
    _check_ngram(model, options)
    divided(
        options.kv_cache_bytes, DecoderConfig.from_hf(model.config.raw), dtype
    )  # before anything is loaded
    with phase("open weights"):
        # On a CPU the weights stay mapped and narrow until each is packed.
        stored = None if device.type == "cpu" else dtype
        bundle = on_passing_thread(lambda: open_bundle(model.path, dtype=stored, device=device))
    with phase("pack"):
        on_passing_thread(lambda: accelerate(bundle.model, dtype))
        runner = TorchRunner(
            bundle.model, max_rows=options.max_concurrent, cache_bytes=options.kv_cache_bytes
        )
    return open_batching(model, runner, options, phase)


def _check_ngram(model: ResolvedModel, options: EngineOptions) -> None:
    ngram = None if options.draft is None else options.draft.ngram
    if ngram is None or ngram.about.tokenizer_sha256 == model.tokenizer.sha256:
        return
    raise ConfigError(
        f"serve.draft.ngram was counted with another tokenizer than that of {model.path}",
        hint=f"Count again: platen tokens encode CORPUS -t {model.path} --out TOKENS; "
        "platen baselines draft TOKENS --out FOLDER",
    )


def _refuses(model: ResolvedModel) -> str | None:
    from platen.models.arch.config import DecoderConfig

    try:
        DecoderConfig.from_hf(model.config.raw)
    except BundleError as error:
        return error.message
    return None


SPEC = EngineSpec(
    name="torch",
    forms=("bundle",),
    open=_open,
    extra="serve",
    module="torch",
    packages=("torch",),
    capabilities=frozenset({"adapters", "draft", "logprobs", "token_ids"}),
    devices=("cpu", "cuda", "mps"),
    refuses=_refuses,
    rank=30,
)
