"""What each ingredient of the recipe ``scratch`` brings: one changed at a time, at equal training time.

python -m benchmarks.studies.recipes run --processes 2
python -m benchmarks.studies.recipes table
"""

from __future__ import annotations

from benchmarks.studies.networks import PUBLISHED, UNET
from benchmarks.studies.trainings import CONV, Row, Study, main

PRIOR = {"prior_bias": True}

STUDY = Study(
    "recipes",
    {
        "recipe": Row(CONV, "-"),
        "learning rate 1e-3": Row(CONV, "-", {"learning_rate": 1e-3}),
        "learning rate 4e-3": Row(CONV, "-", {"learning_rate": 4e-3}),
        "prior bias": Row(CONV, "-", PRIOR),
        "unet": Row(UNET),
        "unet, prior bias": Row(UNET, train=PRIOR, beside="unet"),
        "published 2x2": Row(PUBLISHED, "2x2"),
        "published 2x2, prior bias": Row(PUBLISHED, "2x2", PRIOR, beside="published 2x2"),
        "no warm-up": Row(CONV, "-", {"warmup_epochs": 0}),
        "no clipping": Row(CONV, "-", {"clip_grad_norm": None}),
        "no average of weights": Row(CONV, "-", {"ema_decay": None}),
        "batch 16": Row(CONV, "-", {"batch_size": 16}),
        "no augmentation": Row(CONV, "-", {"augment": False}),
        "deep supervision": Row({**CONV, "deep_supervision": True}, "-"),
        "blocks c3": Row(CONV, "c3"),
        "blocks c3, drop path 0.2": Row({**CONV, "drop_path_rate": 0.2}, "c3"),
        "blocks c3, published initialisation": Row({**CONV, "linear_init": "published"}, "c3"),
    },
    reference="recipe",
    seconds=60.0,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
