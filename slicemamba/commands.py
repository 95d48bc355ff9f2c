"""Commands as a user may copy them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

_NAME = "slicemamba"


def command_line(*arguments: str) -> str:
    """``slicemamba`` with these arguments, by the path it was called with where the name alone would not be found."""
    called = sys.argv[0]
    found = shutil.which(_NAME) is not None or Path(called).name != _NAME
    return shlex.join([_NAME if found else called, *arguments])
