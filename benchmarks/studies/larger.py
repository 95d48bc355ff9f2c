"""The networks of ``benchmarks.studies.networks`` at twice the size of images, on one set.

python -m benchmarks.studies.larger run --processes 2
python -m benchmarks.studies.larger table
"""

from __future__ import annotations

from benchmarks.studies.networks import STUDY as NETWORKS
from benchmarks.studies.trainings import Study, main

SLICINGS = ("2x2", "1x1", "4x4", "8x8")
ROWS = ("unet", "conv -", "conv 2x2", "conv c3", "conv c7", *(f"published {slicing}" for slicing in SLICINGS))
STUDY = Study(
    "larger",
    {name: NETWORKS.rows[name] for name in ROWS},
    reference="unet",
    seconds=240.0,  # a step of four times the pixels takes about four times as long
    sets=("kvasir1000",),
    image=(128, 128),
)

if __name__ == "__main__":
    main(STUDY, __doc__)
