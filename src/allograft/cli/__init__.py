"""The command line. It imports nothing heavy until a command runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from allograft import __version__
from allograft.cli.cohorts import cohorts
from allograft.cli.compare import comparison
from allograft.cli.imports import imports
from allograft.cli.index import index
from allograft.cli.init import first
from allograft.cli.schema import schemas
from allograft.cli.warned import say_warnings_plainly
from allograft.errors import AllograftError, MissingWeightsError, SpecError, UnitsFailed

if TYPE_CHECKING:
    from allograft.run.session import Result, Session
    from allograft.studies import PartsResult

app = typer.Typer(
    help="Adapt a medical-imaging model to another hospital, and compare the methods for it under one "
    "protocol. "
    "Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(imports, name="import")
app.add_typer(cohorts)
app.add_typer(comparison)
app.add_typer(first)
app.add_typer(schemas)
app.add_typer(index, name="index")

Device = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: --set budget.steps=20", metavar="KEY=VALUE")
]


def main() -> None:
    """Run a command. Exit code 2 for a user's mistake, 3 when some units failed; never a traceback
    for either."""
    say_warnings_plainly()
    try:
        app()
    except AllograftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except BaseException as reason:
        if type(reason).__name__ != "Stopped":  # named, not imported: its module is heavy
            raise
        print("stopped; progress is kept, run the same command again to resume", file=sys.stderr)
        sys.exit(143)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: allograft study examples/vessels.yaml --out runs/vessels")
def study(
    file: Annotated[Path, typer.Argument(help="The study file; see examples/.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for records, models and the report; run the same command again to resume."
        ),
    ],
    set_: Set = None,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 0,
    checkpoint_seconds: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 60.0,
    shard: Annotated[
        str, typer.Option(help="Run part I of N of the units; parts share one --out.", metavar="I/N")
    ] = "1/1",
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Dry run: list the units, the time and the memory, and train nothing."),
    ] = False,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option(help="Processes that train one network together, each with its share of the batch.")
    ] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed.")] = "32-true",
    strategy: Annotated[str, typer.Option(help="auto or ddp.")] = "auto",
) -> None:
    """Compare recipes: train, adapt and evaluate each one at every site; write a table, a report
    and the models."""
    from allograft.context.journal import STOP
    from allograft.run.fabric import local_fabric
    from allograft.studies import run_study
    from allograft.study import read_study

    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    part, asked = _shard(shard), read_study(file, set_ or ())
    fabric = local_fabric(devices, precision, strategy, device)
    say = _say if fabric.is_global_zero else lambda line: None
    if plan:
        from allograft.run.session import Session

        return _show_plan(Session(asked, out, None, fabric, workers, checkpoint_seconds, say))
    result = run_study(
        asked, out, fabric=fabric, workers=workers, checkpoint_seconds=checkpoint_seconds, say=say, shard=part
    )
    if fabric.is_global_zero:
        _show(result)


@app.command(epilog="Example: allograft train study.yaml --out runs/one --set 'recipes=[supervised]'")
def train(
    file: Annotated[Path, typer.Argument(help="A study file with one recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; the model is in OUT/model.")],
    set_: Set = None,
    device: Device = "auto",
) -> None:
    """Run one recipe once and write a model folder; nothing is evaluated."""
    from allograft.results.models import predict_command
    from allograft.run.fabric import local_fabric
    from allograft.studies import train_model
    from allograft.study import read_study

    fabric = local_fabric(accelerator=device)
    print(predict_command(train_model(read_study(file, set_ or ()), out, fabric=fabric, say=_say)))


@app.command(
    epilog="Example: allograft predict runs/vessels/models/finetune@chase photographs/ -o predictions --overlay"
)
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, a folder, or a manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks and results.csv.")],
    overlay: Annotated[bool, typer.Option(help="Also write a picture of each result.")] = False,
    probabilities: Annotated[bool, typer.Option(help="Also write the probability of each class.")] = False,
    abstain: Annotated[
        float | None,
        typer.Option(
            help="Predict this share of the images that are like the training images, and abstain from images "
            "farther away: 0.95"
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true; faster and rounded: bf16-mixed, 16-mixed.")] = "32-true",
) -> None:
    """Predict images with a model: masks on each image's own grid, volumes or class probabilities
    in results.csv."""
    from allograft.apply.predictions import write_predictions

    written = write_predictions(
        model,
        images,
        out,
        overlay=overlay,
        probabilities=probabilities,
        device=device,
        precision=precision,
        abstain=abstain,
        say=print,
    )
    print(
        f"{written} predictions in {out}; numbers and warnings in {out / 'results.csv'}. Research use only, not a "
        "medical device."
    )


@app.command(
    epilog="Example: allograft adapt runs/vessels/models/finetune@chase new-site/manifest.csv --recipe finetune -o "
    "runs/new"
)
def adapt(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    manifest: Annotated[Path, typer.Argument(help="The new site's manifest.")],
    recipe: Annotated[str, typer.Option(help="A recipe as YAML: finetune, or '{finetune: {scope: top}}'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for models, records and the report.")],
    set_: Set = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also train the baselines that a study has.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Dry run: list the units, the time and the memory, and train nothing.")
    ] = False,
    device: Device = "auto",
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
    if plan:
        from allograft.run.session import Session

        study_ = adaptation(model, manifest, asked, compare=compare, overrides=changes)
        return _show_plan(Session(study_, out, None, fabric, 0, 60.0, _say))
    _show(adapt_model(model, manifest, asked, out, compare=compare, overrides=changes, fabric=fabric, say=_say))


@app.command(epilog="Example: allograft evaluate runs/vessels/models/finetune@chase third-site/manifest.csv")
def evaluate(
    judged: Annotated[Path, typer.Argument(help="A model folder, or a folder of another tool's masks.")],
    manifest: Annotated[Path, typer.Argument(help="The labelled cases to evaluate on.")],
    classes: Annotated[
        list[str] | None, typer.Option(help="For masks: the classes, in order; --classes vessel")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write every case's metrics to this JSON file.")
    ] = None,
    missed: Annotated[
        str,
        typer.Option(
            help="The distance to a class that only the truth or only the prediction has: 'undefined', or 'diagonal' "
            "to add hd95_diagonal and asd_diagonal, with the image's diagonal in its place."
        ),
    ] = "undefined",
    surface_dice: Annotated[
        float | None, typer.Option(help="Also surface Dice, at this tolerance in mm: --surface-dice 1.0")
    ] = None,
    device: Device = "auto",
) -> None:
    """Evaluate a model or predictions on a manifest; images of its training are refused."""
    from allograft.apply.evaluate import evaluate as judge
    from allograft.apply.evaluate import summary, write_evaluation

    task = {"segmentation": {"classes": classes}} if classes else None
    how: dict[str, Any] = {"missed": cast(Any, missed), "surface_dice": surface_dice, "device": device}
    found = judge(judged, manifest, task=task, **how)
    for site in found.metrics:
        print(summary(found, site))
    if found.unlabelled:
        print(f"{found.unlabelled} cases have no label and are not measured")
    for text in found.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if out is not None:
        write_evaluation(found, out)


@app.command(epilog="Example: allograft report runs/vessels --without-images")
def report(
    out: Annotated[Path, typer.Argument(help="The output folder of a study.")],
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Leave patients' images out of the page.")
    ] = False,
) -> None:
    """Write report.html, results.csv and metrics.csv again from the records."""
    from allograft.studies import rebuild

    _show(rebuild(out, pictures=not without_images, say=_say))


@app.command(epilog="Example: allograft clean runs/vessels --yes")
def clean(
    out: Annotated[Path, typer.Argument(help="The output folder of a study.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; otherwise nothing is removed.")] = False,
) -> None:
    """List, and with --yes remove, what no table, report, model or resumed run needs."""
    from allograft.clean import leftovers, lines_of, remove

    found = leftovers(out, _say)
    print("\n".join(lines_of(found)))
    if yes:
        print(f"removed {remove(found) / 2**20:.1f} MiB")
    elif found.found:
        print(f"dry run: nothing was removed; allograft clean {out} --yes removes {found.size / 2**20:.1f} MiB")


@app.command(epilog="Example: allograft export runs/vessels/models/finetune@chase finetune-chase.zip")
def export(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    out: Annotated[Path, typer.Argument(help="The zip file to write.")],
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Also export a model that holds images of patients.")
    ] = False,
) -> None:
    """Pack a model to share it; a model that holds patients' images is refused without
    --with-images."""
    from allograft.apply.export import export_model

    print(export_model(model, out, with_images=with_images))


@app.command(epilog="Example: allograft cite examples/vessels.yaml > references.bib")
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


@app.command(epilog="Example: allograft methods")
def methods() -> None:
    """List the methods, one line each."""
    from allograft.table import summaries

    for name, line in summaries("method"):
        print(f"{name:20} {line}")


def _show_plan(session: Session) -> None:
    """What would run, part by part."""
    from rich.console import Console

    from allograft.run.preview import preview, preview_table
    from allograft.studies import part_sessions

    console = Console(width=None if Console().is_terminal else 160, highlight=False, markup=False)
    for name, part in part_sessions(session).items():
        title = [f"== {name}"] if name else []
        try:
            console.print(*title, preview_table(preview(part)), sep="\n")
        except MissingWeightsError as error:
            if not name:
                raise
            console.print(*title, f"missing: {error}", sep="\n")


def _show(result: Result | PartsResult) -> None:
    """The tables, where the report lies, and the commands to go on with."""
    from allograft.results.table import print_over
    from allograft.studies import PartsResult

    parts = list(result.parts.values()) if isinstance(result, PartsResult) else [result]
    for part in parts:
        _show_part(part, how=not isinstance(result, PartsResult))
    if isinstance(result, PartsResult):
        print_over(result.study, parts[0].plan, [part.lines for part in parts])
        for name, why in result.missing.items():
            print(f"{name}: missing: {why}")
        print(f"report over all parts: {result.out / 'report.html'}")
    if result.failed:
        runs = sum(len(line.runs) for part in parts for line in part.lines)
        raise UnitsFailed(f"{result.failed} of {runs} runs failed; the table shows which and why")


def _show_part(result: Result, *, how: bool) -> None:
    from allograft.results.models import predict_command
    from allograft.results.sentence import unfinished
    from allograft.results.table import print_tables

    print_tables(result.study, result.plan, result.lines)
    print(f"report: {result.out / 'report.html'}")
    now = result.standing
    if not now.verdicts:
        print(f"{unfinished(now.done, now.total)}; its models so far are kept")
    for target, verdict in now.verdicts.items():
        print(verdict.sentence)
        chosen = next((line for line in result.lines if line.target == target and line.chosen), None)
        if chosen is not None and (chosen.title, target) in result.models:
            print(f"  {predict_command(result.models[chosen.title, target])}")
        elif result.models:
            print(f"  its models are in {next(iter(result.models.values())).parent}")
        for line in ("how this was decided:", *verdict.how) if how else ():
            print(f"  {line}")


def _shard(text: str) -> tuple[int, int]:
    part, slash, total = text.partition("/")
    if not (slash and part.isdigit() and total.isdigit() and 1 <= int(part) <= int(total)):
        raise SpecError(f"--shard {text}: expected I/N with I from 1 to N, for example --shard 2/4")
    return int(part), int(total)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
