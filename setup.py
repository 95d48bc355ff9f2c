"""The one part of the build that pyproject.toml cannot say: the native scan, which is optional."""

import sys

from setuptools import Extension, setup

# No flag ties the library to this machine; the instruction set is chosen when it runs. OpenMP is compiled in but not
# linked: the library uses the runtime that torch has loaded (slicemamba/ops/cpu.py). Other systems: threads of its own.
openmp = ["-fopenmp"] if sys.platform == "linux" else []

setup(
    ext_modules=[
        Extension(
            "slicemamba.ops._scan",
            sources=["slicemamba/ops/_scan.cpp"],
            depends=[
                f"slicemamba/ops/_scan{part}.h"
                for part in (
                    *("", "_threads", "_vector", "_tile", "_forward", "_backward", "_gemm"),
                    *("_gated_norm", "_depthwise", "_instance_norm"),
                )
            ],
            extra_compile_args=["-O3", "-std=c++17", *openmp],
            language="c++",
            optional=True,
        )
    ]
)
