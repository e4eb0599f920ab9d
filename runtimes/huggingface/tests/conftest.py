"""Tiny models for all tests of this runtime, made once; nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import pytest
import torch
import transformers

os.environ["USE_TF"] = "0"  # in servers of the tests transformers 4 would import TensorFlow too, which takes long

from runtimes.huggingface.tests.asking import IS_5
from runtimes.huggingface.tests.tiny_models import make_all

collect_ignore = ["test_tensorflow.py"] if IS_5 else []


@pytest.fixture(scope="session", autouse=True)
def _quietly() -> Iterator[None]:
    """One thread, for models that are too small for more, and no progress bars."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the models by task."""
    return make_all(tmp_path_factory.mktemp("models"))
