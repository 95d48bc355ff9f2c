"""Nine classes with little foreground: who learns from scratch, and what a first guess by the classes' shares brings.

python -m benchmarks.studies.nine_classes run --processes 2
python -m benchmarks.studies.nine_classes table
python -m benchmarks.studies.nine_classes curves      # docs/images/nine_classes.png
"""

from __future__ import annotations

from benchmarks.studies import organs
from benchmarks.studies.trainings import Row, Study, main

CONV = {"skeleton": "conv", "embed_dim": 8, "levels": 4, "block_levels": (2,), "drop_path_rate": 0.0}
PUBLISHED = {
    "embed_dim": 16,
    "encoder_depths": (1, 1, 1),
    "decoder_depths": (1, 1, 1),
    "drop_path_rate": 0.0,
    "linear_init": "width",
}
UNET = {"embed_dim": 12}
PRIOR = {"prior_bias": True}
STUDY = Study(
    "nine_classes",
    {
        "published 2x2": Row(PUBLISHED, "2x2"),
        "published 2x2, prior bias": Row(PUBLISHED, "2x2", PRIOR),
        "conv c3": Row(CONV, "c3", beside="published 2x2"),
        "conv c3, prior bias": Row(CONV, "c3", PRIOR, beside="conv c3"),
        "unet": Row(UNET, beside="published 2x2"),
        "unet, prior bias": Row(UNET, train=PRIOR, beside="unet"),
    },
    reference="published 2x2",
    seconds=20.0,
    sets=(organs.NAME,),
)

if __name__ == "__main__":
    main(STUDY, __doc__)
