"""get_model_uri: the artifact's path from a model's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlserve.artifacts import get_model_uri
from mlserve.errors import InvalidModelURI
from mlserve.settings import ModelSettings

pytestmark = pytest.mark.anyio


def of(folder: Path | None, uri: str | None = None) -> ModelSettings:
    settings = ModelSettings(name="m", parameters={"uri": uri} if uri is not None else None)
    settings.source_dir = folder
    return settings


async def test_a_relative_path_starts_at_the_folder_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    assert await get_model_uri(of(tmp_path, "./model.bin")) == str(tmp_path / "model.bin")
    assert await get_model_uri(of(Path("/elsewhere"), str(tmp_path / "model.bin"))) == str(tmp_path / "model.bin")
    assert await get_model_uri(of(tmp_path, (tmp_path / "model.bin").as_uri())) == str(tmp_path / "model.bin")


async def test_in_a_folder_the_first_well_known_name_is_taken(tmp_path: Path) -> None:
    for name in ("model.pkl", "model.joblib"):
        (tmp_path / name).touch()
    names = ["model.joblib", "model.pkl"]
    assert await get_model_uri(of(tmp_path), names) == str(tmp_path / "model.joblib")
    assert await get_model_uri(of(tmp_path.parent, tmp_path.name), iter(names)) == str(tmp_path / "model.joblib")
    assert await get_model_uri(of(tmp_path, "model.pkl"), wellknown_filenames=names) == str(tmp_path / "model.pkl")


async def test_without_well_known_names_a_folder_is_the_artifact(tmp_path: Path) -> None:
    assert await get_model_uri(of(tmp_path)) == str(tmp_path)
    assert await get_model_uri(of(tmp_path, ".")) == str(tmp_path)


@pytest.mark.parametrize(
    ("uri", "names", "words"),
    [
        ("missing.bin", [], "missing.bin does not exist"),
        (".", ["a.bin", "b.bin"], "has none of a.bin, b.bin"),
        ("s3://bucket/model", [], "only local files can be loaded"),
    ],
)
async def test_an_artifact_that_is_not_there_is_told_with_what_was_looked_for(
    tmp_path: Path, uri: Any, names: list[str], words: str
) -> None:
    with pytest.raises(InvalidModelURI, match=words) as caught:
        await get_model_uri(of(tmp_path, uri), names)
    assert "model m" in str(caught.value)


async def test_settings_without_folder_and_uri_have_no_artifact() -> None:
    with pytest.raises(InvalidModelURI, match=r"parameters\.uri is not set"):
        await get_model_uri(of(None))
