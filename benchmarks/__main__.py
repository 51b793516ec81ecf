"""``python benchmarks [--check] [NAME ...]``: run the benchmarks, all or those named, each in a
process of its own.

``--check`` ends with 1, and lists them, where numbers miss what was promised beyond noise: those
that this run wrote, not those kept from before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from ratio import RESULTS, missed

HERE = Path(__file__).parent
SHARED = ("__main__", "ratio")


def main(arguments: list[str]) -> int:
    checks = "--check" in arguments
    known = sorted(file.stem for file in HERE.glob("*.py") if file.stem not in SHARED)
    names = [name for name in arguments if name != "--check"] or known
    if unknown := sorted(set(names) - set(known)):
        print(f"no benchmark '{unknown[0]}'; there are {', '.join(known)}", file=sys.stderr)
        return 2
    began, failed = time.time() - 1, []  # file systems keep whole seconds at worst
    for name in names:
        print(f"-- {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")]).returncode:
            failed.append(f"{name}: did not run to its end")
    written = (file for file in sorted(RESULTS.glob("*.json")) if file.stat().st_mtime >= began)
    lines = failed + [line for file in written for line in missed(json.loads(file.read_text()))]
    print("\n".join(lines) or "every promise held")
    return int(bool(failed) or (checks and bool(lines)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
