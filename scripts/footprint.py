"""What the package costs before it does anything: import time, loading a checkpoint, and sizes on the disk.

    python scripts/footprint.py

Times are CPU seconds, which other programs stretch less than the clock's: the least of several fresh processes each,
torch alone and torch with rsnn in turn.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rsnn

RUNS = 5
IMPORT = "import time; began = time.process_time(); {}; print(time.process_time() - began)"
LOAD = (
    "import time, rsnn; rsnn.load({name!r}); began = time.process_time(); rsnn.load({name!r}); "
    "print(time.process_time() - began)"
)


def seconds(code: str) -> float:
    """Return what a fresh process prints."""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    codes = IMPORT.format("import torch"), IMPORT.format("import torch, rsnn")
    pairs = [[seconds(code) for code in codes] for _ in range(RUNS)]
    torch_alone, both = (min(times) for times in zip(*pairs, strict=True))
    print(f"import torch {torch_alone:.2f} s, import rsnn {both - torch_alone:.2f} s more (of {RUNS} runs, the least)")
    for name in rsnn.list_models(pretrained=True):
        print(f"rsnn.load({name!r}) {1000 * min(seconds(LOAD.format(name=name)) for _ in range(RUNS)):.0f} ms")
    package = Path(rsnn.__file__).parent
    sizes = {path: path.stat().st_size for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    weights = sum(size for path, size in sizes.items() if path.suffix == ".safetensors")
    print(f"package {sum(sizes.values()) / 1e6:.1f} MB, {weights / 1e6:.1f} MB of it weights")


if __name__ == "__main__":
    main()
