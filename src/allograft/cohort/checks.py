"""What ``doctor`` looks for in files: each check takes what was seen and gives findings, one
sentence each, with the mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from allograft.cohort.copies import Findings
from allograft.cohort.findings import Finding, Name, Named, Severity, counted
from allograft.cohort.gate import check_leakage, shared_masks
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.survey import Look
from allograft.errors import LeakageError

Topics = Sequence[tuple[str, Severity, str]]
"""Of what a look has noted: a topic, its severity, and what is said of so many cases."""


def check_files(looks: Sequence[Look], name: Name) -> Iterator[Finding]:
    """Files that cannot be read, masks that lie on another grid or hold codes without a class,
    planes among volumes."""
    topics: Topics = (
        ("unreadable", "stop", "{} cannot be read; export them again, or remove their rows"),
        (
            "geometry",
            "stop",
            "{} with a mask, region, pair or boxes that do not lie on the image; export both on one grid",
        ),
        ("codes", "stop", "{} with mask values that stand for no class; name them in task: classes, or fix the masks"),
        (
            "preprocessing",
            "stop",
            "{} that the preprocessing cannot be applied to; change preprocessing, or store what it needs",
        ),
    )
    yield from _by_topic(topics, [(look, *problem) for look in looks for problem in look.problems], name)
    planes, volumes = ([look for look in looks if look.size and len(look.size) == axes] for axes in (2, 3))
    if planes and volumes:
        few, word = (planes, "planes") if len(planes) <= len(volumes) else (volumes, "volumes")
        both = f"{counted(len(planes), 'plane')}, a volume of one slice for example, and "
        text = (
            f"{both}{counted(len(volumes), 'volume')} in one cohort; a study takes only one kind, even with slices: "
            f"remove the rows of the {word}"
        )
        yield Finding("stop", "axes", text, tuple(name(look, _times(look.size)) for look in few[:10]))


def check_headers(looks: Sequence[Look], preprocessing: Preprocessing, name: Name) -> Iterator[Finding]:
    """What headers say that a reader has to choose about: NaN, turns, two affines, no
    orientation."""
    hole: Severity = "stop" if preprocessing.nan is None else "note"
    fill = "if NaN is the background, set preprocessing: {{nan: 0}}, else export them again"
    if preprocessing.nan is not None:
        fill = f"they become {preprocessing.nan:g}"
    topics: Topics = (
        ("nan", hole, "{} with NaN pixels; " + fill),
        (
            "turn",
            "warning",
            "{} turned as the EXIF tag says, with a mask, region, pair or boxes that have another tag or none; check "
            "that they overlap, and save both without the tag",
        ),
        (
            "sform",
            "warning",
            "{} whose NIfTI header holds two positions; check which is right, and store it as both sform and qform",
        ),
        (
            "aspect",
            "warning",
            "{} with pixels that are not square, so that shapes are distorted; resample them to square pixels",
        ),
        (
            "orientation",
            "note",
            "{} that do not say which way their axes point; left and right may be exchanged: compare with the source",
        ),
    )
    yield from _by_topic(topics, [(look, *note) for look in looks for note in look.notes], name)


def _by_topic(topics: Topics, noted: Sequence[tuple[Look, str, str]], name: Name) -> Iterator[Finding]:
    """One finding for each topic that some (look, topic, detail) is of; a case counts once."""
    for topic, severity, text in topics:
        concerned = [(look, detail) for look, kind, detail in noted if kind == topic]
        if concerned:
            cases = counted(len({look.row for look, _ in concerned}), "case")
            yield Finding(severity, topic, text.format(cases), tuple(name(*named) for named in concerned[:10]))


def check_places(looks: Sequence[Look], name: Name) -> Iterator[Finding]:
    """Volumes of one subject that lie at places without a common point: one of the headers may be
    wrong."""
    by_subject: dict[tuple[str, str], list[Look]] = {}
    for look in looks:
        if look.box is not None:
            by_subject.setdefault((look.case.site, look.case.subject), []).append(look)
    misplaced: list[tuple[Look, str]] = []
    for first, *others in by_subject.values():
        misplaced += [
            (look, f"{gap:.0f} mm from {first.case.name}") for look in others if (gap := _gap(first, look)) > 0
        ]
    if misplaced:
        text = (
            f"{counted(len({look.case.subject for look, _ in misplaced}), 'subject')} with volumes that do not "
            "overlap in the patient's space; check whether one of them has a wrong position in its header"
        )
        yield Finding("warning", "place", text, tuple(name(*named) for named in misplaced[:10]))


def _gap(look: Look, other: Look) -> float:
    """Millimetres between two volumes along the axis on which they are furthest apart; 0 where they
    overlap."""
    assert look.box is not None
    assert other.box is not None
    pairs = zip(look.box[0], look.box[1], other.box[0], other.box[1], strict=True)
    return max(0.0, *(max(c - b, a - d) for a, b, c, d in pairs))


def check_shared_masks(looks: Sequence[Look], name: Name) -> Iterator[Finding]:
    """One mask file that is named for several subjects."""
    by_name = {look.case.name: look for look in looks}
    shared = shared_masks(look.case for look in looks)
    if shared:
        examples = tuple(
            name(by_name[case.name], f"mask {number}") for number, each in enumerate(shared[:5], 1) for case in each[:2]
        )
        text = f"{counted(len(shared), 'mask file')} named for several subjects; give each subject a mask of its own"
        yield Finding("stop", "shared mask", text, examples)


def check_duplicates(duplicates: Findings, looks: Mapping[str, Look], name: Name) -> Iterator[Finding]:
    """Copies, near-duplicates and weak ones, through the gate."""

    def examples(groups: Sequence[Sequence[str]]) -> tuple[Named, ...]:
        return tuple(
            name(looks[case], f"pair {number}") for number, group in enumerate(groups[:5], 1) for case in group[:2]
        )

    try:
        check_leakage({case: str(look.case.split) for case, look in looks.items() if look.case.split}, duplicates)
    except LeakageError as error:
        head = str(error).partition(":")[0].replace("sides", "sides of the manifest's split column")
        yield Finding("stop", "leak", f"{head}; remove one of each pair, or give both one split")
    across = [group for group in duplicates.copies if len({duplicates.subjects[case] for case in group}) > 1]
    within = [group for group in duplicates.copies if group not in across]
    mend = "near_duplicates: group gives them one split"
    near, weak = ([(pair.first, pair.second) for pair in pairs] for pairs in (duplicates.near, duplicates.weak))
    kinds: tuple[tuple[Severity, str, Sequence[Sequence[str]]], ...] = (
        ("warning", f"{{}} of images with the same pixels under different subjects; {mend}", across),
        ("note", "{} of images with the same pixels within a subject; remove the copies, they count twice", within),
        ("warning", f"{{}} of near-duplicates (correlation above 0.99) under different subjects; {mend}", near),
        (
            "note",
            "{} of similar images (correlation 0.95 to 0.99) under different subjects; look at the contact sheet of a "
            "study",
            weak,
        ),
    )
    for severity, text, groups in kinds:
        if groups:
            word = "pair" if groups is near or groups is weak else "group"
            yield Finding(severity, "duplicates", text.format(counted(len(groups), word)), examples(groups))


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
