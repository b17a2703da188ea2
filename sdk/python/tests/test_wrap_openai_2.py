"""The same with the major version of openai before this one, which speaks httpx instead of httpx2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
OPENAI_2 = Path(sys.prefix) / "openai-2"
# The modules that need no other provider's SDK, without the application's database and its plugins.
MODULES = ("test_wrap_openai.py", "test_wrap_retries.py", "test_wrap_streams.py")
ALONE = ("-c", "sdk/python/pyproject.toml", "--rootdir=.", "--confcutdir=sdk/python", "-p", "no:django")
REPORTS_VERSION = "import sys, openai, httpx, pytest; print(openai.__version__); sys.exit(pytest.main())"


def test_openai_2_is_wrapped_as_openai_3_is() -> None:
    assert OPENAI_2.exists(), "`make setup` installs it"
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            REPORTS_VERSION,
            *ALONE,
            "--import-mode=importlib",
            "-q",
            *(str(HERE / module) for module in MODULES),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": f"{OPENAI_2}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.startswith("2."), ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
