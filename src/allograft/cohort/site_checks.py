"""What ``doctor`` looks for in sites: what differs between them, and what a site is too small for;
one sentence each, with the mend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from allograft.cohort.findings import Finding, Site, counted
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.survey import Look


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
                f"site '{site.name}': {counted(site.test_subjects, 'labelled test subject')} at the default test "
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
                    f"live{'s' * (len(alone) == 1)}"
                )
                text = (
                    f"{cases} at site '{name}' only: a network can tell class from site alone; leave out, merge, or "
                    "find other sites"
                )
                yield Finding("warning", "one-site class", text)
            if len(every) > 1 and len(own) == 1:
                text = (
                    f"site '{name}' carries one {column} class only, {min(own)!r}: nothing can be told apart there; "
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
                text = f"{bare}; recipes may see their images, nothing is evaluated on them"
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
            f"orientation: {preprocessing.orientation} makes them one"
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
            "the preprocessing makes them one"
            if removed
            else "set preprocessing: spacing, so that a millimetre is one everywhere"
        )
        span = " x ".join(
            f"{low:g}-{high:g}" for low, high in zip(np.min(spacings, 0), np.max(spacings, 0), strict=True)
        )
        yield Finding("note" if removed else "warning", "spacing", f"voxel sizes differ ({span} mm); {mend}")
    if len(of("depths")) > 1:
        yield Finding(
            "note", "bit depth", f"pixels are stored as {_listed(of('depths'))}; intensity scaling must make them one"
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
