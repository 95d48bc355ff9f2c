"""Studies in memory beside those in files: the same code, without waiting for the disk."""

from __future__ import annotations

import pytest
from optuna.storages import BaseStorage, InMemoryStorage


@pytest.fixture
def storage() -> BaseStorage:
    """A storage in memory, which ``Study`` takes in place of a location."""
    return InMemoryStorage()
