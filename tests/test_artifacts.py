"""get_model_uri and local_artifact: where a model's artifact is, by its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlserve.artifacts import get_model_uri, local_artifact
from mlserve.errors import InvalidModelURI
from mlserve.settings import ModelSettings

pytestmark = pytest.mark.anyio

ADDRESSES = [
    "s3://bucket/model",
    "gs://bucket/model.bin",
    "https://host/model.bin",
    "hf://org/model",
    "models:/wine/1",
    "models:/wine@champion",
    "runs:/abc/model",
    "mlflow-artifacts:/x/y",
]


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


async def test_a_folder_with_none_of_the_well_known_names_is_the_artifact_itself(tmp_path: Path) -> None:
    (tmp_path / "model.bin").mkdir()  # a folder is no file of that name
    assert await get_model_uri(of(tmp_path), ["model.bin", "model.npz"]) == str(tmp_path)


@pytest.mark.parametrize("uri", ADDRESSES)
async def test_an_address_elsewhere_stays_as_it_is(tmp_path: Path, uri: str) -> None:
    assert await get_model_uri(of(tmp_path, uri)) == await get_model_uri(of(None, uri), ["model.bin"]) == uri


async def test_a_file_address_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a model.bin").touch()
    for uri in ((tmp_path / "a model.bin").as_uri(), "file:a%20model.bin", "file:./a%20model.bin"):
        assert await get_model_uri(of(tmp_path, uri)) == str(tmp_path / "a model.bin")


async def test_paths_have_no_dots_left_in_them(tmp_path: Path) -> None:
    (tmp_path / "art").mkdir()
    (tmp_path / "m.bin").touch()
    assert await get_model_uri(of(tmp_path, "./art/../m.bin")) == str(tmp_path / "m.bin")
    assert await get_model_uri(of(tmp_path, f"{tmp_path}/art/")) == str(tmp_path / "art")


async def test_a_path_that_only_exists_from_the_working_directory_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.bin").touch()
    monkeypatch.chdir(tmp_path)
    assert await get_model_uri(of(tmp_path / "elsewhere", "model.bin")) == str(tmp_path / "model.bin")
    assert await get_model_uri(of(None, "model.bin")) == "model.bin"


@pytest.mark.parametrize("uri", ["missing.bin", "hf-org/model", "a" * 5000, "a\0b"])
async def test_a_path_that_does_not_exist_is_refused(tmp_path: Path, uri: str) -> None:
    for find in (get_model_uri(of(tmp_path, uri)), get_model_uri(of(tmp_path, uri), ["model.bin"])):
        with pytest.raises(InvalidModelURI, match=r"model m \(.* does not exist"):
            await find


async def test_settings_without_folder_and_uri_have_no_artifact() -> None:
    with pytest.raises(InvalidModelURI, match=r"parameters\.uri is not set"):
        await get_model_uri(of(None))


def test_runtimes_that_read_files_get_one_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    assert local_artifact(of(tmp_path), iter(["model.npz", "model.bin"])) == str(tmp_path / "model.bin")
    assert local_artifact(of(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("uri", "names", "words"),
    [
        ("missing.bin", [], "missing.bin does not exist"),
        (".", ["a.bin", "b.bin"], "has none of a.bin, b.bin"),
        *((uri, [], f"{uri}: only local files can be loaded; download it first") for uri in ADDRESSES),
    ],
)
def test_an_artifact_that_is_not_there_is_told_with_what_was_looked_for(
    tmp_path: Path, uri: str, names: list[str], words: str
) -> None:
    with pytest.raises(InvalidModelURI, match=words) as caught:
        local_artifact(of(tmp_path, uri), names)
    assert "model m" in str(caught.value)
