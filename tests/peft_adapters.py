"""Adapters as PEFT saves them, with weights that make a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_adapter(bundle: Path, folder: Path, *, seed: int, std: float, **options: Any) -> Path:
    """An adapter for the bundle, of random weights, in `folder`; `options` are LoraConfig's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(bundle), LoraConfig(**options))
    torch.manual_seed(seed)
    for key, weight in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(weight, std=std)
    model.save_pretrained(folder)
    return folder
