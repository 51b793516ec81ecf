"""What ``allograft doctor`` found, as text."""

from __future__ import annotations

from allograft.cohort.doctor import Diagnosis, Gap
from allograft.cohort.findings import Site


def to_text(diagnosis: Diagnosis) -> str:
    """Plain text for a terminal; it names cases, so that they can be found."""
    lines = [
        f"{diagnosis.manifest}: {diagnosis.cases} cases, {diagnosis.subjects} subjects, {len(diagnosis.sites)} sites",
        "",
    ]
    for site in diagnosis.sites:
        lines.append(f"site {site.name}")
        lines += [f"  {name:22} {value}" for name, value in site_facts(site)]
    lines += ["", "findings" if diagnosis.findings else "no findings"]
    for finding in diagnosis.findings:
        lines.append(f"  {finding.severity:8} {finding.text}")
        lines += [
            f"           row {case.row}: {case.name}" + (f" ({case.detail})" if case.detail else "")
            for case in finding.cases
        ]
    if diagnosis.distances:
        lines += ["", f"{'distance between sites (within)':34} {'as stored':>20} {'prepared':>20}"]
        lines += [f"  {name:32} {before:>20} {after:>20}" for name, before, after in distance_rows(diagnosis)]
    return "\n".join(lines) + "\n"


def site_facts(site: Site) -> list[tuple[str, str]]:
    """(name, value) pairs of a site, for people; empty ones left out.

    >>> site_facts(Site("a", 4, 2, 1, 1.0, channels={"3": 4}))[:2]
    [('cases', '4'), ('subjects', '2')]
    """
    facts = [("cases", str(site.cases)), ("subjects", str(site.subjects))]
    facts.append(("labelled test subjects", f"{site.test_subjects}, smallest p {site.smallest_p:.2g}"))
    for name in ("sizes", "channels", "depths", "orientations", "spacings", "codes", "labels", "boxes", "labelled"):
        counts = getattr(site, name)
        shown = ", ".join(f"{value} ({number})" for value, number in list(counts.items())[:6])
        facts.append(
            (
                {"codes": "mask codes", "depths": "pixel types"}.get(name, name),
                shown + (", ..." if len(counts) > 6 else ""),
            )
        )
    facts.append(("intensity scale", f"{site.scale:.3g} stored, {site.scale_after:.3g} prepared"))
    return [(name, value) for name, value in facts if value]


def distance_rows(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """(sites and measure, before, after) for people."""

    def shown(gap: Gap | None, measure: str) -> str:
        return "" if gap is None else f"{gap.between:.3g}" + ("" if measure == "labels" else f" ({gap.within:.3g})")

    return [
        (
            f"{measured.sites[0]} - {measured.sites[1]}: {measured.measure}",
            shown(measured.before, measured.measure),
            shown(measured.after, measured.measure),
        )
        for measured in diagnosis.distances
    ]
