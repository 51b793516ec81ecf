"""What ``doctor`` looks for in sites: what differs between them, and what a site is too small for;
one sentence each, with the mend."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from allograft.cohort.findings import Finding, Severity, Site, counted
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
            text = (
                f"site '{site.name}': {counted(site.test_subjects, 'labelled test subject')} at the default test "
                f"fraction allow no p below {site.smallest_p:.2g}: no difference can be significant; label more, or "
                "rotate with test: folds"
            )
            yield Finding("warning", "subjects", text)


def check_labels(sites: Sequence[Site]) -> Iterator[Finding]:
    """Classes that live at one site only, sites of one class, codes 0 and 255, cases without
    labels."""
    for column, index in (("mask", 0), ("label", 1), ("boxes", 2)):
        here = {site.name: {name for _, name in site.classes[index]} for site in sites if site.classes[index]}
        if len(here) > 1:
            yield from _lone_classes(column, here)
    yield from _mask_codes(sites)
    keys = sorted({key for site in sites for key in site.labelled})
    for site, key in product(sites, keys):
        lacking = site.cases - site.labelled.get(key, 0)
        if lacking:
            bare = f"site '{site.name}': {lacking} of {site.cases} cases have no '{key}'"
            text = f"{bare}; recipes may use their images, but nothing is evaluated on them"
            yield Finding("note", "unlabelled", text)


def _lone_classes(column: str, here: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Classes that one site alone has, and sites that have one class alone, of site -> classes."""
    every = set().union(*here.values())
    for name, own in here.items():
        alone = sorted(own - set().union(*(others for other, others in here.items() if other != name)))
        if alone:
            listed = ", ".join(map(repr, alone))
            classes = f"{column} class {listed} occurs" if len(alone) == 1 else f"{column} classes {listed} occur"
            text = (
                f"{classes} at site '{name}' only: a network can tell class from site alone; leave out, merge, or "
                "find other sites"
            )
            yield Finding("warning", "one-site class", text)
        if len(every) > 1 and len(own) == 1:
            text = (
                f"site '{name}' has only one {column} class, {min(own)!r}: no classes can be distinguished there; "
                "add the others"
            )
            yield Finding("warning", "one-class site", text)


def _mask_codes(sites: Sequence[Site]) -> Iterator[Finding]:
    """Masks that hold 255, with 0 alone or among other codes."""
    further = {site.name: sorted(set(site.codes) - {"0", "255"}) for site in sites if "255" in site.codes}
    eight = [name for name, codes in further.items() if not codes]
    if eight:
        text = (
            f"masks of {_sites(eight)} hold 0 and 255: 255 is read as the one class; with several, write classes: "
            "{NAME: [255]}"
        )
        yield Finding("note", "mask codes", text)
    for name, codes in further.items():
        if codes:
            text = f"masks of site '{name}' mix 255 with {', '.join(codes)}: give them one coding"
            yield Finding("warning", "mask codes", text)


def check_grids(sites: Sequence[Site], looks: Sequence[Look], preprocessing: Preprocessing) -> Iterator[Finding]:
    """Channels, sizes, orientations, spacings and bit depths that differ between cases."""
    channels, prepared, orientations, depths = (
        _total(getattr(site, key) for site in sites) for key in ("channels", "prepared", "orientations", "depths")
    )
    if len(channels) > 1:
        text = f"different numbers of channels: {_listed(channels)}; convert all to grey or to RGB"
        yield Finding("stop", "channels", text)
    if len(prepared) > len({size.count("x") for size in prepared}):  # planes among volumes: see check_files
        sizes = f"{len(prepared)} sizes after the preprocessing ({_listed(prepared)})"
        yield Finding("warning", "size", f"{sizes}; batches need one: set preprocessing: size, or patch")
    if len(orientations) > 1:
        to = preprocessing.orientation
        mend = "set preprocessing: orientation: RAS" if to is None else f"orientation: {to} makes them the same"
        text = f"orientations {_listed(orientations)}; {mend}"
        yield Finding("warning" if to is None else "note", "orientation", text)
    if span := _spacing_span(looks):
        severity: Severity = "note"
        mend = "the preprocessing makes them the same"
        if preprocessing.spacing is None:
            severity, mend = "warning", "set preprocessing: spacing, so that a millimetre is the same size everywhere"
        yield Finding(severity, "spacing", f"voxel sizes differ ({span} mm); {mend}")
    if len(depths) > 1:
        text = f"pixels are stored as {_listed(depths)}; intensity scaling must bring them to one scale"
        yield Finding("note", "bit depth", text)


def _spacing_span(looks: Sequence[Look]) -> str:
    """The range of voxel sizes along each axis; "" where they differ by at most a tenth of their
    median, and of planes among volumes."""
    spacings = [look.spacing for look in looks if look.spacing is not None]
    if len({len(spacing) for spacing in spacings}) != 1:
        return ""
    low, high, middle = np.min(spacings, 0), np.max(spacings, 0), np.median(spacings, 0)
    differ = bool((high - low > 0.1 * middle).any())
    return " x ".join(f"{least:g}-{most:g}" for least, most in zip(low, high, strict=True)) if differ else ""


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
    orders = np.log10(ratio)
    apart = f"intensity scales of sites are {orders:.1f}, about {orders:.0f}, orders of magnitude apart ({medians})"
    after = [site.scale_after for site in scaled if site.scale_after > 0]
    left = max(after) / min(after) if after else np.inf
    scaling = f"{apart}; intensity: {preprocessing.intensity}"
    if left < 2:
        text = f"{scaling}, image by image, removes it (a factor of {left:.2f} is left)"
        yield Finding("note", "intensity scale", text)
    else:
        text = f"{scaling} does not remove it (a factor of {left:.3g} is left): use zscore"
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
