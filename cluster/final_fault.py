"""What ends a training at once: a fault that the same images and settings would show again, however often it is tried.

Ray takes every error of a worker for a death and starts it anew, and what Ray Train hands to the driver is a text. So
a worker that meets such a fault leaves it in a file and ends, as do all others of its training, now or when they are
started again; the driver raises it.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicemamba.errors import InputError, RunFailedError
from slicemamba.files import write_json
from slicemamba.training.trainer import TrainingDivergedError


class FinalFault:
    """The fault of one training.

    Args:
        path: of the file; on a disk that driver and workers share.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def forget(self) -> None:
        """To be called by the driver first: what ended it before may have been mended."""
        self.path.unlink(missing_ok=True)

    def run(self, worker: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
        """Calls ``worker`` in a worker's process, unless another one of this training has met a fault."""
        if self.path.exists():
            return
        try:
            worker(config)
        except (InputError, TrainingDivergedError) as error:
            traceback.print_exc()
            self._write(error)

    def _write(self, error: InputError | TrainingDivergedError) -> None:
        told: dict[str, Any] = {"message": str(error)}
        if isinstance(error, InputError):
            told = {"message": error.message, "details": error.details, "pointer": error.pointer}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, told)

    def tell(self) -> None:
        """To be called by the driver last.

        Raises:
            InputError: a worker has raised it.
            RunFailedError: the training has diverged.
        """
        if not self.path.exists():
            return
        told = json.loads(self.path.read_text(encoding="utf-8"))
        if "details" in told:
            raise InputError(told["message"], details=told["details"], pointer=told["pointer"])
        raise RunFailedError(f"training failed: {told['message']}")
