"""mib."""

from __future__ import annotations

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 1.0},
}
