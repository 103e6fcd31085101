"""A bundle in the form that a compiled engine runs: a folder that says which bundle it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from platen.core.errors import BundleError
from platen.models.folder import read_json

COMPILED_FILE = "compiled.json"
OPENVINO_FILE = "openvino_model.xml"
GGUF_FILE = "model.gguf"


@dataclass(frozen=True)
class Compiled:
    """What a compiled folder says of itself."""

    to: str
    weights: str
    bundle_fingerprint: str
    parameters: int

    def write(self, folder: Path) -> None:
        """Say so. Written last: a folder without it is not a compiled one."""
        (folder / COMPILED_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_compiled(folder: Path) -> Compiled | None:
    """What `folder` holds when it is a compiled model, None when it is not one."""
    if not (folder / COMPILED_FILE).is_file():
        return None
    try:
        return Compiled(**read_json(folder / COMPILED_FILE))
    except TypeError:
        raise BundleError(f"{folder / COMPILED_FILE} is damaged", hint="Compile the bundle again.") from None
