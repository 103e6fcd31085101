"""Runs a compiled bundle with OpenVINO for a batching engine: paged attention, all sequences in one call.

OpenVINO's own pass puts paged attention into the graph; its blocks are assigned here. A prompt that was
computed before is not computed again: its blocks and the logits after it are cached. (OpenVINO GenAI's
pipeline around the same operation keeps its sampler inside, which has no grammars of our kind, no biases, and
seeds that depend on the batch.)
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset15 as op
from openvino._offline_transformations import paged_attention_transformation

from platen.core.errors import BundleError, last_line
from platen.engines.batching.blocks import BlockPool, Key, text_key
from platen.engines.batching.kv_budget import check_smallest
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import Floats
from platen.engines.batching.sequence import Sequence as Request
from platen.engines.threads import drop_mapped_pages
from platen.models.arch.config import DecoderConfig
from platen.models.compiled import OPENVINO_FILE, read_compiled
from platen.models.folder import read_json

_ROWS = "logits_rows"
_WINDOW_INPUT = 10
"""Of OpenVINO's PagedAttentionExtension: how many tokens, itself included, a token attends to; 0: all."""
_MAX_KNOWN_PROMPTS = 64
"""Prompts whose last logits are cached, a few hundred kilobytes each."""


class OpenVinoRunner:
    """A compiled folder (`platen compile --to openvino`) on the CPU.

    `cache_bytes` bounds the key/value cache; it is no larger than `max_rows` full windows need.
    """

    name = "openvino"
    adapters = None
    BLOCK_TOKENS = 32  # the CPU plugin's paged attention knows no other size

    def __init__(self, folder: Path, *, max_rows: int, cache_bytes: int) -> None:
        config = DecoderConfig.from_hf(read_json(folder / "config.json"))
        self.context_window, self.vocab_size = config.max_position_embeddings, config.vocab_size
        model = _paged(folder / OPENVINO_FILE, config)
        compiled = ov.Core().compile_model(model, "CPU", _settings(folder, config))
        self._mapped: Path | None = (folder / OPENVINO_FILE).with_suffix(".bin")
        self._request = compiled.create_infer_request()
        self._inputs = _Inputs(self._request)
        self._caches = [port for port in compiled.inputs if "_cache." in port.get_any_name()]
        block_bytes = sum(_block_bytes(port) for port in self._caches)
        most = max_rows * -(-self.context_window // self.BLOCK_TOKENS)
        self._blocks = min(most, cache_bytes // block_bytes)
        self._block_bytes, self.kv_bytes = block_bytes, cache_bytes
        short = min(256, self.context_window) // self.BLOCK_TOKENS
        check_smallest(str(folder), cache_bytes, short * block_bytes, self._blocks < max(1, short))
        self.reset()

    def reset(self) -> None:
        self._pool = BlockPool(self._blocks, self.BLOCK_TOKENS)
        self._tables: dict[Request, list[int]] = {}
        self._last_logits: OrderedDict[Key, Floats] = OrderedDict()  # of whole prompts, the latest last
        self._known_prompts: dict[Request, Floats] = {}  # last logits of those wholly cached
        self._reused = 0
        self._stores: list[ov.Tensor] = []
        for port in self._caches:
            shape = [self._blocks, *(size.get_length() for size in list(port.partial_shape)[1:])]
            self._stores.append(ov.Tensor(port.element_type, ov.Shape(shape)))
            self._request.set_tensor(port, self._stores[-1])

    @property
    def longest(self) -> int:
        return min(self.context_window, self._blocks * self.BLOCK_TOKENS)

    def admit(self, sequence: Request, *, reuse: bool) -> int | None:
        prompt = sequence.tokens
        key = text_key(prompt, self.BLOCK_TOKENS)
        logits = self._last_logits.get(key) if reuse else None
        wanted = prompt if logits is not None else prompt[:-1]  # else the last one must be computed
        known = self._pool.match(wanted) if reuse else []
        end = self._pool.match_end(wanted, len(known)) if reuse else None
        held = known if end is None else [*known, end[0]]
        self._pool.hold(held)
        fresh = self._pool.take(-(-sequence.reserved // self.BLOCK_TOKENS) - len(known))
        if fresh is None:
            self._pool.release(held)
            return None
        self._tables[sequence] = [*known, *fresh]
        reused = len(known) * self.BLOCK_TOKENS
        if end is not None:
            block, tokens = end
            self._copy(block, fresh[0])
            self._pool.release([block])
            reused += tokens
        if logits is not None and reused == len(prompt):
            self._last_logits.move_to_end(key)
            self._known_prompts[sequence] = logits
        self._reused += reused
        return reused

    def extend(self, sequence: Request, tokens: int) -> bool:
        table = self._tables[sequence]
        more = self._pool.take(-(-tokens // self.BLOCK_TOKENS) - len(table))
        if more is None:
            return False
        table += more
        return True

    def _keep(self, sequence: Request, logits: Floats) -> None:
        """Cache a prompt's blocks and its last logits (V,)."""
        prompt = sequence.tokens[: sequence.prompt_length]
        self._pool.name(self._tables[sequence], prompt)
        self._last_logits[text_key(prompt, self.BLOCK_TOKENS)] = logits.copy()
        if len(self._last_logits) > _MAX_KNOWN_PROMPTS:
            self._last_logits.popitem(last=False)

    def _copy(self, source: int, target: int) -> None:
        for store in self._stores:
            store.data[target] = store.data[source]

    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        computed = [chunk for chunk in chunks if chunk.start < chunk.stop]
        logits = self._compute(computed) if computed else np.empty((0, self.vocab_size), np.float32)
        found, at = [], 0
        for chunk in chunks:
            if chunk.start == chunk.stop:
                found.append(self._known_prompts.pop(chunk.sequence)[None])
                continue
            rows = logits[at : at + chunk.rows]
            found.append(rows)
            at += chunk.rows
            if chunk.stop == chunk.sequence.prompt_length:
                self._keep(chunk.sequence, rows[-1])
        return (
            found[0] if len(found) == 1 else logits if len(computed) == len(chunks) else np.concatenate(found)
        )

    def _compute(self, chunks: Sequence[Chunk]) -> Floats:
        """The needed logits (N, V); they hold until the next step."""
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        tables: list[int] = []
        begins, table_begins = [0], [0]
        for chunk in chunks:
            ids += chunk.sequence.tokens[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
            begins.append(len(ids))
            used = -(-chunk.stop // self.BLOCK_TOKENS)
            tables += self._tables[chunk.sequence][:used]
            table_begins.append(len(tables))
            if chunk.logits == "last":
                rows.append(len(ids) - 1)
            elif chunk.logits == "all":
                rows += range(begins[-2], begins[-1])
        if not rows:
            rows.append(0)  # a graph has no empty output; it is dropped below
        values = self._inputs
        values["input_ids"] = ids
        values["position_ids"] = positions
        values["past_lens"] = [chunk.start for chunk in chunks]
        values["subsequence_begins"] = begins
        values["block_indices"] = tables
        values["block_indices_begins"] = table_begins
        values["max_context_len"] = max(chunk.stop for chunk in chunks)
        values[_ROWS] = rows
        self._request.infer(share_outputs=True)  # or all logits would be copied
        if self._mapped is not None:  # the first step has packed the weights
            drop_mapped_pages(self._mapped)
            self._mapped = None
        logits: Floats = self._request.get_output_tensor(0).data.reshape(-1, self.vocab_size)
        return logits[: sum(chunk.rows for chunk in chunks)]

    def release(self, sequence: Request) -> None:
        self._known_prompts.pop(sequence, None)
        table = self._tables.pop(sequence, None)
        if table is not None:
            self._pool.name(table, sequence.tokens[: sequence.computed])
            self._pool.release(table)

    def close(self) -> None:
        del self._request

    def stats(self) -> dict[str, float]:
        return {
            "cache_bytes": float(self._blocks * self._block_bytes),
            "blocks": float(self._blocks),
            "blocks_held": float(self._pool.held),
            "reused_tokens": float(self._reused),
        }


class _Inputs:
    """The graph's integer inputs, set by name.

    From step to step few change their shape, so each tensor is reused until it does: passing eight new arrays
    at every step takes a hundredth of a small model's step.
    """

    def __init__(self, request: ov.InferRequest) -> None:
        self._request = request
        self._set: dict[str, Any] = {}

    def __setitem__(self, name: str, values: list[int] | int) -> None:
        view = self._set.get(name)
        if view is None or view.shape != np.shape(values):
            kind = np.int64 if name in ("input_ids", "position_ids", _ROWS) else np.int32
            tensor = ov.Tensor(np.array(values, dtype=kind), shared_memory=True)
            self._request.set_tensor(name, tensor)
            view = self._set[name] = tensor.data
        view[...] = values


def _settings(folder: Path, config: DecoderConfig) -> dict[str, str]:
    """What the CPU plugin is told.

    With int8 weights the matmuls are in int8, with a token's activations quantized in groups: decode is a
    third faster than with weights unpacked to bfloat16 at every step, its default where there is AMX, and
    prefill no slower if the groups are large.
    """
    # Each token's keys are quantized alone, or a block's beginning would depend on the tokens after it.
    settings = {"PERFORMANCE_HINT": "LATENCY", "KEY_CACHE_QUANT_MODE": "BY_TOKEN"}
    # It makes kernels for each number of tokens in a step, and would keep half a gigabyte of them.
    settings["CPU_RUNTIME_CACHE_CAPACITY"] = "1000"
    compiled = read_compiled(folder)
    group = _activation_group(config)
    if compiled is not None and compiled.weights == "int8" and group:
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}
    return settings


def _activation_group(config: DecoderConfig) -> int:
    """The largest group, up to 256, that divides the rows of all matrices; 0 when none does."""
    inner = [config.moe_intermediate_size] if config.num_experts else []
    rows = math.gcd(config.hidden_size, config.intermediate_size, config.query_size, *inner)
    return max((size for size in range(32, 257, 32) if rows % size == 0), default=0)


def _paged(file: Path, config: DecoderConfig) -> ov.Model:
    """The graph with paged attention, whose output layer computes only the rows that need logits."""
    try:
        model = ov.Core().read_model(file)
    except RuntimeError as error:
        raise BundleError(
            f"{file} can't be read: {last_line(error)}", hint="Compile the bundle again."
        ) from None
    paged_attention_transformation(model)
    _set_windows(model, config)
    rows = op.parameter([-1], np.int64)
    rows.set_friendly_name(_ROWS)
    rows.output(0).set_names({_ROWS})
    head = model.output("logits").get_node()
    while head.get_type_name() != "MatMul":  # a soft cap may come after it
        head = head.input_value(0).get_node()
    states = head.input_value(0)
    picked = op.gather(states, rows, op.constant(np.int64(0)))
    head.input(0).replace_source_output(picked.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()
    return model


def _set_windows(model: ov.Model, config: DecoderConfig) -> None:
    """Tell each layer's attention its window: the pass above drops the mask that had it."""
    paged = [node for node in model.get_ordered_ops() if node.get_type_name() == "PagedAttentionExtension"]
    for layer, node in enumerate(paged):  # each layer needs the one before it, so they are in order
        window = config.window(layer)
        if window is not None:
            node.input(_WINDOW_INPUT).replace_source_output(op.constant(np.int32(window)).output(0))


def _block_bytes(port: Any) -> int:
    sizes = [size.get_length() for size in list(port.partial_shape)[1:]]
    return int(np.prod(sizes)) * int(port.element_type.size)
