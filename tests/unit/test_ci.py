"""``.ci/run``: beside the real data no test is skipped in silence, and the browser is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / ".ci"

pytestmark = pytest.mark.skipif(not (CI / "run").is_file(), reason="this is no checkout")

PYTEST = """
import pytest

def test_passed(): pass

@pytest.mark.xfail
def test_expected(): assert False

def test_without_its_arrays(): pytest.skip({reason!r})

@pytest.mark.skipif({browser}, reason="no chromium on PATH")
def test_in_a_browser(): pass
"""


def ci(
    folder: Path, *, shared: bool = True, reason: str = "there is no mount command here", browser: bool = True
) -> str:
    """What ``.ci/run`` says, its exit code last; ``make`` runs a small test file, and ``apt-get`` says what it
    is asked."""
    repository, tools = folder / "repository", folder / "tools"
    shutil.copytree(CI, repository / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    for place in ("data", "vectors") if shared else ():
        (folder / "shared" / place).mkdir(parents=True)
    tests = repository / "test_some.py"
    tests.write_text(PYTEST.format(reason=reason, browser=not browser))
    tools.mkdir()
    for name in ("bash", "dirname", "mktemp", "rm"):
        (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name} here"))
    python = f'exec "{sys.executable}" '
    scripts = {
        "apt-get": 'echo "apt-get $*"',
        "make": f'echo "make $* $ALLOGRAFT_DATA $ALLOGRAFT_VECTORS"\n{python} -m pytest -q "{tests}"',
        "python3": f'{python} "$@"',
        **({"chromium": ""} if browser else {}),
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (tools / name).chmod(0o755)
    told = {
        key: value for key, value in os.environ.items() if not key.startswith(("ALLOGRAFT_", "PYTEST_", "CHROMIUM"))
    }
    ran = subprocess.run(
        [repository / ".ci" / "run"], env={**told, "PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    return f"{ran.stdout}{ran.stderr}exit code {ran.returncode}"


def test_a_reason_that_is_named_passes(tmp_path: Path) -> None:
    said = ci(tmp_path)
    assert f"make lint test {tmp_path}/shared/data {tmp_path}/shared/vectors" in said
    assert "2 passed, 1 skipped, 1 xfailed" in said
    assert "apt-get" not in said
    assert said.endswith("exit code 0")


def test_any_other_skip_fails(tmp_path: Path) -> None:
    said = ci(tmp_path, reason="reference arrays are not here: set ALLOGRAFT_VECTORS")
    assert "test_some::test_without_its_arrays: skipped (reference arrays are not here" in said
    assert "1 tests were skipped; install what they need" in said
    assert said.endswith("exit code 1")


def test_a_browser_that_is_missing_is_installed_or_fails(tmp_path: Path) -> None:
    said = ci(tmp_path, browser=False)
    assert "apt-get install -y -qq --no-install-recommends chromium" in said
    assert "test_some::test_in_a_browser: skipped (no chromium on PATH)" in said
    assert said.endswith("exit code 1")


def test_without_the_data_tests_skip(tmp_path: Path) -> None:
    said = ci(tmp_path, shared=False, reason="real cohorts are not here", browser=False)
    assert "make lint test  \n" in said
    assert "apt-get" not in said
    assert said.endswith("exit code 0")
