"""A worker that sleeps instead of evaluating, in a module that imports neither torch nor the evaluator: dozens of its
processes fit on one machine.
"""

from __future__ import annotations

import math
import os
import random
import time
import zlib
from typing import Any

from ray import tune

from slicemamba.architecture import Architecture

SPREAD = 0.3


def duration(number: int, seconds: float) -> float:
    """How long the trial of this number takes: ``seconds`` ± 30 %, uniform, the same in each run."""
    return seconds * random.Random(number).uniform(1 - SPREAD, 1 + SPREAD)


def score(architecture: Architecture) -> dict[str, float]:
    """Scores that differ from slicing to slicing, so that searchers have something to climb."""
    hashes = [zlib.crc32(f"{place}{block}".encode()) / 2**32 for place, block in enumerate(architecture.blocks())]
    quality = math.fsum(hashes) / len(hashes)
    return {"miou": quality, "dice": 2 * quality / (1 + quality)}


class Sleeper(tune.Trainable):  # type: ignore[misc]
    """In place of ``cluster.ray_tune.SlicingTrial``: takes the same, gives the same, and says when it was busy.

    The metrics hold ``began`` and ``ended``, in seconds since the epoch, and the work the process' id.
    """

    seconds = 2.0

    def setup(self, config: dict[str, Any], **shared: Any) -> None:  # type: ignore[override]
        """Holds the weights from Ray's object store, as an evaluating worker does."""
        self._shared = shared

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        began = time.time()
        time.sleep(duration(self.config["number"], self.seconds))
        ended = time.time()
        scores = score(Architecture.parse(self.config["architecture"]))
        return {
            "pruned": False,
            "metrics": scores | {"began": began, "ended": ended},
            "work": {"worker": os.getpid()},
            "seconds": ended - began,
            tune.result.DONE: True,
        }
