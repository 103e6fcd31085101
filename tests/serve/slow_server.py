"""Serves the bundle named on the command line, each forward pass slowed; run as a program by the tests."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from platen.models.llama import Llama
from platen.project import ServeConfig
from platen.serve.server import serve_bundle


def main() -> None:
    bundle, seconds_per_step, drain_seconds = sys.argv[1:]
    forward = Llama.forward

    def slow_forward(self: Llama, *args: Any, **kwargs: Any) -> Any:
        time.sleep(float(seconds_per_step))
        return forward(self, *args, **kwargs)

    Llama.forward = slow_forward  # type: ignore[method-assign]
    config = ServeConfig(port=0, drain_seconds=float(drain_seconds))
    serve_bundle(Path(bundle), name="tiny", config=config, on_ready=lambda s: print(s.url, flush=True))


if __name__ == "__main__":
    main()
