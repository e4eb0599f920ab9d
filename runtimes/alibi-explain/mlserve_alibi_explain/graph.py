"""The graph of TensorFlow 1 that counterfactuals are computed in, for one explainer; the process stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Graph"]


class Graph:
    """A graph and its session. Within `entered`, this thread builds and runs graphs; others go on without them."""

    def __init__(self) -> None:
        import tensorflow

        self._tensorflow = tensorflow.compat.v1
        self._graph = self._tensorflow.Graph()
        self.session: Any = self._tensorflow.Session(graph=self._graph)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Explainers are made and asked in here."""
        with self._graph.as_default(), self.session.as_default():
            backend = self._tensorflow.keras.backend
            if not hasattr(backend, "get_session"):  # gone from Keras 3; alibi asks for it in any case
                backend.get_session = self._tensorflow.get_default_session
            yield

    def close(self) -> None:
        """Frees what the session holds."""
        self.session.close()
