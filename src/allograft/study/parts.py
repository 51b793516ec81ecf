"""The parts of a study of many pairs: every source site to every target, or every target from all other sites.

``pairs: all`` is one study a source site, ``pairs: leave-one-site-out`` one a target; each lies whole in ``OUT/pairs``, with its own
table, report and models, and what is said over all pairs lies in ``OUT``. A site's test subjects are the same in all of them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from allograft import tree
from allograft.study.spec import Study

PAIRS = "pairs"
"""Folder of the studies that a study of many pairs consists of."""


def parts_of(study: Study) -> dict[str, Study]:
    """The studies that a study of many pairs consists of, by name.

    >>> from allograft.study.spec import make_study
    >>> task = {"segmentation": {"classes": ["vessel"]}}
    >>> study = make_study({"cohort": "m.csv", "task": task, "source": ["a", "b", "c"], "recipes": ["fourier"], "pairs": "all"})
    >>> {name: (part.source, part.target) for name, part in parts_of(study).items()}["from a"]
    (('a',), ('b', 'c'))
    >>> [(part.source, part.target) for part in parts_of(replace(study, pairs="leave-one-site-out")).values()][0]
    (('b', 'c'), ('a',))
    """
    sides: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    if study.pairs == "all":
        sides = {f"from {one}": ((one,), tuple(site for site in study.target if site != one)) for one in study.source}
    else:
        sides = {f"to {one}": (tuple(site for site in study.source if site != one), (one,)) for one in study.target}
    return {name: replace(study, pairs="listed", source=here, target=there) for name, (here, there) in sides.items() if here and there}


def part_folder(out: Path, name: str) -> Path:
    """``OUT/pairs/from-a``, safe as a folder name; two parts never share one."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    return out / PAIRS / (safe if safe == name.replace(" ", "-", 1) else f"{safe}.{tree.content_hash(name)[:6]}")
