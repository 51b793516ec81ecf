"""The pages of papers: what they name is there, and what is not built is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allograft.table import rows

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page for page in sorted((ROOT / "docs" / "papers").glob("*.md")) if page.stem != "index"}
NOT_BUILT = {
    "fourier": ("StyleSegor", "StyleGAN", "Fast"),
    "stain_aglr": ("STST", "DSCSI"),
    "popar": ("DINO", "BEiT", "MAE", "SimSiam", "MoCo v2"),
    "diffmic": ("PVT", "MTL", "DANIL", "CL", "ProCo"),
    "mris": ("KNEEL", "DADP"),
    "skin": ("Fitzpatrick17k", "ISIC", "Atlas", "ASAN", "MClass"),
}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    examples = re.findall(r"`(examples/[^`]+)`", text)
    assert examples
    assert [path for path in examples if not (ROOT / path).is_file()] == []
    links = re.findall(r"\]\((\.\./[^)]+)\)", text)
    assert links
    assert [link for link in links if not (PAGES[name].parent / link).is_file()] == []
    named = re.findall(r"`(\w+)(?::[^`]*)?`", text)
    assert set(named) & set(rows("method"))


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_built_is_named(name: str) -> None:
    built, _, missing = PAGES[name].read_text(encoding="utf-8").partition("Not built")
    assert missing
    assert [word for word in NOT_BUILT.get(name, ()) if f"**{word}**" not in missing or f"**{word}**" in built] == []


def test_each_paper_has_the_examples_that_are_made_for_it() -> None:
    """No example of these papers is on none of their pages."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES.values())
    kinds = (
        "gradient_",
        "fourier_",
        "aiva_",
        "avagrad",
        "spottunet_",
        "stain_",
        "skin_auto",
        "skin_groups",
        "catenorm_",
        "organs_",
        "odex_",
        "hippocampus_stream",
        "hippocampus_transformed",
        "modalities_",
        "pretexts",
        "mixcl",
        "transformer_",
        "popar",
        "united",
        "sissi",
        "bccd",
        "diffmic",
        "mris",
    )
    made = [file.name for file in (ROOT / "examples").glob("*.yaml") if file.name.startswith(kinds)]
    assert [name for name in made if f"examples/{name}" not in text] == []
