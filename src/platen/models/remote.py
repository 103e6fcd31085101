"""Model folders at fsspec URLs: what is there, and what to call it.

A finished artifact's folder comes with checksums in its manifest; any other folder is taken as it lies.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from platen.core.artifacts import MANIFEST, Manifest
from platen.core.download import Remote, RemoteFile
from platen.core.errors import ArtifactError
from platen.core.urls import shown


class Unreachable(ArtifactError):
    """Whether there is a model can't be said: the other side does not answer, or not to us."""


def is_url(text: str) -> bool:
    return "://" in text


def name_in(url: str) -> str:
    """What a model at this URL is called: its folder's name."""
    parts = urlsplit(url)
    return PurePosixPath(unquote(parts.path)).name or parts.netloc.rpartition("@")[2]


@dataclass(frozen=True)
class Listing:
    """What a remote folder holds."""

    files: tuple[RemoteFile, ...]
    version: str
    """Changes when any of the files does."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def remote_folder(url: str) -> Remote:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ArtifactError(
            f"{shown(url)}: {error}", hint="Install the named package to read such URLs."
        ) from None
    except ValueError:
        raise ArtifactError(
            f"{shown(url)} is no address that fsspec knows", hint="see the fsspec documentation"
        ) from None
    return Remote(fs, root.rstrip("/"), shown(url))


def list_model(remote: Remote) -> Listing:
    """What there is at `remote`. Raises ArtifactError when it is nothing or can't be asked."""
    try:
        try:
            manifest = Manifest.model_validate_json(remote.fs.cat_file(remote.at(MANIFEST)))
        except FileNotFoundError:
            return _list_plain(remote)
    except ArtifactError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"there is no model at {remote.shown}", hint="Check the address.") from None
    except ValueError:
        raise ArtifactError(
            f"{MANIFEST} at {remote.shown} is damaged", hint="Put the artifact there again."
        ) from None
    except Exception as error:  # each file system has errors of its own
        raise Unreachable(
            f"{remote.shown} can't be read: {type(error).__name__}",
            hint="Check the address, the network and the credentials in the environment.",
        ) from None
    # A model's files lie at the top; below are a training's curves and checkpoints, as large again.
    files = tuple(RemoteFile(e.path, e.size, e.sha256) for e in manifest.files if "/" not in e.path)
    return Listing(files, _hash([[f.path, f.size, f.sha256] for f in files]))


def _list_plain(remote: Remote) -> Listing:
    """A folder without a manifest. Its version is what the file system says of each file's state."""
    files, states = [], []
    for info in sorted(remote.fs.ls(remote.root, detail=True), key=lambda info: str(info["name"])):
        name = info["name"]
        if info["type"] != "file":
            continue
        if info.get("size") is None:
            info = remote.fs.info(name)
        files.append(RemoteFile(name.rpartition("/")[2], int(info["size"])))
        states.append([name, info["size"], remote.fs.ukey(name)])
    if not any(file.path == "config.json" for file in files):
        raise ArtifactError(
            f"there is no model at {remote.shown}: neither {MANIFEST} nor config.json",
            hint="Give the address of a bundle's or a compiled model's folder.",
        )
    return Listing(tuple(files), _hash(states))


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
