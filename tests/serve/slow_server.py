"""Serves the bundle named on the command line: each forward pass slowed, no text ever ended by the model.

With a project's folder as the last argument it asks for that project's keys.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from platen.core.state.embedded import EmbeddedState
from platen.models.arch.decoder import Decoder
from platen.serve.access.layer import AccessControl
from platen.serve.config import ServeConfig
from platen.serve.server import serve_bundle


def main() -> None:
    bundle, seconds_per_step, drain_seconds, *project = sys.argv[1:]
    hidden_states, logits = Decoder.hidden_states, Decoder.logits

    def slow(self: Decoder, *args: Any, **kwargs: Any) -> Tensor:
        time.sleep(float(seconds_per_step))
        return hidden_states(self, *args, **kwargs)

    def without_end(self: Decoder, hidden: Tensor) -> Tensor:
        found = logits(self, hidden)
        found[..., list(self.config.eos_token_ids)] = float("-inf")
        return found

    Decoder.hidden_states = slow  # type: ignore[method-assign]
    Decoder.logits = without_end  # type: ignore[method-assign]
    keys: Literal["required", "off"] = "required" if project else "off"
    config = ServeConfig(port=0, drain_seconds=float(drain_seconds), keys=keys)
    access = AccessControl(config, EmbeddedState(Path(project[0])) if project else None)
    serve_bundle(
        Path(bundle),
        name="tiny",
        config=config,
        access=access,
        on_ready=lambda started: print(started.url, flush=True),
    )


if __name__ == "__main__":
    main()
