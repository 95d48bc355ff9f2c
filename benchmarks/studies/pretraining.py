"""What weights from another set of images bring on ``busi``: trained there first, for as long.

python -m benchmarks.studies.pretraining run --processes 2
python -m benchmarks.studies.pretraining table
"""

from __future__ import annotations

from benchmarks.studies.trainings import CONV, Row, Study, main

STUDY = Study(
    "pretraining",
    {
        "from scratch": Row(CONV, "c3"),
        "from kvasir1000": Row(CONV, "c3", source="kvasir1000"),
        "from isic2018_500": Row(CONV, "c3", source="isic2018_500"),
    },
    reference="from scratch",
    seconds=60.0,
    sets=("busi",),
)

if __name__ == "__main__":
    main(STUDY, __doc__)
