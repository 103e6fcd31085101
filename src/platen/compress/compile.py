"""Turns a bundle into the form that a compiled engine runs; the result names the bundle it came from."""

from __future__ import annotations

import shutil
from pathlib import Path

from platen.compress.config import COMPILED_WEIGHTS, CompileConfig
from platen.core.artifacts import Artifact, Store
from platen.core.errors import BundleError, MissingExtraError
from platen.core.stage import StageContext, StageResult
from platen.engines.registry import engines
from platen.models.bundle import Bundle, open_bundle
from platen.models.compiled import GGUF_FILE, OPENVINO_FILE, Compiled
from platen.models.folder import bundle_fingerprint
from platen.tokens.folder import tokenizer_files

KIND = "compiled"
"""Of the artifact."""
_BESIDE = ("config.json", "generation_config.json", "platen.json")


def compile_released(ctx: StageContext[CompileConfig]) -> StageResult:
    """The pipeline's last stage: the model that `register` released, compiled."""
    config = ctx.config
    with ctx.progress.task("compiling"):
        compiled = compile_bundle(ctx.input("model").path, ctx.out, config.to, config.weights)
    return StageResult(
        metrics={"parameters": compiled.parameters}, notes={"to": compiled.to, "weights": compiled.weights}
    )


def compiled_forms(store: Store, bundle: str) -> list[Artifact]:
    """The compiled forms of the artifact `bundle` (`name/fingerprint`), the newest first."""
    found = [
        store.find(manifest.name, manifest.fingerprint)
        for manifest in reversed(store.manifests())
        if manifest.kind == KIND and bundle in manifest.inputs.values()
    ]
    return [artifact for artifact in found if artifact is not None]


def compile_bundle(bundle: Path | str, out: Path, to: str, weights: str | None = None) -> Compiled:
    """Write `bundle` in the form `to` (openvino or gguf) into the folder `out`, its tokenizer beside it.

    `weights` None takes the first of `COMPILED_WEIGHTS`. The same bundle gives the same bytes. Raises
    BundleError for what can't be opened or made, MissingExtraError.
    """
    if to not in COMPILED_WEIGHTS:
        raise BundleError(f"there is no compiled form {to!r}", hint=f"forms: {', '.join(COMPILED_WEIGHTS)}")
    possible = COMPILED_WEIGHTS[to]
    weights = weights or possible[0]
    if weights not in possible:
        raise BundleError(f"{to} weights can't be {weights!r}", hint=f"they can be {', '.join(possible)}")
    opened = open_bundle(bundle)
    out.mkdir(parents=True, exist_ok=True)
    try:
        _write(opened, out, to, weights)
    except ImportError:
        raise MissingExtraError(_extra(to), f"compiling to {to}") from None
    beside = [name for name in _BESIDE if (opened.path / name).is_file()]
    for name in (*beside, *tokenizer_files(opened.path)):
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(opened.path / name, out / name)
    compiled = Compiled(to, weights, bundle_fingerprint(opened.path), opened.config.num_parameters())
    compiled.write(out)
    return compiled


def _extra(to: str) -> str:
    """What installs the engine that runs this form, and with it what makes the form."""
    return next(spec.extra for spec in engines().values() if to in spec.forms)


def _write(opened: Bundle, out: Path, to: str, weights: str) -> None:
    if to == "gguf":
        from platen.compress.gguf_file import write_gguf

        write_gguf(opened, out / GGUF_FILE, weights)
        return
    if special := opened.config.beyond_llama():
        raise BundleError(
            f"{opened.path} can't be compiled to {to}: its {opened.config.family} network has "
            + ", ".join(special),
            hint="Serve the bundle itself: platen serve --engine torch.",
        )
    import openvino as ov

    from platen.compress.openvino_graph import build_graph

    graph = build_graph(opened.config, opened.model.state_dict(), weights)
    ov.save_model(graph, out / OPENVINO_FILE, compress_to_fp16=False)
