"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rsnn.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield another name in the same folder; what is written there becomes `path` if the block ends well.

    The other name has the same suffix, since some writers go by it.

    Raises:
        InputError: the file cannot be written there.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=f".partial{path.suffix}", dir=path.parent)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error}); expected a folder that this user may write to"
        ) from error
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); expected a file name with room on its disk") from error
    finally:
        partial.unlink(missing_ok=True)


def _umask() -> int:
    """Return the permissions that new files of this user do not get; `mkstemp` gives none to others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
