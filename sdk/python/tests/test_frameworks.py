"""The recipes of docs/python-frameworks.md with the real frameworks, which do not all fit into one environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.python.tests.readme import REPOSITORY, python_blocks

HERE = Path(__file__).parent / "frameworks"
INSTALLED = Path(sys.prefix) / "frameworks"
# Each stands on the folders after it, and on the packages of this environment.
LAYERS = {
    "current": ("current",),
    "openai-2": ("openai-2", "current"),
    "crewai": ("crewai", "openai-2", "current"),
}
TESTS = {
    "current": ("current_recipes.py", "bedrock.py", "langchain_models.py"),
    "openai-2": ("openai_2_recipes.py",),
    "crewai": ("crewai_recipes.py",),
}
TESTS_MIN = {"current": 150, "openai-2": 20, "crewai": 10}
# Without the application's database and its plugins.
ALONE = ("-c", "sdk/python/pyproject.toml", "--rootdir=.", "--confcutdir=sdk/python", "-p", "no:django")
# None of them may tell anybody that it is used, or look for newer prices.
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}
RUN_S_MAX = 600


@pytest.mark.parametrize("layer", LAYERS)
def test_each_framework_is_governed_by_the_lines_that_the_docs_name(layer: str, tmp_path: Path) -> None:
    assert (INSTALLED / layer).exists(), "`make frameworks` installs it"
    folders = [str(INSTALLED / name) for name in LAYERS[layer]]
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *ALONE,
            "--import-mode=importlib",
            "-q",
            *(str(HERE / name) for name in TESTS[layer]),
        ],
        cwd=REPOSITORY,
        env=os.environ
        | QUIET
        | {"PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", ""), str(REPOSITORY)])}
        | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) >= TESTS_MIN[layer]


def test_every_recipe_of_the_docs_is_run() -> None:
    first, *recipes = python_blocks(REPOSITORY / "docs/python-frameworks.md")
    assert first.code.endswith("tv = TokVigil()\n"), "what all others begin with"
    tests = "".join((HERE / name).read_text() for names in TESTS.values() for name in names)
    assert [block.heading for block in recipes if f'"{block.heading}"' not in tests] == []
