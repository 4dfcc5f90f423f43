"""What the package costs before it does anything: import time, loading its checkpoints, and sizes on the disk.

    python scripts/footprint.py

Times are CPU seconds, which other programs stretch less than the clock's: the least of several fresh processes, in each
of which torch is imported, then rsnn, then every checkpoint loaded, the first of them twice.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import rsnn

RUNS = 3
CODE = """
import json, time
times, began = {}, time.process_time()
def lap(name):
    global began
    times[name] = time.process_time() - began
    began = time.process_time()
import torch
lap("import torch")
import rsnn
lap("import rsnn, more")
for name in NAMES:
    rsnn.load(name)
    lap(f"rsnn.load({name!r})")
print(json.dumps(times))
"""


def main() -> None:
    names = rsnn.list_models(pretrained=True)
    code = CODE.replace("NAMES", repr([*names[:1], *names]))
    command = [sys.executable, "-c", code]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(RUNS)]
    for name in runs[0]:
        print(f"{name}: {1000 * min(run[name] for run in runs):.0f} ms")
    package = Path(rsnn.__file__).parent
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
    print(f"package {sum(sizes.values()) / 1e6:.1f} MB, {weights / 1e6:.1f} MB of it weights")


if __name__ == "__main__":
    main()
