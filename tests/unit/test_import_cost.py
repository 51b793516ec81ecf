"""Help and lists answer at once, because nothing heavy is imported for them: modules are counted,
not seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "monai",
    "numpy",
    "pandas",
    "lightning_fabric",
    "scipy",
    "PIL",
    "nibabel",
    "yaml",
    "matplotlib",
    "timm",
}
SCRIPT = """
import sys
sys.argv = ["allograft", *sys.argv[1:]]
from allograft.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print("MODULES", code, *sys.modules)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["methods"], ["--version"], ["study", "--help"], ["predict", "--help"]], ids=" ".join
)
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    shown, _, told = done.stdout.rpartition("MODULES")
    code, *modules = told.split()
    assert code == "0"
    assert shown.strip()
    assert "allograft.cli" in modules
    assert sorted(HEAVY & set(modules)) == []


def test_the_bare_package_costs_nothing() -> None:
    script = "import sys, allograft; dir(allograft); print(allograft.__version__, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert sorted(HEAVY & set(done.stdout.split())) == []
