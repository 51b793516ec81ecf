"""Where ``allograft study`` runs its units: options, and what they mean together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from allograft.errors import SpecError, nearest

if TYPE_CHECKING:
    from allograft.run.executors import Executor as AnyExecutor

NAMES = ("local", "ray")
Executor = Annotated[
    str | None,
    typer.Option(help="Run several units at once: 'local' in processes on this machine, 'ray' on a cluster."),
]
Jobs = Annotated[int | None, typer.Option(help="With --executor local: how many units run at once.")]
Address = Annotated[
    str | None, typer.Option(help="With --executor ray: HOST:PORT of the cluster, or auto for this machine's.")
]


def made_executor(name: str | None, jobs: int | None, address: str | None, device: str) -> AnyExecutor | None:
    """The executor; None for this process.

    Raises:
        SpecError: an unknown name, or an option of another executor.
        MissingExtraError: Ray is not installed.
    """
    if jobs is not None and name != "local":
        raise SpecError("--jobs goes with --executor local; add that, or leave out --jobs")
    if address is not None and name != "ray":
        raise SpecError("--address goes with --executor ray; add that, or leave out --address")
    if name is None:
        return None
    if name not in NAMES:
        raise SpecError(f"--executor: {nearest(name, NAMES, 'executor')}")
    from allograft.errors import require_extra
    from allograft.run.executors import LocalExecutor, RayExecutor

    if name == "local":
        return LocalExecutor(jobs)
    require_extra("ray", "cluster")
    return RayExecutor(address or "auto", device)
