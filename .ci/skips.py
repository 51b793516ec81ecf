"""``python .ci/skips.py JUNIT``: fails where a test of a run was skipped that should have run there.

A run that skips its golden tests, its real images or its browser passes, and shows nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

ALLOWED = (
    "SimpleITK has written img.gz",  # its suffix .img, compressed
    "this machine mounts no small file system here",  # a container without the right to
    "there is no mount command",
    "nibabel was installed without its files for tests",  # as Debian does
    "this file system does not take the name",
    "only Linux restarts the mark",
)
"""How the reasons begin for which a test may be skipped."""


def skipped(file: Path) -> Iterator[tuple[str, str]]:
    """Test and reason of each that was skipped; an expected failure is none."""
    for case in ElementTree.parse(file).iter("testcase"):
        for skip in case.iter("skipped"):
            if skip.get("type") != "pytest.xfail":
                reason = re.sub(r"^(Skipped: |[^:]+:\d+: )+", "", skip.get("message") or "")
                yield f"{case.get('classname')}::{case.get('name')}", reason


def main(words: list[str]) -> int:
    """Exit code 1, and the tests, where some were skipped for another reason."""
    wrong = [(test, reason) for test, reason in skipped(Path(words[0])) if not reason.startswith(ALLOWED)]
    for test, reason in wrong:
        print(f"{test}: skipped ({reason})", file=sys.stderr)
    if wrong:
        print(
            f"{len(wrong)} tests were skipped; install what they need, or name the reason in .ci/skips.py",
            file=sys.stderr,
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
