"""The code location that Dagster's page and deployments load: the project named by PLATEN_PROJECT.

dagster dev -m platen.pipeline.definitions
"""

from __future__ import annotations

import os
from pathlib import Path

from platen.pipeline.orchestration import pipeline_definitions
from platen.pipeline.runner import Pipeline
from platen.project.file import load_project

definitions = pipeline_definitions(Pipeline(load_project(Path(os.environ["PLATEN_PROJECT"]))))
