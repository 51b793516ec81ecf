"""A study's records and curves in MLflow or TensorBoard: sinks, which are imported only when they
are asked for and hold nothing that names a patient.

Cases, subjects and the words of errors stay in OUT: they may name people.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from allograft import tree
from allograft.context import Store
from allograft.errors import OutputError, SpecError, require_extra
from allograft.figure import Lines
from allograft.results.record import Record, read_all
from allograft.study.parts import shared_folder
from allograft.tree import content_hash

ARTIFACTS = ("results.csv", "metrics.csv", "correction.csv", "verdict.json")
"""Tables without cases."""
SCHEMES = ("file", "http", "https")
UNIT, CONTENT = "allograft.unit", "allograft.content"
BATCH = 500
"""Numbers sent at a time."""


@dataclass(frozen=True)
class Tracked:
    """One unit as a sink takes it.

    Args:
        unit: its content key.
        name: ``finetune scope=top, seed 0``.
        parameters: of the recipe, as text.
        scalars: (name, step, value): ``SITE/PART/METRIC`` by stage, and ``CURVE/NAME`` by step.
        has_failed: whether it did; OUT says why.
    """

    unit: str
    name: str
    parameters: dict[str, str]
    scalars: tuple[tuple[str, int, float], ...] = ()
    has_failed: bool = False

    @property
    def content(self) -> str:
        """A hash of all that is mirrored."""
        return content_hash(self.name, self.parameters, [list(scalar) for scalar in self.scalars], self.has_failed)


@dataclass(frozen=True)
class Sinks:
    """Where a study is mirrored to.

    Args:
        mlflow: a URI, or None.
        tensorboard: whether ``OUT/tensorboard`` gets event files.
    """

    mlflow: str | None = None
    tensorboard: bool = False
    clients: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def check(self) -> None:
        """Before anything is trained: whether the libraries are there, and the server answers.

        Raises:
            MissingExtraError: what to install.
            SpecError: no URI.
            OutputError: nobody answers.
        """
        if self.tensorboard:
            require_extra("tensorboard", "tracking")
        if self.mlflow is not None:
            self.clients["mlflow"] = mlflow_client(self.mlflow)

    def mirror(self, outs: Sequence[Path]) -> list[str]:
        """Write what the folders of a study, one a part, hold; what is there already is replaced.

        A sink that cannot be written ends neither the study nor the other sink.

        Returns:
            Which sinks are incomplete, and why; nothing where all is written.
        """
        sinks: dict[str, Callable[[Path], None]] = {}
        if self.tensorboard:
            sinks["--tensorboard"] = lambda out: write_events(out / "tensorboard", list(tracked_runs(out)))
        if self.mlflow is not None:
            sinks[f"--mlflow {shown(self.mlflow)}"] = self._to_mlflow
        problems = []
        for name, write in sinks.items():
            try:
                for out in outs:
                    write(out)
            except Exception as error:  # of a server, a disk or a library, of any kind
                problems.append(f"{name}: cannot be written ({_first_line(error)})")
        return problems

    def _to_mlflow(self, out: Path) -> None:
        name, shared = out.resolve().name, shared_folder(out)
        experiment = name if shared == out else f"{shared.resolve().name}/{name}"
        mirror_mlflow(self.clients["mlflow"], experiment, out, list(tracked_runs(out)))


def tracked_runs(out: Path) -> Iterator[Tracked]:
    """Every unit that a study has records of, in the order of their names."""
    by_unit: dict[str, list[Record]] = {}
    for _, record in sorted(read_all(out).items()):
        by_unit.setdefault(record.unit, []).append(record)
    units = shared_folder(out) / "units"
    for unit, records in by_unit.items():
        first = records[0]
        title = str(first.recipe.get("title", first.recipe["name"]))
        parameters = {"recipe": str(first.recipe["name"]), "seed": str(first.seed)}
        parameters |= {str(key): str(value)[:250] for key, value in first.recipe["parameters"].items()}
        scores = [score for record in records if record.status == "done" for score in _scores(record)]
        failed = all(record.status == "failed" for record in records)
        curves = list(_curves(Store(units / unit)))
        yield Tracked(unit, f"{title}, seed {first.seed}", parameters, (*sorted(scores), *curves), failed)


def _scores(record: Record) -> Iterator[tuple[str, int, float]]:
    fold = f"-fold{record.fold}" if record.fold else ""
    for metric, value in record.metrics.items():
        if value is not None:
            yield plain_name(record.site, record.part, f"{metric}{fold}"), record.ordinal, float(value)


def _curves(store: Store) -> Iterator[tuple[str, int, float]]:
    for name, figure in sorted(store.figures(images=False).items()):
        if isinstance(figure, Lines):
            for curve, values in figure.y.items():
                for x, value in zip(figure.x, values, strict=True):
                    if value is not None:
                        yield plain_name(name, curve), round(x), float(value)


def plain_name(*parts: str) -> str:
    """A name that every sink takes. A store of files makes folders of its parts, so that no name
    may begin with the whole of another.

    >>> plain_name("chase", "test", "dice"), plain_name("chase", "test", "dice/left (lower)")
    ('chase/test/dice', 'chase/test/dice.left _lower_')
    """
    return "/".join(re.sub(r"[^\w\-. ]", "_", part.replace("/", "."), flags=re.ASCII) for part in parts)


def write_events(folder: Path, runs: Sequence[Tracked]) -> None:
    """TensorBoard event files, a folder per unit, each written again."""
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        folder_ = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', run.name)}-{run.unit[:8]}"
        tree.remove(folder_)
        with SummaryWriter(str(folder_)) as writer:
            for name, step, value in run.scalars:
                writer.add_scalar(name, value, step)


def mlflow_client(uri: str) -> Any:
    """A client for a server that answers, or for a folder.

    Raises:
        MissingExtraError, SpecError, OutputError: as ``Sinks.check``.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or (parts.scheme != "file" and not parts.hostname):
        raise SpecError(f"--mlflow: found '{shown(uri)}'; expected a URI, for example file:runs/mlflow or https://HOST")
    require_extra("mlflow", "tracking")
    # it reports each use to its authors unless told not to, and refuses folders unless told to
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    if parts.scheme == "file":
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = Path(parts.path).resolve().as_uri()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        raise OutputError(
            f"--mlflow {shown(uri)}: does not answer ({type(error).__name__}); start the server, or leave --mlflow out"
        ) from error
    return client


def shown(uri: str) -> str:
    """A URI without the user and password in it.

    >>> shown("https://me:secret@host/path")
    'https://host/path'
    """
    return re.sub(r"(?<=//)[^/@]*@", "", uri)


def mirror_mlflow(client: Any, experiment: str, out: Path, runs: Sequence[Tracked]) -> None:
    """One run per unit, and one named ``tables`` with the artifacts; a run of the same content is
    left, one of another content replaced."""
    known = client.get_experiment_by_name(experiment)
    where = known.experiment_id if known is not None else client.create_experiment(experiment)
    for run in runs:
        made = _new_run(client, where, run.unit, run.content, run.name)
        if made is None:
            continue
        _log(client, made, run)
        client.set_terminated(made, "FAILED" if run.has_failed else "FINISHED")
    files = [out / name for name in ARTIFACTS if (out / name).exists()]
    content = content_hash([[file.name, file.read_text(encoding="utf-8")] for file in files])
    made = _new_run(client, where, "tables", content, "tables")
    if made is not None:
        for file in files:
            client.log_artifact(made, str(file))
        client.set_terminated(made, "FINISHED")


def _new_run(client: Any, experiment: str, unit: str, content: str, name: str) -> str | None:
    """A new run in the place of those of the unit; None where one has this content already."""
    for run in client.search_runs([experiment], filter_string=f"tags.`{UNIT}` = '{unit}'"):
        if run.data.tags.get(CONTENT) == content and run.info.status in ("FINISHED", "FAILED"):
            return None
        client.delete_run(run.info.run_id)
    made = client.create_run(experiment, run_name=name, tags={UNIT: unit, CONTENT: content})
    return str(made.info.run_id)


def _log(client: Any, run_id: str, run: Tracked) -> None:
    from mlflow.entities import Metric, Param

    client.log_batch(run_id, params=[Param(key, value) for key, value in run.parameters.items()])
    metrics = [Metric(name, value, 0, step) for name, step, value in run.scalars]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
