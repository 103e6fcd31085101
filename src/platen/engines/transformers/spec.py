"""transformers' own networks, for architectures that ours doesn't compute: slower, and it says so."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.models.resolve import ResolvedModel

log = logging.getLogger(__name__)

QUANTIZED_BY = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
}
"""Kinds of quantized weights that transformers computes with on a CPU, and the module that it needs."""
_ADVICE = (
    "Serve another checkpoint of the model: one in safetensors of an architecture that transformers has."
)


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    import torch

    from platen.core.devices import select_device
    from platen.engines.batching.opening import open_batching
    from platen.engines.threads import on_passing_thread
    from platen.engines.transformers.runner import TransformersRunner
    from platen.models.hub_models import open_transformers

    log.warning(
        "%s is computed by transformers, sequence after sequence: slower than Platen's own networks",
        model.config.architecture,
    )
    device = select_device(options.device)

    def opened() -> Any:
        found = open_transformers(model.path, "AutoModelForCausalLM", advice=_ADVICE, complete=True)
        if model.config.raw.get("quantization_config"):
            return found
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        return found.to(device, dtype)

    with phase("open weights"):
        runner = TransformersRunner(
            on_passing_thread(opened),
            context_window=model.config.context_window,
            max_rows=options.max_concurrent,
        )
    return open_batching(model, runner, options, phase)


def _refuses(model: ResolvedModel) -> str | None:
    config = model.config
    if config.decoder is not None:
        return f"Platen's own network computes {config.architecture}, and faster (--engine torch)"
    if "auto_map" in config.raw:
        return f"{config.architecture} comes with code of its own, which is never run"
    if importlib.util.find_spec("transformers") is None:
        return f"transformers may have {config.architecture}: pip install 'platen[transformers]'"
    if (reason := _quantized(config.raw.get("quantization_config"))) is not None:
        return reason
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(config.raw.get("model_type")))
    if known is None or config.architecture not in (known if isinstance(known, list | tuple) else (known,)):
        return f"the transformers that is installed has no {config.architecture} that writes text"
    return None


def _quantized(settings: Any) -> str | None:
    """Why quantized weights can't be opened here; None when they can, or there are none."""
    if not settings:
        return None
    method = str(settings.get("quant_method", "unnamed")) if isinstance(settings, dict) else "unnamed"
    module = QUANTIZED_BY.get(method)
    if module is None:
        return f"its weights are quantized ({method}): serve its GGUF or the unquantized model"
    if importlib.util.find_spec(module) is None:
        return (
            f"its weights are quantized ({method}), which needs {module}: pip install {module}, "
            "or serve its GGUF or the unquantized model"
        )
    return None


SPEC = EngineSpec(
    name="transformers",
    forms=("bundle",),
    open=_open,
    extra="transformers",
    module="torch",
    packages=("torch", "transformers"),
    capabilities=frozenset({"logprobs", "token_ids"}),
    devices=("cpu", "cuda", "mps"),
    refuses=_refuses,
    rank=90,
)
