"""Reads `platen.yaml`: text to `Project`, with `--set` overrides and environment variables put in.

Whatever is wrong with the file is a `ConfigError` that names the file, line, key, what was found and what
is allowed, all problems of the file at once. The schema is `project`; YAML's own rules are `yamltext`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from platen.core.config import Section
from platen.core.errors import ConfigError
from platen.core.wording import suggestion
from platen.models.config import ModelConfig
from platen.project import FILE_NAME
from platen.project.problems import explain
from platen.project.schema import SchemaNode, get, json_schema, keys_at, reference_markdown
from platen.project.sections import Project, Service
from platen.project.templates import new_project
from platen.project.yaml import KeyPath, Position, Problem, Values, YamlTextError, parse
from platen.train.config import TrainConfig

if TYPE_CHECKING:
    from platen.core.state.interface import State
    from platen.registry.versions import Registry

__all__ = ["LoadedProject", "json_schema", "load_project", "new_project", "reference_markdown"]

Redactable = TypeVar("Redactable")
MAX_BYTES = 1 << 18
MAX_PROBLEMS = 10
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?", re.DOTALL)
_SECRET_LENGTH = 4


@dataclass(frozen=True)
class LoadedProject:
    """A valid project, the folder its relative paths start from, and the file it was read from.

    `interpolated` maps each value that came from the environment to the reference in the file.
    """

    project: Project
    directory: Path
    path: Path
    interpolated: Mapping[str, str] = field(default_factory=dict, repr=False)

    def redact(self, value: Redactable) -> Redactable:
        """A text, or nested lists and dicts of them, with every value from the environment put back to its
        reference. Redact data before it becomes JSON text, where a value could be part of a number or key.
        """
        return _redact(value, self.interpolated)

    def open_state(self) -> State:
        """Where what the project remembers between runs is kept. Raises ConfigError, MissingExtraError."""
        from platen.core.state.open import open_state

        return open_state(self.directory, self.project.name, self.project.state)


@dataclass(frozen=True)
class LoadedService:
    """What a project file says of serving, and the folder its relative paths start from.

    `trains` is false for a gateway's file, which has no more than this.
    """

    service: Service
    directory: Path
    trains: bool
    registry_url: str | None = field(default=None, repr=False)

    def open_registry(self) -> Registry:
        """The registered versions. Raises as `open_state`, and RegistryError."""
        from platen.registry.versions import Registry

        return Registry(self.directory, url=self.registry_url, state=self.open_state())

    def open_state(self) -> State:
        """Where keys and routes are kept. Raises ConfigError, MissingExtraError."""
        from platen.core.state.open import open_state

        return open_state(self.directory, self.service.name, self.service.state)


def load_project(path: Path, overrides: Sequence[str] = ()) -> LoadedProject:
    """Read the project at `path`, a folder with a `platen.yaml` or such a file itself.

    `overrides` are `key.path=value` texts, the value in YAML; they win over the file, the last over all.
    Raises ConfigError that lists every problem.
    """
    file, draft, data = _drafted(path, overrides)
    if _only_serves(data):
        raise ConfigError(
            f"{file} has only name and serve: a gateway's file has no stages and makes no model",
            hint=f"`platen serve -p {path}` starts it, and `platen chat --url` talks to it then; "
            "a project has data too",
        )
    project = draft.validate(data)
    if project is None:
        raise _refusal(file, draft.problems, draft.interpolated, draft.overridden)
    return LoadedProject(project, file.parent.resolve(), file, draft.interpolated)


def load_service(path: Path, overrides: Sequence[str] = ()) -> LoadedService:
    """What is needed to serve, of a whole project or of a file that has no more; else as `load_project`."""
    file, draft, data = _drafted(path, overrides)
    service: Service | None = None
    registry_url: str | None = None
    if only_serves := _only_serves(data):
        service = draft.validate_service(data)
    elif (project := draft.validate(data)) is not None:
        service = Service(name=project.name, serve=project.serve, state=project.state)
        registry_url = project.registry
    if service is None:
        raise _refusal(file, draft.problems, draft.interpolated, draft.overridden)
    return LoadedService(service, file.parent.resolve(), not only_serves, registry_url)


def _only_serves(data: Mapping[str, Any]) -> bool:
    """Whether these are a gateway's: no text, no training, no model."""
    return data.keys() - {"state"} == {"name", "serve"}


def _drafted(path: Path, overrides: Sequence[str]) -> tuple[Path, _Draft, dict[str, Any]]:
    """The file, and its values with what is laid over them, not yet validated."""
    file = _locate(path)
    text = _read(file)
    try:
        values = parse(text)
    except YamlTextError as error:
        raise _refusal(file, [error.problem], {}) from None
    if not isinstance(values.root, dict):
        raise _refusal(file, [_not_a_section(values)], {})
    draft = _Draft(values)
    for override in overrides:
        draft.override(override)
    return file, draft, draft.interpolate(values.root, ())


def _locate(path: Path) -> Path:
    try:
        if not path.is_dir():
            if path.exists():
                return path
            folder, what = path.parent, f"{str(path)!r} does not exist"
        elif (path / FILE_NAME).exists():
            return path / FILE_NAME
        else:
            folder, what = path, f"{path.absolute()} has no {FILE_NAME}"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{str(path)!r}: {reason}", hint="name a project's folder") from error
    other = folder / "platen.yml"
    if other.exists():
        raise ConfigError(what, hint=f"there is a platen.yml: rename it to {FILE_NAME}")
    raise ConfigError(
        what, hint="start a project with `platen new NAME`, or name one: `platen run FOLDER` or `-p FOLDER`"
    )


def _read(file: Path) -> str:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file} is not a file", hint=f"make {FILE_NAME} a text file")
        if status.st_size > MAX_BYTES:
            raise ConfigError(
                f"{file} has {status.st_size:,} bytes; a project file has at most {MAX_BYTES:,}",
                hint="data belongs in files that data.sources names",
            )
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}", hint="check its permissions") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8 text; nothing was started",
            hint="save the file as UTF-8",
        ) from None


def _not_a_section(values: Values) -> Problem:
    if values.root is None and not values.problems:
        return Problem(
            (),
            "the file is empty; a project gives at least name and data, and train for a model "
            "(`platen new NAME` writes one to start from)",
            Position(1, 1),
        )
    kind = "list" if isinstance(values.root, list) else "single value"
    message = f"found a {kind} where the project's keys (name, data, train, …) should be"
    return next(iter(values.problems), Problem((), message, values.position(())))


class _Draft:
    """The file's values on their way to a Project, with the problems met so far."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.problems: list[Problem] = list(values.problems)
        self.interpolated: dict[str, str] = {}
        self.overridden: dict[KeyPath, str] = {}

    @cached_property
    def _schema(self) -> SchemaNode:
        """Made when first needed: a file without problems does not need it."""
        return json_schema()

    # -- --set ------------------------------------------------------------------------------------

    def override(self, text: str) -> None:
        """Lay one `key.path=value` over the file's values."""
        key, equals, written = text.partition("=")
        path = _split_path(key)
        if not equals or not path:
            raise ConfigError(
                f"--set {text}: not of the form KEY=VALUE", hint="such as --set train.steps=200"
            )
        try:
            parsed = parse(written)
        except YamlTextError as error:
            raise ConfigError(f"--set {text}: {error.problem.message}", hint="the value is YAML") from None
        if parsed.problems or (parsed.root is None and not written.strip()):
            said = parsed.problems[0].message if parsed.problems else "no value after `=`"
            raise ConfigError(f"--set {text}: {said}", hint='write null to unset a key, "" for an empty text')
        self._put(path, parsed.root, text)

    def _put(self, path: KeyPath, value: Any, text: str) -> None:
        at: Any = self.values.root
        real: KeyPath = ()
        for depth, written in enumerate(path):
            step = str(written) if isinstance(at, dict) else written
            self._check_step(at, real, step, text)
            if depth == len(path) - 1:
                at[step] = value
            elif get(at, (step,)) is None:
                at[step] = {}
                self.overridden[*real, step] = f"--set {text}"
            at, real = get(at, (step,)), (*real, step)
        self.overridden = {p: said for p, said in self.overridden.items() if p[: len(real)] != real}
        self.overridden[real] = f"--set {text}"

    def _check_step(self, at: Any, above: KeyPath, step: str | int, text: str) -> None:
        where = dotted(above) or "the top level"
        if isinstance(at, list):
            if not isinstance(step, int) or step >= len(at):
                known = f"items 0 to {len(at) - 1}" if at else "no items"
                raise ConfigError(f"--set {text}: {where} is a list with {known}, and has no {step}")
        elif not isinstance(at, dict):
            raise ConfigError(f"--set {text}: {where} is a single value, and has no {step}")
        else:
            known_keys = keys_at(self._schema, above, self.values.root)
            if known_keys and step not in known_keys:
                raise ConfigError(
                    f"--set {text}: {where} has no key {step}{suggestion(str(step), known_keys)}",
                    hint=f"keys there: {', '.join(known_keys)}",
                )

    # -- environment ------------------------------------------------------------------------------

    def interpolate(self, value: Any, path: KeyPath) -> Any:
        """`value` with the environment's variables put into its texts."""
        if isinstance(value, dict):
            return {key: self.interpolate(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.interpolate(item, (*path, i)) for i, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return _REFERENCE.sub(lambda match: self._variable(match, path), value)
        return value

    def _variable(self, match: re.Match[str], path: KeyPath) -> str:
        reference = match.group()
        if reference == "$${":
            return "${"
        name = _NAME.fullmatch(match.group(1))
        if not match.group(2) or name is None:
            self._report(path, f"{reference!r} is not ${{NAME}} or ${{NAME:-default}}; a literal ${{ is $${{")
            return reference
        value = os.environ.get(name.group(1))
        if name.group(2) and not value:
            return name.group(3)
        if value is None:
            self._report(
                path,
                f"the environment variable {name.group(1)} is not set; set it, or give a default: "
                f"${{{name.group(1)}:-default}}",
            )
            return reference
        try:
            value.encode()
        except UnicodeEncodeError:
            self._report(path, f"the environment variable {name.group(1)} is not UTF-8 text")
            return reference
        self.interpolated[value] = f"${{{name.group(1)}}}"
        return value

    def _report(self, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(path, message, self.values.position(path)))

    # -- schema -----------------------------------------------------------------------------------

    def validate(self, data: Any) -> Project | None:
        """The project, or None when there are problems."""
        project: Project | None = None
        try:
            project = Project.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            self._add(error, ())
        variants = data.get("variants")
        for name, variant in variants.items() if isinstance(variants, dict) else ():
            if isinstance(variant, dict):
                self._check_variant(project, name, variant)
        return None if self.problems else project

    def validate_service(self, data: Any) -> Service | None:
        """The service, or None when there are problems."""
        try:
            service = Service.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            self._add(error, ())
            return None
        return None if self.problems else service

    def _check_variant(self, project: Project | None, name: str, variant: dict[str, Any]) -> None:
        """A variant's keys by themselves, then, in a valid project, together with what they change."""
        before = len(self.problems)
        sections: tuple[tuple[str, type[Section]], ...] = (("model", ModelConfig), ("train", TrainConfig))
        for key, section in sections:
            changes = variant.get(key, {})
            try:
                section.model_validate_json(json.dumps(changes), strict=True)
            except ValidationError as error:
                self._add(error, ("variants", name, key), alone=True)
        if project is None or len(self.problems) > before:
            return
        try:
            project.variant(name)
        except ValidationError as error:
            place = "model" if error.title == "ModelConfig" else "train"
            self._add(error, ("variants", name, place))
        except ValueError as error:
            path = ("variants", name)
            self.problems.append(Problem(path, str(error), self.values.position(path, of_key=True)))

    def _add(self, error: ValidationError, above: KeyPath, *, alone: bool = False) -> None:
        """Turn pydantic's errors below `above` into problems; `alone`: only what no other key can mend."""
        known = {problem.path for problem in self.problems}
        for problem in explain(error, above, self.values, self._schema, alone=alone):
            if not any(problem.path[: len(path)] == path for path in known if path):
                self.problems.append(problem)


def _split_path(dotted_path: str) -> KeyPath:
    """`a.b[0].c` or `a.b.0.c` as steps; empty when a step is."""
    steps = re.sub(r"\[([0-9]+)\]", r".\1", dotted_path.strip()).split(".")
    if not all(steps):
        return ()
    return tuple(int(step) if step.isascii() and step.isdigit() else step for step in steps)


def dotted(path: KeyPath) -> str:
    """A key path as it is written in messages and for `--set`."""
    return ".".join(map(str, path))


def _redact(value: Redactable, interpolated: Mapping[str, str]) -> Redactable:
    result: Any = value
    if isinstance(value, str):
        for secret in sorted(interpolated, key=len, reverse=True):
            # A short value is no secret, and would be found in unrelated words.
            if len(secret) >= _SECRET_LENGTH:
                result = result.replace(secret, interpolated[secret])
    elif isinstance(value, dict):
        result = {key: _redact(below, interpolated) for key, below in value.items()}
    elif isinstance(value, list):
        result = [_redact(below, interpolated) for below in value]
    return cast(Redactable, result)


def _refusal(
    file: Path,
    problems: Sequence[Problem],
    interpolated: Mapping[str, str],
    overridden: Mapping[KeyPath, str] = MappingProxyType({}),
) -> ConfigError:
    """One error that lists all problems, in the file's order."""

    def place(problem: Problem) -> str:
        for path in overridden:
            if problem.path[: len(path)] == path:
                return overridden[path]
        at = problem.at
        return f"{file}:{at.line}:{at.column}" if at else f"{file}"

    def order(problem: Problem) -> tuple[int, int]:
        return (problem.at.line, problem.at.column) if problem.at else (0, 0)

    lines = []
    for problem in sorted(problems, key=order):
        key = f"{dotted(problem.path)}: " if problem.path else ""
        lines.append(f"{place(problem)}: {key}{_redact(problem.message, interpolated)}")
    if len(lines) == 1:
        return ConfigError(lines[0] + "; nothing was started")
    listed = [f"  {number}. {line}" for number, line in enumerate(lines[:MAX_PROBLEMS], 1)]
    if len(lines) > MAX_PROBLEMS:
        listed.append(f"  … and {len(lines) - MAX_PROBLEMS} more")
    return ConfigError("\n".join([f"{file}: {len(lines)} problems; nothing was started", *listed]))
