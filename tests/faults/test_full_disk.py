"""A full disk: the study stops with a message that names the file, what is finished stays, and it
goes on when there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.faults.world import run, scores, study_of, told, trainings, write_cohort

from allograft.cli import main
from allograft.context.lock import locked
from allograft.errors import OutputError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("whole")
    return scores(run(manifest, out)), told(out)


def answer(
    manifest: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """``allograft study`` with a checkpoint after each step; its exit code and last line of
    errors."""
    path = out.parent / "study.yaml"
    path.write_text(yaml.safe_dump(study_of(manifest)))
    monkeypatch.setattr(sys, "argv", ["allograft", "study", str(path), "--out", str(out), "--checkpoint-seconds", "0"])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "where",
    [
        "-image.npy",
        "splits.csv",
        "journal/train.safetensors",
        "stages/trained/model.safetensors",
        "-test.json",
        "carry.safetensors",
    ],
)
def test_no_space_left(
    where: str,
    manifest: Path,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, real, refused = tmp_path / "out", os.fsync, list[str]()

    def full(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if where.split("/")[-1] in name and where.split("/")[0] in name:
            refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    code, said = answer(manifest, out, monkeypatch, capsys)
    assert (code, len(refused)) == (2, 1), said
    assert said.startswith(f"error: {out}")
    assert where in said
    assert "No space left on device" in said
    assert "free some space" in said
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("lock"))
    assert not [path for path in out.glob("records/*") if "failed" in path.name]
    monkeypatch.setattr(os, "fsync", real)
    assert scores(run(manifest, out)) == undisturbed[0]
    assert told(out) == undisturbed[1]


def test_a_lock_without_room_for_its_holder_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(handle: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("/lock"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with (
            pytest.raises(
                OutputError, match=r"unit/lock: cannot be written \(No space left on device\); free some space"
            ),
            locked(tmp_path / "unit" / "lock"),
        ):
            pytest.fail("entered without a lock")
    assert not (tmp_path / "unit" / "lock").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/lock: cannot be written"), locked(tmp_path / "file" / "lock"):
        pytest.fail("entered without a lock")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many kilobytes, or makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def sized(kilobytes: int) -> Path:
        nonlocal mounted
        option = f"size={kilobytes}k" + (",remount" if mounted else "")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode and not mounted:
            pytest.skip(f"this machine mounts no small file system here: {done.stderr.strip() or done.returncode}")
        mounted = True
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    yield sized
    if mounted:
        subprocess.run(
            ["umount", "--lazy", str(place)], check=True
        )  # at once, whatever another process of the machine looks at


def test_a_disk_that_is_really_full(
    manifest: Path,
    undisturbed: Any,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run(manifest, tmp_path / "measured")
    need = sum(-(-path.stat().st_size // 4096) * 4 for path in (tmp_path / "measured").rglob("*") if path.is_file())
    out = small_disk(3 * need // 4) / "out"
    code, said = answer(manifest, out, monkeypatch, capsys)
    assert code == 2, said
    assert "cannot be written (No space left on device); free some space" in said
    finished = {path.parent.name for path in out.glob("units/*/carry.safetensors")}
    assert 0 < len(finished) <= 4
    small_disk(4 * need)
    made = trainings(monkeypatch)
    assert scores(run(manifest, out)) == undisturbed[0]
    assert told(out) == undisturbed[1]
    assert len(made) < 4
