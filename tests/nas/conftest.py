"""Studies in memory beside those in files: the same code, without waiting for the disk."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage

import nas.study


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> BaseStorage:
    """A storage in memory, which ``Study`` takes in place of a location."""
    from_location = nas.study.open_storage

    def open_storage(location: Any) -> BaseStorage:
        return location if isinstance(location, BaseStorage) else from_location(location)

    monkeypatch.setattr(nas.study, "open_storage", open_storage)
    return InMemoryStorage()
