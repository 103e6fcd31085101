"""The stages and kinds of training there are: Platen's own, in the order they run, and those of packages.

A package adds a stage by an entry point in the group `platen.stages` that leads to a StageSpec, and a kind
of training by one in `platen.training` that leads to a StepSpec; a program calls `register`. It is here and
not in `pipeline` because the sections that a project file may have depend on it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from platen.compress.stage import COMPILE
from platen.core.metrics import Metric
from platen.core.plugins import Catalogue
from platen.core.stage import StageSpec, StepSpec
from platen.data.instruct.stage import INSTRUCT
from platen.data.stage import DATA
from platen.evaluate.stage import COMPARE, EVALUATE
from platen.registry.config import EVALUATION
from platen.registry.stage import BASE, REGISTER
from platen.tokens.stage import TOKENIZER, TOKENS
from platen.train.stage import PRETRAIN

BEFORE_TRAINING: tuple[StageSpec[Any], ...] = (DATA, INSTRUCT, BASE, TOKENIZER, TOKENS)
AFTER_TRAINING: tuple[StageSpec[Any], ...] = (EVALUATE, REGISTER, COMPILE, COMPARE)
OWN = frozenset(spec.name for spec in (*BEFORE_TRAINING, PRETRAIN.stage, *AFTER_TRAINING))
"""Names of stages that have sections of their own."""

STAGES: Catalogue[StageSpec[Any]] = Catalogue(
    "platen.stages", (*BEFORE_TRAINING, PRETRAIN.stage, *AFTER_TRAINING)
)
TRAINING: Catalogue[StepSpec[Any, Any]] = Catalogue("platen.training", (PRETRAIN,))


def register(spec: StageSpec[Any] | StepSpec[Any, Any]) -> None:
    """Add a stage, or a kind of training. Raises ConfigError when there is another of that name."""
    if isinstance(spec, StepSpec):
        TRAINING.register(spec)
    else:
        STAGES.register(spec)


def added() -> dict[str, StageSpec[Any]]:
    """Stages of other packages: those that the section `stages` may have."""
    return {name: spec for name, spec in STAGES.all().items() if name not in OWN}


def declared_metrics() -> dict[str, Metric[Any]]:
    """The metrics of every report as gates name them: the evaluation's by name, others as STAGE.METRIC."""
    return {
        metric.name if spec.name == EVALUATION else f"{spec.name}.{metric.name}": metric
        for spec in STAGES.all().values()
        for metric in spec.metrics()
    }


class Step(Protocol):
    """A training step's section."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


class _Steps:
    """A list of training steps, each a section of the kind that it names."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: _step_list().validate_json(json.dumps(value), strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda steps: [step.model_dump(mode="json") for step in steps]
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(_step_list().core_schema)


class _Added:
    """Sections of stages that packages add, by the stages' names."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: _sections_of(_added_model().validate_json(json.dumps(value), strict=True)),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda sections: {name: one.model_dump(mode="json") for name, one in sections.items()}
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(_added_model().core_schema)


if TYPE_CHECKING:
    Steps = tuple[Step, ...]
    AddedSections = dict[str, BaseModel]
else:
    Steps = Annotated[tuple, _Steps]
    AddedSections = Annotated[dict, _Added]


def _step_list() -> TypeAdapter[Any]:
    from pydantic import Field

    kinds = {step.name: step.section for step in TRAINING.all().values()}

    class OneOf:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            choices = {name: handler.generate_schema(section) for name, section in kinds.items()}
            return core_schema.tagged_union_schema(choices, discriminator="kind")

    return TypeAdapter(Annotated[tuple[Annotated[Any, OneOf], ...], Field(min_length=1)])


def _added_model() -> TypeAdapter[Any]:
    from pydantic import create_model

    from platen.core.config import Section

    fields: dict[str, Any] = {name: (spec.config | None, None) for name, spec in added().items()}
    return TypeAdapter(create_model("Stages", __base__=Section, **fields))


def _sections_of(model: BaseModel) -> dict[str, BaseModel]:
    given = {name: getattr(model, name) for name in model.model_fields_set}
    return {name: cast(BaseModel, section) for name, section in given.items() if section is not None}
