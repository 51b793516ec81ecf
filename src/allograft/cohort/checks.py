"""What ``doctor`` looks for: each check takes what was seen and gives findings, one sentence each,
with the mend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from allograft.cohort.copies import Findings
from allograft.cohort.findings import Finding, Name, Named, Severity, Site
from allograft.cohort.gate import check_leakage, shared_masks
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.survey import Look
from allograft.errors import LeakageError


def check_files(looks: Sequence[Look], name: Name) -> Iterator[Finding]:
    """Files that cannot be read, masks that lie on another grid or hold codes without a class,
    planes among volumes."""
    topics: tuple[tuple[str, Severity, str], ...] = (
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
    for topic, severity, text in topics:
        concerned = [(look, detail) for look in looks for kind, detail in look.problems if kind == topic]
        if concerned:
            yield Finding(
                severity,
                topic,
                text.format(_count(len(concerned), "case")),
                tuple(name(*named) for named in concerned[:10]),
            )
    planes, volumes = ([look for look in looks if look.size and len(look.size) == axes] for axes in (2, 3))
    if planes and volumes:
        few, word = (planes, "planes") if len(planes) <= len(volumes) else (volumes, "volumes")
        both = (
            f"{_count(len(planes), 'plane')}, a volume of one slice for example, and {_count(len(volumes), 'volume')} "
            "in one cohort"
        )
        text = f"{both}; a study takes only one kind, even with slices: remove the rows of the {word}"
        yield Finding("stop", "axes", text, tuple(name(look, _times(look.size)) for look in few[:10]))


def check_headers(looks: Sequence[Look], preprocessing: Preprocessing, name: Name) -> Iterator[Finding]:
    """What headers say that a reader has to choose about: NaN, turns, two affines, no
    orientation."""
    hole: Severity = "stop" if preprocessing.nan is None else "note"
    fill = "if NaN is the background, set preprocessing: {{nan: 0}}, else export them again"
    topics: tuple[tuple[str, Severity, str], ...] = (
        (
            "nan",
            hole,
            "{} with NaN pixels; " + (fill if preprocessing.nan is None else f"they become {preprocessing.nan:g}"),
        ),
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
    for topic, severity, text in topics:
        concerned = [(look, detail) for look in looks for kind, detail in look.notes if kind == topic]
        if concerned:
            count = len({look.row for look, _ in concerned})
            yield Finding(
                severity, topic, text.format(_count(count, "case")), tuple(name(*named) for named in concerned[:10])
            )


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
            f"{_count(len({look.case.subject for look, _ in misplaced}), 'subject')} with volumes that do not "
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


def check_subjects(sites: Sequence[Site]) -> Iterator[Finding]:
    """Sites that cannot be split, and test sets on which nothing can be significant."""
    for site in sites:
        if site.subjects == 1:
            text = (
                f"site '{site.name}' has one subject and cannot be split: no test set, no interval over subjects; add "
                "subjects"
            )
            yield Finding("warning", "subjects", text)
        elif site.test_subjects > 0 and site.smallest_p > 0.05:
            few = (
                f"site '{site.name}': {_count(site.test_subjects, 'labelled test subject')} at the default test "
                "fraction"
            )
            text = (
                f"{few} allow no p below {site.smallest_p:.2g}: no difference can be significant; label more, or "
                "rotate with test: folds"
            )
            yield Finding("warning", "subjects", text)


def check_labels(sites: Sequence[Site]) -> Iterator[Finding]:
    """Classes that live at one site only, sites of one class, codes 0 and 255, cases without
    labels."""
    for column, index in (("mask", 0), ("label", 1), ("boxes", 2)):
        here = {site.name: {name for _, name in site.classes[index]} for site in sites if site.classes[index]}
        every = set().union(*here.values()) if here else set()
        for name, own in here.items() if len(here) > 1 else ():
            alone = sorted(own - set().union(*(others for other, others in here.items() if other != name)))
            if alone:
                cases = (
                    f"{column} class{'es' * (len(alone) > 1)} {', '.join(map(repr, alone))} "
                    f"occur{'s' * (len(alone) == 1)}"
                )
                text = (
                    f"{cases} at site '{name}' only: a network can tell class from site alone; leave out, merge, or "
                    "find other sites"
                )
                yield Finding("warning", "one-site class", text)
            if len(every) > 1 and len(own) == 1:
                text = (
                    f"site '{name}' has only one {column} class, {min(own)!r}: no classes can be distinguished there; "
                    "add the others"
                )
                yield Finding("warning", "one-class site", text)
    eight = [site.name for site in sites if set(site.codes) <= {"0", "255"} and "255" in site.codes]
    if eight:
        text = (
            f"masks of {_sites(eight)} hold 0 and 255: 255 is read as the one class; with several, write classes: "
            f"{{NAME: [255]}}"
        )
        yield Finding("note", "mask codes", text)
    for site in sites:
        if "255" in site.codes and set(site.codes) - {"0", "255"}:
            text = (
                f"masks of site '{site.name}' mix 255 with {', '.join(sorted(set(site.codes) - {'0', '255'}))}: give "
                "them one coding"
            )
            yield Finding("warning", "mask codes", text)
    keys = {key for site in sites for key in site.labelled}
    for site in sites:
        for key in sorted(keys):
            lacking = site.cases - site.labelled.get(key, 0)
            if lacking:
                bare = f"site '{site.name}': {lacking} of {site.cases} cases have no '{key}'"
                text = f"{bare}; recipes may use their images, but nothing is evaluated on them"
                yield Finding("note", "unlabelled", text)


def check_grids(sites: Sequence[Site], looks: Sequence[Look], preprocessing: Preprocessing) -> Iterator[Finding]:
    """Channels, sizes, orientations, spacings and bit depths that differ between cases."""

    def of(key: str) -> dict[str, int]:
        return _total(getattr(site, key) for site in sites)

    if len(of("channels")) > 1:
        yield Finding(
            "stop",
            "channels",
            f"different numbers of channels: {_listed(of('channels'))}; convert all to grey or to RGB",
        )
    if len(of("prepared")) > len(
        {size.count("x") for size in of("prepared")}
    ):  # planes among volumes are found by check_files
        sizes = f"{len(of('prepared'))} sizes after the preprocessing ({_listed(of('prepared'))})"
        text = f"{sizes}; batches need one: set preprocessing: size, or patch"
        yield Finding("warning", "size", text)
    if len(of("orientations")) > 1:
        removed = preprocessing.orientation is not None
        mend = (
            f"orientation: {preprocessing.orientation} makes them the same"
            if removed
            else "set preprocessing: orientation: RAS"
        )
        yield Finding(
            "note" if removed else "warning", "orientation", f"orientations {_listed(of('orientations'))}; {mend}"
        )
    spacings = [look.spacing for look in looks if look.spacing is not None]
    if (
        spacings
        and len({len(spacing) for spacing in spacings}) == 1
        and (np.ptp(spacings, axis=0) > 0.1 * np.median(spacings, axis=0)).any()
    ):
        removed = preprocessing.spacing is not None
        mend = (
            "the preprocessing makes them the same"
            if removed
            else "set preprocessing: spacing, so that a millimetre is the same size everywhere"
        )
        span = " x ".join(
            f"{low:g}-{high:g}" for low, high in zip(np.min(spacings, 0), np.max(spacings, 0), strict=True)
        )
        yield Finding("note" if removed else "warning", "spacing", f"voxel sizes differ ({span} mm); {mend}")
    if len(of("depths")) > 1:
        yield Finding(
            "note",
            "bit depth",
            f"pixels are stored as {_listed(of('depths'))}; intensity scaling must bring them to one scale",
        )


def check_intensity(sites: Sequence[Site], preprocessing: Preprocessing) -> Iterator[Finding]:
    """Intensity scales orders of magnitude apart, and whether the preprocessing removes that."""
    scaled = [site for site in sites if site.scale > 0]
    if len(scaled) < 2:
        return
    low, high = min(scaled, key=lambda site: site.scale), max(scaled, key=lambda site: site.scale)
    if high.scale / low.scale < 8:
        return
    ratio = high.scale / low.scale
    medians = f"{low.scale:.3g} at '{low.name}', {high.scale:.3g} at '{high.name}'"
    apart = (
        f"intensity scales of sites are {np.log10(ratio):.1f}, about {np.log10(ratio):.0f}, orders of magnitude apart "
        f"({medians})"
    )
    after = [site.scale_after for site in scaled if site.scale_after > 0]
    left = max(after) / min(after) if after else np.inf
    if left < 2:
        text = (
            f"{apart}; intensity: {preprocessing.intensity}, image by image, removes it (a factor of {left:.2f} is "
            "left)"
        )
        yield Finding("note", "intensity scale", text)
    else:
        text = (
            f"{apart}; intensity: {preprocessing.intensity} does not remove it (a factor of {left:.3g} is left): use "
            "zscore"
        )
        yield Finding("warning", "intensity scale", text)


def check_shared_masks(looks: Sequence[Look], name: Name) -> Iterator[Finding]:
    """One mask file that is named for several subjects."""
    by_name = {look.case.name: look for look in looks}
    shared = shared_masks(look.case for look in looks)
    if shared:
        examples = tuple(
            name(by_name[case.name], f"mask {number}") for number, each in enumerate(shared[:5], 1) for case in each[:2]
        )
        text = f"{_count(len(shared), 'mask file')} named for several subjects; give each subject a mask of its own"
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
            yield Finding(severity, "duplicates", text.format(_count(len(groups), word)), examples(groups))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _sites(names: Sequence[str]) -> str:
    return f"site{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"


def _listed(counts: Mapping[str, int], most: int = 5) -> str:
    shown = [f"{value} ({number})" for value, number in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _total(mappings: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for mapping in mappings:
        for key, number in mapping.items():
            total[key] = total.get(key, 0) + number
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
