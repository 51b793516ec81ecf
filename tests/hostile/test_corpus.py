"""Every malformed input: exit code 2 and one message that names it, or a defined success; no
traceback, hang, bomb or executed code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.hostile.images import IMAGES
from tests.hostile.manifests import MANIFESTS
from tests.hostile.models import MODELS
from tests.hostile.studies import STUDIES
from tests.hostile.world import Hostile

CORPUS = {**MANIFESTS, **STUDIES, **MODELS, **IMAGES}


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 100


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CORPUS)
def test_refused(name: str, check: Callable[[Hostile], None]) -> None:
    check(CORPUS[name])
