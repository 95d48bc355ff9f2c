"""Published network, convolutional skeleton and U-Net at equal training time.

python -m benchmarks.studies.networks run --processes 2
python -m benchmarks.studies.networks table
"""

from __future__ import annotations

from benchmarks.studies.trainings import CONV, Row, Study, main

PUBLISHED = {"embed_dim": 44, "drop_path_rate": 0.0}
UNET = {"embed_dim": 24}  # widths 16 to 256, as the skeleton's
STUDY = Study(
    "networks",
    {
        "unet": Row(UNET),
        "conv -": Row(CONV, "-"),
        "conv 2x2": Row(CONV, "2x2"),
        "conv c3": Row(CONV, "c3"),
        "conv c7": Row(CONV, "c7"),
        "published 2x2": Row(PUBLISHED, "2x2"),
        "published 1x1": Row(PUBLISHED, "1x1"),
        "published 4x4": Row(PUBLISHED, "4x4"),
        "published 8x8": Row(PUBLISHED, "8x8"),
        "published c3": Row(PUBLISHED, "c3"),
        "published 2x2, rate 5e-4": Row(PUBLISHED, "2x2", {"learning_rate": 5e-4}, beside="published 2x2"),
    },
    reference="unet",
    seconds=120.0,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
