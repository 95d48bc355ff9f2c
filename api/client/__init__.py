"""The client of the service.

client = Client("http://127.0.0.1:8000")
search = client.submit({"data": {"name": "synthetic"}, ...})
client.wait(search.id)
for trial in client.pareto(search.id).trials: ...
"""

from __future__ import annotations

from api.client import http
from api.client.connection import ApiError, ApiUnreachableError
from api.client.notebook import SearchHandle

__all__ = ["ApiError", "ApiUnreachableError", "Client", "SearchHandle"]


class Client(http.Client):
    """``api.client.http.Client``, which can also hand out a search to work with in a notebook."""

    def search(self, wanted: str = http.LATEST) -> SearchHandle:
        """A search to work with in a notebook: its trials as a table, its figures, its files.

        Args:
            wanted: as ``resolve`` takes it.
        """
        return SearchHandle(self, self.resolve(wanted))
