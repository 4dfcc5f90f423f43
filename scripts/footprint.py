"""What the package costs before it does anything: import time, loading its checkpoints, and sizes on the disk.

    python scripts/footprint.py

Times are CPU seconds, which other programs stretch less than the clock's: the least of several fresh processes, in each
of which torch is imported, then rsnn, then every checkpoint loaded; the first of them once more before, uncounted. The
wheel is built for its size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import rsnn

ROOT = Path(__file__).parent.parent
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
rsnn.load(NAMES[0])
lap("the first rsnn.load in a process")
for name in NAMES:
    rsnn.load(name)
    lap(f"rsnn.load({name!r})")
print(json.dumps(times))
"""


def wheel_size() -> int:
    """Return the bytes of the wheel, built from this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT]
        subprocess.run(command, capture_output=True, check=True)
        return sum(file.stat().st_size for file in Path(folder).iterdir())


def main() -> None:
    code = CODE.replace("NAMES", repr(rsnn.list_models(pretrained=True)))
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(RUNS)
    ]
    print("| what | measured |\n|---|---|")
    for name in runs[0]:
        print(f"| {name} | {1000 * min(run[name] for run in runs):.0f} ms |")
    package = Path(rsnn.__file__).parent
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
    print(f"| package | {sum(sizes.values()) / 1e6:.1f} MB, {weights / 1e6:.1f} MB of it weights |")
    print(f"| wheel | {wheel_size() / 1e6:.1f} MB |")


if __name__ == "__main__":
    main()
