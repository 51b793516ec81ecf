"""A stream of sites: what each stage of training scores on every site, what is forgotten, and what
is carried forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from allograft.figure import Heatmap, Lines
from allograft.results.analysis.sheet import Sheet, number, spread
from allograft.results.record import Record
from allograft.results.statistics import Cases, adjust, paired, wilcoxon
from allograft.results.table import p_value
from allograft.study.plan import Plan
from allograft.tasks import Task

Matrix = tuple[tuple[float | None, ...], ...]
"""R[i][j]: the score on the sites of stage j after training on stage i; None where it is
undefined."""


@dataclass(frozen=True)
class StreamResult:
    """One recipe on a stream.

    Args:
        title: the recipe's.
        matrices: one per finished seed.
        facts: numbers that the last stage of each seed reports, such as the models it holds.
        seconds: of training, per seed.
        memory: its peak in MB, per seed.
        said: words that the last stages report, such as the feature that distances are of.
    """

    title: str
    matrices: tuple[Matrix, ...]
    facts: tuple[dict[str, float], ...] = ()
    seconds: tuple[float, ...] = ()
    memory: tuple[float, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class End:
    """What one recipe scores once it has seen the whole stream, also one that was judged only then.

    Args:
        title: the recipe's.
        phases: per stage the mean over seeds; None where a seed has none.
        cases: seed -> its test cases, of all sites.
    """

    title: str
    phases: tuple[float | None, ...]
    cases: Mapping[int, Cases]


def backward_transfer(scores: Matrix) -> float | None:
    """Mean over the earlier stages of R[N][j] - R[j][j]: below 0 is forgetting (Lopez-Paz and
    Ranzato 2017, eq. 3).

    >>> backward_transfer(((0.8, 0.2), (0.5, 0.7)))
    -0.30000000000000004
    """
    return _mean(_less(scores[-1][stage], scores[stage][stage]) for stage in range(len(scores) - 1))


def forward_transfer(scores: Matrix) -> float | None:
    """Mean of R[i][i] - R[i-1][i]: what training on a stage adds there (as ODEx reports it; the
    paper has no formula, this is our reading).

    >>> forward_transfer(((0.8, 0.25), (0.5, 0.75)))
    0.5
    """
    return _mean(_less(scores[stage][stage], scores[stage - 1][stage]) for stage in range(1, len(scores)))


def zero_shot(scores: Matrix) -> float | None:
    """Mean of R[i-1][i]: the score on a stage before it is trained on.

    Lopez-Paz and Ranzato 2017, eq. 4, call this less the score of an untrained network forward
    transfer; no study here judges one.

    >>> zero_shot(((0.8, 0.25), (0.5, 0.75)))
    0.25
    """
    return _mean(scores[stage - 1][stage] for stage in range(1, len(scores)))


def stream_results(plan: Plan, records: Iterable[Record], phases: Sequence[Sequence[str]]) -> list[StreamResult]:
    """Every recipe whose runs were judged after each stage of the stream; other recipes are left
    out.

    The stage of a record is told by the sites that it says were seen.

    Args:
        phases: the sites of each stage.
    """
    of_unit: dict[str, list[Record]] = {}
    for record in records:
        if record.part == "test" and record.status == "done":
            of_unit.setdefault(record.unit, []).append(record)
    made = []
    for (title, _), rows in plan.lines().items():
        runs = [own for row in rows if (own := of_unit.get(row.unit))]
        kept = [(matrix, own) for own in runs if (matrix := score_matrix(plan.task, own, phases)) is not None]
        if kept:
            last = [max(own, key=lambda record: record.ordinal) for _, own in kept]
            facts = tuple(
                {key: value for key, value in end.facts.items() if isinstance(value, (int, float))} for end in last
            )
            seconds = tuple(float(end.cost.get("train_seconds", 0.0)) for end in last)
            memory = tuple(float(end.cost["peak_memory_mb"]) for end in last if "peak_memory_mb" in end.cost)
            words = (item for end in last for item in end.facts.items() if isinstance(item[1], str))
            said = tuple(dict.fromkeys(f"{key.replace('_', ' ')}: {value}" for key, value in words))
            made.append(StreamResult(title, tuple(matrix for matrix, _ in kept), facts, seconds, memory, said))
    return made


def ends(plan: Plan, records: Iterable[Record], phases: Sequence[Sequence[str]]) -> list[End]:
    """Every recipe's last stage, of those that have seen a site of the last stage of the stream."""
    of_unit: dict[str, list[Record]] = {}
    for record in records:
        if record.part == "test" and record.status == "done" and _stage_of(record.seen, phases) == len(phases) - 1:
            of_unit.setdefault(record.unit, []).append(record)
    made = []
    for (title, _), rows in plan.lines().items():
        scores: list[list[float | None]] = []
        judged: dict[int, Cases] = {}
        for row in rows:
            records_ = of_unit.get(row.unit, [])
            final = {r.site: r for r in records_ if r.ordinal == max(one.ordinal for one in records_)}
            if any(site not in final for phase in phases for site in phase):
                continue
            scores.append([_pooled(plan.task, [final[site] for site in phase]) for phase in phases])
            judged[row.seed] = [case for phase in phases for site in phase for case in final[site].measured]
        if scores:
            made.append(End(title, tuple(_mean(column) for column in zip(*scores, strict=True)), judged))
    return made


def ends_figure(ends_: Sequence[End], phases: Sequence[Sequence[str]], headline: str) -> Lines:
    """The score on each stage after the last one, a curve per recipe (fig. 3 of ODEx, left)."""
    return Lines(
        f"{headline} on each stage, after training on all of them",
        tuple(float(number + 1) for number in range(len(phases))),
        {end.title: end.phases for end in ends_},
        "stage",
        headline,
    )


def against_sheet(plan: Plan, ends_: Sequence[End]) -> Sheet | None:
    """The row named beforehand against each other row: a one-sided signed-rank test over subjects,
    as the authors of ODEx test; None where no row was named."""
    named = next((end for end in ends_ if end.title == plan.primary), None)
    others = [end for end in ends_ if end.title != plan.primary]
    if named is None or not others:
        return None
    tested = []
    for other in others:
        both = paired(named.cases, other.cases, plan.headline)
        gain, count = both.ours - both.theirs, len(both.subjects)
        tested.append((other.title, count, float(gain.mean()) if count else None, wilcoxon(gain, "greater")))
    known = [p for *_, p in tested if p is not None]
    adjusted = iter(adjust(known, "holm"))
    rows = tuple(
        (
            *(title, str(count), number(gain, "+.3f")),
            *(("undefined",) * 2 if p is None else (p_value(p), p_value(next(adjusted)))),
        )
        for title, count, gain, p in tested
    )
    notes = (
        f"Difference of {plan.headline} over the test subjects of all stages, mean over seeds, after the last stage.",
        "p of the one-sided Wilcoxon signed-rank test that it is above 0, and after Holm for the rows here. A row "
        "that saw all stages at once is an upper bound and does not compete.",
    )
    columns = (f"{plan.primary} against", "subjects", "difference", "p", "p after Holm")
    return Sheet(f"{plan.primary} against every other row", columns, rows, notes)


def score_matrix(task: Task, records: Iterable[Record], phases: Sequence[Sequence[str]]) -> Matrix | None:
    """R of one run, each entry pooled over the subjects of the stage's sites; None where a stage
    was not judged.

    Of several records that saw the same stages the last is read.
    """
    latest: dict[tuple[int, str], Record] = {}
    for record in sorted(records, key=lambda record: record.ordinal):
        stage = _stage_of(record.seen, phases)
        if stage is not None:
            latest[stage, record.site] = record
    if any((stage, site) not in latest for stage in range(len(phases)) for phase in phases for site in phase):
        return None
    return tuple(
        tuple(_pooled(task, [latest[stage, site] for site in phase]) for phase in phases)
        for stage in range(len(phases))
    )


def _stage_of(seen: Sequence[str], phases: Sequence[Sequence[str]]) -> int | None:
    """The last stage of which a site was seen."""
    met = [number for number, phase in enumerate(phases) if set(phase) & set(seen)]
    return max(met, default=None)


def _pooled(task: Task, records: Sequence[Record]) -> float | None:
    cases = [case for record in records for case in record.measured]
    return task.aggregate(cases).get(task.headline) if cases else None


def stream_sheet(plan: Plan, streams: Sequence[StreamResult]) -> Sheet:
    """Transfer backward and forward, the facts of the last stage and the cost, mean ± sd over
    seeds."""
    names = list(dict.fromkeys(key for stream in streams for facts in stream.facts for key in facts))
    columns = (
        "recipe",
        f"{plan.headline} at the end",
        "backward transfer",
        "forward transfer",
        "zero-shot",
        *names,
        "seconds",
        "peak MB",
    )
    rows = []
    for stream in streams:
        final = [_mean(matrix[-1]) for matrix in stream.matrices]
        scores = (
            final,
            *(
                [measure(matrix) for matrix in stream.matrices]
                for measure in (backward_transfer, forward_transfer, zero_shot)
            ),
        )
        shown = (spread([value for value in values if value is not None]) for values in scores)
        facts = (spread([float(facts[name]) for facts in stream.facts if name in facts]) for name in names)
        rows.append((stream.title, *shown, *facts, spread(list(stream.seconds)), spread(list(stream.memory))))
    notes = (
        "R[i][j] is the score on stage j after training on stage i.",
        "Backward transfer: mean of R[last][j] - R[j][j], below 0 is forgetting.",
        "Forward transfer: mean of R[i][i] - R[i-1][i]. Zero-shot: mean of R[i-1][i]. Mean ± sd over seeds.",
        *(f"{stream.title}: {words}." for stream in streams for words in stream.said),
    )
    return Sheet("Transfer along the stream", columns, tuple(rows), notes)


def matrix_figure(stream: StreamResult, phases: Sequence[Sequence[str]]) -> Heatmap:
    """The matrix of a recipe, mean over seeds."""
    size = range(len(phases))
    mean = tuple(tuple(_mean(matrix[stage][at] for matrix in stream.matrices) for at in size) for stage in size)
    names = tuple(" + ".join(phase) for phase in phases)
    return Heatmap(f"{stream.title}: after training on (rows), scored on (columns)", names, names, mean)


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Iterable[float | None]) -> float | None:
    """None where one value is undefined: a mean of the others would be of other stages."""
    known = list(values)
    return (
        None
        if not known or any(value is None for value in known)
        else fmean(value for value in known if value is not None)
    )
