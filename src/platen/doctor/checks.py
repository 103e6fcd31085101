"""What this machine, this installation and a project have and lack, each finding with its fix.

Nothing heavy is imported: versions come from package metadata, and torch is asked in a process of its own,
so that a broken build of it is a finding and not the end.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from packaging.requirements import Requirement

from platen.core.cpu import find_compiler
from platen.core.errors import ConfigError, PlatenError
from platen.core.urls import shown
from platen.doctor.paths import NamedPath, project_paths, serving_paths
from platen.engines.remote.config import UpstreamConfig
from platen.project.file import LoadedProject, load_project, load_service
from platen.serve.config import ServeConfig

Status = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)
_GIB = 1 << 30
_NEEDED_FOR = {
    "train": "`platen run`",
    "serve": "`platen serve` and `platen chat`",
    "ops": "`platen ui`",
}
_PROBE_SECONDS = 120
_PROBE = """
import json, torch
cuda = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        cuda.append([p.name, p.major, p.minor, p.total_memory])
print(json.dumps({
    "version": torch.__version__,
    "built_for_cuda": torch.version.cuda,
    "cpu": torch.backends.cpu.get_cpu_capability(),
    "bfloat16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    "threads": torch.get_num_threads(),
    "cuda": cuda,
    "mps": torch.backends.mps.is_available(),
}))
"""


@dataclass(frozen=True)
class Check:
    """One finding. `fix` says what to do about it; None when there is nothing to do."""

    name: str
    status: Status
    found: str
    fix: str | None = None


def examine(project_dir: Path | None = None) -> list[Check]:
    """Look at the machine, the installation and, when given, a project or a gateway's file."""
    loaded: LoadedProject | None = None
    serve = ServeConfig()
    project_checks: list[Check] = []
    if project_dir is not None:
        try:
            service = load_service(project_dir)
            serve = service.service.serve
            project_checks = [
                *_upstreams(serve),
                *(_path(named) for named in serving_paths(service)),
            ]
            if service.trains:
                loaded = load_project(project_dir)
            else:
                found = f"{project_dir}: {service.service.name}, a gateway"
                project_checks.insert(0, Check("project file", "ok", found))
        except PlatenError as error:
            project_checks = [Check("project file", "fail", error.message, error.hint)]
    store = _store_folder(loaded)
    checks = [_python(), _system(), _cores(), _memory(), _disk(store), *_extras(), *_torch()]
    checks += [_port(serve), _telemetry(os.environ), *project_checks]
    if loaded is not None:
        checks += [_project_file(loaded), usable := _store(loaded, store)]
        checks += [_path(named, loaded.redact) for named in project_paths(loaded)]
        if usable.status == "ok":
            checks.append(_unfinished(loaded))
    return checks


# -- the machine ----------------------------------------------------------------------------------


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info >= PYTHON:
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, f"install Python {'.'.join(map(str, PYTHON))} or newer")


def _system() -> Check:
    return Check("system", "ok", f"{platform.platform(terse=True)}, {platform.machine()}")


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False)
    found = f"{usable} usable" + (f" ({physical} physical in the machine)" if physical else "")
    if usable > 1:
        return Check("cores", "ok", found)
    return Check("cores", "warn", found, "training and serving on one core are slow; give the machine more")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    limit = _container_limit()
    total, free = memory.total, memory.available
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    found = f"{free / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB"
    if free >= 2 * _GIB:
        return Check("memory", "ok", found)
    return Check("memory", "warn", found, "the examples take about 2 GiB: close programs, or train smaller")


def _container_limit() -> int | None:
    """The memory that the control group allows, in bytes; None without a limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text())
        except (OSError, ValueError):
            continue
    return None


def _disk(folder: Path) -> Check:
    place = _nearest(folder)
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free at {place}"
    if free >= 2 * _GIB:
        return Check("disk", "ok", found)
    fix = "free some space (`platen gc`), or move the store (`store:` in platen.yaml)"
    return Check("disk", "fail" if free < _GIB / 4 else "warn", found, fix)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


# -- the installation -----------------------------------------------------------------------------


def _extras() -> Iterator[Check]:
    """platen's own dependencies and each extra's, against what is installed."""
    needed: dict[str, list[Requirement]] = defaultdict(list)
    extras = metadata.metadata("platen").get_all("Provides-Extra") or []
    for text in metadata.requires("platen") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed[""].append(requirement)
            continue
        for extra in extras:
            if requirement.marker.evaluate({"extra": extra}):
                needed[extra].append(requirement)
    yield _extra("platen", needed[""], "pip install --upgrade platen", "fail")
    for extra in extras:
        if extra not in ("all", "dev"):
            yield _extra(f"extra {extra}", needed[extra], f"pip install 'platen[{extra}]'", "warn")


def _extra(name: str, requirements: list[Requirement], command: str, when_missing: Status) -> Check:
    have, missing = [], []
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            have.append(f"{requirement.name} {version}")
        else:
            missing.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if not missing:
        return Check(name, "ok", ", ".join(have))
    purpose = _NEEDED_FOR.get(name.removeprefix("extra "))
    found = ", ".join(missing) + (f"; {purpose} needs it" if purpose else "")
    return Check(name, when_missing, found, command)


def _torch() -> Iterator[Check]:
    try:
        installed = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return
    reinstall = "pip install --force-reinstall torch"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Check("torch", "fail", f"{installed} did not load within {_PROBE_SECONDS} s", reinstall)
        return
    if done.returncode:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        yield Check("torch", "fail", f"{installed} does not load: {last}", reinstall)
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    yield _torch_cpu(facts)
    yield from _compiler()
    yield _accelerator(facts)


def _torch_cpu(facts: Mapping[str, object]) -> Check:
    bfloat16 = "bfloat16 in hardware" if facts["bfloat16"] else "no bfloat16 in hardware: float32 is used"
    found = f"{facts['version']}, {facts['cpu']}, {facts['threads']} threads, {bfloat16}"
    if facts["cpu"] == "DEFAULT":
        return Check("torch", "warn", found, "this processor lacks AVX2; expect a fraction of the speed")
    return Check("torch", "ok", found)


def _compiler() -> Iterator[Check]:
    """What compiles the engines' kernels; no matter where no system but Linux has them."""
    if (found := find_compiler()) is not None:
        yield Check("compiler", "ok", f"{found}, for the engines' kernels")
    elif platform.system() == "Linux":
        lacks = "no C++ compiler: the torch engine writes a third slower, llamacpp with AVX-512 by up to half"
        yield Check("compiler", "warn", lacks, "apt-get install g++, or name one in CXX")


def _accelerator(facts: Mapping[str, object]) -> Check:
    devices = facts["cuda"]
    if isinstance(devices, list) and devices:
        texts = [
            f"cuda:{i} {name}, capability {major}.{minor}, {size / _GIB:.0f} GiB"
            for i, (name, major, minor, size) in enumerate(devices)
        ]
        return Check("accelerator", "ok", "; ".join(texts))
    if facts["mps"]:
        return Check("accelerator", "ok", "Apple GPU (mps)")
    if shutil.which("nvidia-smi") and not facts["built_for_cuda"]:
        return Check(
            "accelerator",
            "warn",
            "an NVIDIA driver, but this torch is built for the CPU alone",
            "install a CUDA build of torch: see pytorch.org/get-started",
        )
    return Check("accelerator", "ok", "none; everything runs on the CPU")


# -- the surroundings -----------------------------------------------------------------------------


def _port(serve: ServeConfig) -> Check:
    host, port = serve.host, serve.port
    name = f"port {port}"
    if port == 0:
        return Check(name, "ok", "any free port is taken")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do, so that a connection of a moment ago does not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        fix = "choose another: `--set serve.port=0` takes any free one"
        if error.errno == errno.EADDRINUSE:
            return Check(name, "warn", f"in use on {host}", fix)
        return Check(
            name, "fail", f"{host}: {error.strerror}", "set serve.host and serve.port in platen.yaml"
        )
    return Check(name, "ok", f"free on {host}")


_SWITCHES = ("DAGSTER_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")


def _telemetry(environment: Mapping[str, str]) -> Check:
    """Platen switches its libraries' telemetry off, unless the environment says otherwise."""
    on = [
        name for name in _SWITCHES if environment.get(name, "true").lower() in ("", "0", "false", "no", "off")
    ]
    if not on:
        return Check("telemetry", "ok", "off: Dagster's and MLflow's; Platen has none")
    names = ", ".join(f"{name}={environment[name]}" for name in on)
    return Check("telemetry", "warn", f"the environment asks for it: {names}", f"unset {' '.join(on)}")


# -- the project ----------------------------------------------------------------------------------


def _upstreams(serve: ServeConfig) -> Iterator[Check]:
    """Of each upstream, whether it takes connections, and its key's variable. No request is sent there."""
    for upstream in serve.upstreams:
        yield _address(upstream)
        if upstream.api_key_env is not None:
            yield _key(upstream, upstream.api_key_env)


def _address(upstream: UpstreamConfig) -> Check:
    name, url = f"upstream {upstream.name}", urlsplit(upstream.base_url)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    try:
        socket.create_connection((url.hostname, port), upstream.connect_seconds).close()
    except OSError as error:
        found = f"{upstream.base_url} can't be reached: {error.strerror or error}"
        return Check(name, "warn", found, "start it, or set its base_url in platen.yaml")
    return Check(name, "ok", f"{upstream.base_url} takes connections")


def _key(upstream: UpstreamConfig, variable: str) -> Check:
    name = f"key of {upstream.name}"
    try:
        upstream.key()
    except ConfigError as error:
        return Check(name, "fail", error.message, error.hint)
    return Check(name, "ok", f"in the environment as {variable}")


def _path(named: NamedPath, redact: Callable[[str], str] = str) -> Check:
    """What a path leads to. `redact` hides what came from the environment, such as a database's password."""
    try:
        return Check(named.key, "ok", redact(named.look()))
    except PlatenError as error:
        return Check(named.key, "fail", redact(error.message), redact(error.hint or "correct the path"))
    except ImportError as error:
        found = f"can't be looked at without {error.name}"
        return Check(named.key, "warn", found, "install the extra that it belongs to, see above")


def _project_file(loaded: LoadedProject) -> Check:
    project = loaded.project
    what = f"{len(project.variants)} variants" if project.variants else project.model.architecture
    if project.base is not None:
        what = f"from {shown(project.base)}"
    elif project.train is None:
        what = "data and tokens, no model" if project.makes_tokens else "data, no model"
    return Check("project file", "ok", f"{loaded.path}: {project.name}, {what}")


def _store_folder(loaded: LoadedProject | None) -> Path:
    """The folder whose disk the store fills; for a remote store, where work in progress lies."""
    if loaded is None:
        return Path.cwd()
    protocol, separator, rest = loaded.project.store.partition("://")
    if separator and protocol != "file":
        return loaded.directory / ".platen"
    return (loaded.directory / Path(rest if separator else protocol).expanduser()).absolute()


def _store(loaded: LoadedProject, folder: Path) -> Check:
    url = loaded.redact(loaded.project.store)
    protocol, separator, _ = url.partition("://")
    if separator and protocol != "file":
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            return Check("store", "fail", f"{url}: {error}", "install what it names, or change `store:`")
        return Check("store", "ok", f"{url} (not contacted)")
    place = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = "make it writable, or change `store:` in platen.yaml"
        return Check("store", "fail", f"{place} can't be written: {error.strerror}", fix)
    return Check("store", "ok", f"{folder} can be written")


def _unfinished(loaded: LoadedProject) -> Check:
    from platen.core.artifacts import Store

    store = Store(
        loaded.project.store,
        base=loaded.directory,
        scratch=loaded.directory / ".platen",
        shown=loaded.redact(loaded.project.store),
    )
    leftovers = store.leftovers()
    if not leftovers:
        return Check("unfinished work", "ok", "none")
    size = sum(f.stat().st_size for folder in leftovers for f in folder.rglob("*") if f.is_file())
    names = ", ".join(folder.name for folder in leftovers[:5]) + (" …" if len(leftovers) > 5 else "")
    found = f"{names} ({size / 1e6:.1f} MB)"
    return Check("unfinished work", "warn", found, "`platen run` goes on with it; `platen gc` removes it")
