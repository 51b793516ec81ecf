"""Wheel and source distribution: built, installed without the source tree, and used; and the files next to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import allograft as package

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="this is no checkout")
STUDY = """
cohort: brains/manifest.csv
task: {segmentation: {classes: [white-matter, grey-matter]}}
network: {unet: {channels: [4, 8]}}
source: [a]
target: [b]
recipes: [zscore]
baselines: false
seeds: 1
budget: {steps: 2, batch_size: 2}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, source distribution)."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def run(words: list[str], folder: Path) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def installed(archive: Path, folder: Path) -> Path:
    """The scripts of an environment that sees the tested packages, but not the source tree, with the archive in it."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    where = {"base": str(folder), "platbase": str(folder)}
    seen = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    Path(sysconfig.get_path("purelib", "venv", where), "tested.pth").write_text("\n".join(dict.fromkeys(seen)))
    scripts = Path(sysconfig.get_path("scripts", "venv", where))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--ignore-installed"]
    run([str(scripts / "python"), "-P", "-m", "pip", "-q", "install", *offline, str(archive)], folder)
    return scripts


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: tuple[Path, Path]) -> None:
    names = {name for name in zipfile.ZipFile(built[0]).namelist() if ".dist-info/" not in name}
    here = Path(package.__file__).parent
    files = {path.relative_to(here.parent).as_posix() for path in here.rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert {"allograft/py.typed", "allograft/report/page.html.j2"} <= names


def test_the_source_distribution_has_tests_examples_and_docs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    for name in ("README.md", "LICENSE", "SECURITY.md", "constraints.txt", "examples/demo.yaml", "docs/index.md"):
        assert name in names
    assert "tests/cli/test_packages.py" in names
    assert not [name for name in names if name.startswith(("runs/", ".venv", "docs/_build", "docs/generated"))]


def test_the_installed_wheel_runs_a_study(built: tuple[Path, Path], tmp_path: Path) -> None:
    scripts = installed(built[0], tmp_path / "environment")
    allograft = str(scripts / "allograft")
    assert run([allograft, "--version"], tmp_path).strip() == package.__version__
    place = run([str(scripts / "python"), "-P", "-c", "import allograft; print(allograft.__file__)"], tmp_path)
    assert Path(place.strip()).is_relative_to(tmp_path)
    run([allograft, "phantom", "brain", "brains", "--subjects", "4", "--size", "32"], tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    said = run([allograft, "study", "study.yaml", "--out", "out", "--device", "cpu"], tmp_path)
    assert "report: out/report.html" in said
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_source_distribution_can_be_installed(built: tuple[Path, Path], tmp_path: Path) -> None:
    scripts = installed(built[1], tmp_path / "environment")
    assert run([str(scripts / "allograft"), "--version"], tmp_path).strip() == package.__version__


def test_what_the_container_copies_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.+)$", text, flags=re.M) for name in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert 'ENTRYPOINT ["allograft"]' in text


def test_the_environment_is_of_a_python_that_the_package_takes() -> None:
    tree = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = (one.partition("=")[2] for one in tree["dependencies"] if str(one).startswith("python="))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, high = re.findall(r"\d\.(\d+)", needed)
    assert int(low) <= int(python.partition(".")[2]) < int(high)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_have_what_a_form_needs(form: Path) -> None:
    tree = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert set(tree) == {"blank_issues_enabled"}
        return
    assert tree["name"]
    assert tree["description"]
    fields = [field for field in tree["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)
