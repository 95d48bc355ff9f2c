"""One function over many files in threads: Pillow decodes outside the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called as ``on_progress(done, total)`` in the caller's thread."""


def run_parallel(work: Callable[[int], Result], count: int, on_progress: Progress | None = None) -> list[Result]:
    """``[work(0), …, work(count - 1)]``. The first error ends the run; what has not started is dropped."""
    results = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, index) for index in range(count)]
        try:
            for done, future in enumerate(futures, start=1):
                results.append(future.result())
                if on_progress is not None:
                    on_progress(done, count)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
