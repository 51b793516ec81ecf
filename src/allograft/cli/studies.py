"""``allograft study``, ``train``, ``adapt``: what trains; ``report``, ``clean``, ``cite``: what it
leaves."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from allograft.cli.channel import Log, Quiet, Verbose, opened
from allograft.cli.executor import Address, Executor, Jobs, made_executor
from allograft.cli.options import Device, Set
from allograft.cli.show import raise_failed, say_to_stderr, show, show_plan
from allograft.errors import SpecError

studies = typer.Typer(rich_markup_mode=None)


@studies.command(
    short_help="Compare recipes, and write a table, a report and the models.",
    epilog="Example: allograft study examples/vessels.yaml --out runs/vessels",
)
def study(
    file: Annotated[Path, typer.Argument(help="The study file; see examples/.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for records, models and the report; run the same command again to resume."
        ),
    ],
    set_: Set = None,
    workers: Annotated[int, typer.Option(help="How many processes load images.")] = 0,
    checkpoint_seconds: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 60.0,
    shard: Annotated[
        str, typer.Option(help="Run only part I of N of the units; all parts share one --out.", metavar="I/N")
    ] = "1/1",
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Dry run: list the units, the time and the memory, and train nothing."),
    ] = False,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option(help="How many processes train one network together, each with its share of the batch.")
    ] = 1,
    precision: Annotated[
        str, typer.Option(help="32-true; bf16-mixed and 16-mixed are faster, but less exact.")
    ] = "32-true",
    strategy: Annotated[str, typer.Option(help="With several devices: auto or ddp.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
    executor: Executor = None,
    jobs: Jobs = None,
    address: Address = None,
    mlflow: Annotated[
        str | None, typer.Option(help="Mirror scores, curves and tables to MLflow at the end.", metavar="URI")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard event files to OUT/tensorboard at the end.")
    ] = False,
) -> None:
    """Compare recipes: train, adapt and evaluate each one at every site, and write a table, a
    report and the models."""
    from allograft.context.journal import STOP
    from allograft.results.tracking import Sinks
    from allograft.run.fabric import local_fabric
    from allograft.run.parted import PartsResult
    from allograft.studies import run_study
    from allograft.study import read_study

    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    part, asked = _shard(shard), read_study(file, set_ or ())
    where = made_executor(executor, jobs, address, device)
    fabric = local_fabric(devices, precision, strategy, device)
    how: dict[str, Any] = {"workers": workers, "checkpoint_seconds": checkpoint_seconds, "shard": part}
    how["executor"] = where
    if not fabric.is_global_zero:
        run_study(asked, out, fabric=fabric, **how)
        return
    with opened(quiet, verbose, log) as say:
        if plan:
            from allograft.run.session import Session

            return show_plan(Session(asked, out, None, fabric, workers, checkpoint_seconds, say))
        sinks = Sinks(mlflow, tensorboard)
        sinks.check()
        result = run_study(asked, out, fabric=fabric, say=say, progress=not quiet, **how)
        unmirrored = sinks.mirror(
            [part.out for part in result.parts.values()] if isinstance(result, PartsResult) else [result.out]
        )
        for problem in unmirrored:
            say(f"warning: {problem}")
        show(result, unmirrored)


@studies.command(
    short_help="Run one recipe once, and write a model folder.",
    epilog="Example: allograft train study.yaml --out runs/one --set 'recipes=[supervised]'",
)
def train(
    file: Annotated[Path, typer.Argument(help="A study file with one recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; the model is in OUT/model.")],
    set_: Set = None,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Run one recipe once and write a model folder; nothing is evaluated."""
    from allograft.results.models import predict_command
    from allograft.run.fabric import local_fabric
    from allograft.studies import train_model
    from allograft.study import read_study

    fabric = local_fabric(accelerator=device)
    with opened(quiet, verbose, log) as say:
        asked = read_study(file, set_ or ())
        print(predict_command(train_model(asked, out, fabric=fabric, say=say, progress=not quiet)))


@studies.command(
    epilog="Example: allograft adapt runs/vessels/models/finetune@chase new-site/manifest.csv --recipe finetune -o "
    "runs/new"
)
def adapt(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    manifest: Annotated[Path, typer.Argument(help="The new site's manifest.")],
    recipe: Annotated[str, typer.Option(help="A recipe as YAML: finetune, or '{finetune: {scope: top}}'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for models, records and the report.")],
    set_: Set = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train the baselines that every study includes.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Dry run: list the units, the time and the memory, and train nothing.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Adapt a finished model to a new site, without its source images."""
    from allograft.adapt import adapt_model, adaptation
    from allograft.run.fabric import local_fabric
    from allograft.strict import overridden, parse_yaml

    asked, changes, fabric = (
        parse_yaml(recipe, "--recipe"),
        overridden({}, set_ or ()),
        local_fabric(accelerator=device),
    )
    how: dict[str, Any] = {"compare": compare, "overrides": changes}
    with opened(quiet, verbose, log) as say:
        if plan:
            from allograft.run.session import Session

            study_ = adaptation(model, manifest, asked, **how)
            return show_plan(Session(study_, out, None, fabric, 0, 60.0, say))
        show(adapt_model(model, manifest, asked, out, **how, fabric=fabric, say=say, progress=not quiet))


@studies.command(
    short_help="Write the report and the tables again from the records.",
    epilog="Example: allograft report runs/vessels --format markdown > table.md",
)
def report(
    out: Annotated[Path, typer.Argument(help="The output folder of a study.")],
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Leave patients' images out of the page.")
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Only print the table, as csv, json, markdown or latex, and leave the report as it is.",
            metavar="FORMAT",
        ),
    ] = None,
) -> None:
    """Write report.html, results.csv and metrics.csv again from the records."""
    from allograft.studies import rebuild

    if form is None:
        return show(rebuild(out, pictures=not without_images, say=say_to_stderr))
    from allograft.results.formats import check_form, formatted

    check_form(form)
    result = rebuild(out, report=False)
    print(formatted(out / "results.csv", form), end="")
    raise_failed(result)


@studies.command(
    short_help="List files that are no longer needed; --yes removes them.",
    epilog="Example: allograft clean runs/vessels --yes",
)
def clean(
    out: Annotated[Path, typer.Argument(help="The output folder of a study.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the listed files; without it, nothing is removed.")
    ] = False,
) -> None:
    """List the files that no table, report, model or resumed run needs. With --yes, remove them."""
    from allograft.clean import leftovers, lines_of, remove

    listed = leftovers(out, say_to_stderr)
    print("\n".join(lines_of(listed)))
    if yes:
        print(f"removed {remove(listed) / 2**20:.1f} MiB")
    elif listed.found:
        print(f"dry run: nothing was removed; allograft clean {out} --yes removes {listed.size / 2**20:.1f} MiB")


@studies.command(epilog="Example: allograft cite examples/vessels.yaml > references.bib")
def cite(file: Annotated[Path, typer.Argument(help="A study file, or the output folder of a study.")]) -> None:
    """Print the BibTeX entries of what a study used."""
    from allograft.recipe import candidates
    from allograft.study import read_study
    from allograft.study.cite import OURS, bibtex, papers
    from allograft.study.reading import kept_study

    asked = kept_study(file) if file.is_dir() else read_study(file)
    print(
        "\n\n".join(
            bibtex(paper) for paper in (OURS, *papers(recipe for row in asked.rows for recipe in candidates(row)))
        )
    )


@studies.command(epilog="Example: allograft methods")
def methods() -> None:
    """List the methods, one line each."""
    from allograft.table import summaries

    for name, line in summaries("method"):
        print(f"{name:20} {line}")


def _shard(text: str) -> tuple[int, int]:
    part, slash, total = text.partition("/")
    if not (slash and part.isdigit() and total.isdigit() and 1 <= int(part) <= int(total)):
        raise SpecError(f"--shard {text}: expected I/N with I from 1 to N, for example --shard 2/4")
    return int(part), int(total)
