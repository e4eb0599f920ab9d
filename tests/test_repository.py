"""The model repository: what is found on disk, in which order, and what happens to what is broken."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.errors import SettingsError, StartupError
from mlserve.repository import CustomRepository, ModelRepository, open_repository, version_key
from mlserve.settings import ModelSettings, Settings, load_settings
from tests.unread import until


@pytest.fixture(autouse=True)
def _clean_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables of ours, and a working directory without files."""
    for name in list(os.environ):
        if name.lower().startswith(("mlserve_", "mlserver_")):
            monkeypatch.delenv(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def add(
    root: Path, folder: str, settings: dict[str, Any] | str | None = None, file: str = "model-settings.json"
) -> Path:
    """A model's folder with its settings; the implementation need not be written."""
    path = root / folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps({"implementation": "a.B", **(settings or {})})
    path.write_text(text)
    return path


def names(repository: ModelRepository) -> list[str]:
    return [f"{found.name} {found.version or ''}".rstrip() for found in repository.list()]


# -- what is found --------------------------------------------------------------------------------------------------


def test_every_settings_file_below_the_root_is_a_model(root: Path) -> None:
    add(root, "one", {"name": "first"})
    add(root, "deep/er/two")
    add(root, "three/v1", {"name": "three", "parameters": {"version": "1"}})
    add(root, "three/v2", {"name": "three", "parameters": {"version": "2"}})
    repository = ModelRepository(root)
    assert sorted(names(repository)) == ["first", "three 1", "three 2", "two"]
    assert [found.version for found in repository.find("three")] == ["1", "2"]
    assert repository.find("absent") == []


def test_folders_come_in_natural_order(root: Path) -> None:
    for number in (10, 2, 1):
        add(root, f"m{number}")
    assert names(ModelRepository(root)) == ["m1", "m2", "m10"]


def test_the_root_may_be_one_models_folder(root: Path) -> None:
    add(root, ".", {"name": "x"})
    (found,) = ModelRepository(root).list()
    assert found.name == "x" and found.source_dir == root


def test_links_are_followed_and_loops_end(root: Path, tmp_path: Path) -> None:
    add(tmp_path / "outside", "iris")
    (root / "linked").symlink_to(tmp_path / "outside" / "iris")
    (root / "loop").symlink_to(root)
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "itself").symlink_to("itself")
    (root / "settings").mkdir()
    (root / "settings" / "model-settings.json").symlink_to("model-settings.json")
    assert names(ModelRepository(root)) == ["linked"]


def test_a_mounted_config_map_is_one_model(root: Path) -> None:
    add(root, "iris/..2026_01_01", {"name": "iris"})
    (root / "iris" / "..data").symlink_to("..2026_01_01")
    (root / "iris" / "model-settings.json").symlink_to("..data/model-settings.json")
    assert names(ModelRepository(root)) == ["iris"]


def test_hidden_folders_and_python_environments_are_left_out(root: Path) -> None:
    add(root, "iris")
    add(root, ".git/x")
    add(root, "__pycache__")
    add(root, "env/lib/site-packages/x")
    (root / "env" / "pyvenv.cfg").write_text("")
    assert names(ModelRepository(root)) == ["iris"]


def test_an_edit_is_seen_by_the_next_look(root: Path) -> None:
    add(root, "iris", {"max_batch_size": 1})
    repository = ModelRepository(root)
    assert repository.find("iris")[0].max_batch_size == 1
    add(root, "iris", {"max_batch_size": 2})
    assert repository.find("iris")[0].max_batch_size == 2


# -- what is broken -------------------------------------------------------------------------------------------------


def test_broken_settings_are_told_once_and_the_others_served(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root, "broken-json", "{not json")
    add(root, "broken-fields", '{"name": "broken-fields"}')
    add(root, "iris", {"unknwon": 1, "uri": "x"})
    repository = ModelRepository(root)
    for _ in range(3):
        assert names(repository) == ["iris"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4
    assert "broken-fields" in told[0] and "'implementation' is missing" in told[0]
    assert "line 1, column 2" in told[1] and "goes on without this model" in told[1]
    assert "unknown key 'unknwon'" in told[2] and "parameters.uri" in told[3]


def test_asking_for_a_broken_model_says_what_is_wrong(root: Path) -> None:
    add(root, "iris", "{not json")
    with pytest.raises(SettingsError, match="line 1, column 2"):
        ModelRepository(root).find("iris")


def test_a_new_mistake_is_told_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = ModelRepository(root)
    for text in ("{", "{", "[]"):
        add(root, "iris", text)
        repository.list()
    assert len(caplog.records) == 2


def test_of_two_files_with_one_name_and_version_the_first_counts(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root, "a", {"name": "iris", "platform": "first"})
    add(root, "b", {"name": "iris", "platform": "second"})
    (found,) = ModelRepository(root).find("iris")
    assert found.platform == "first" and "the same model and version already" in caplog.text


def test_a_folder_that_cannot_be_read_is_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, "iris")
    add(root, "locked")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(ModelRepository(root)) == ["iris"]


# -- models without a settings file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name", "implementation"),
    [
        ("model.joblib", "models", "mlserve_sklearn.SKLearnModel"),
        ("iris.pkl", "iris", "mlserve_sklearn.SKLearnModel"),
        ("net.onnx", "net", "mlserve_onnx.OnnxModel"),
    ],
)
def test_a_saved_model_is_served_by_the_runtime_of_its_kind(
    root: Path, file: str, name: str, implementation: str
) -> None:
    artifact = add(root, ".", "x", file=file)
    for place in (artifact, root):
        (found,) = open_repository(place, load_settings(place)).list()
        assert (found.name, found.implementation) == (name, implementation)
        assert found.parameters is not None and found.parameters.uri == str(artifact)


def test_of_several_saved_models_none_is_guessed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(root, ".", "x", file="a.joblib")
    add(root, ".", "x", file="b.joblib")
    assert ModelRepository(root).list() == [] and f"no model at {root}" in caplog.text


def test_a_file_of_unknown_kind_stops_the_start(root: Path) -> None:
    artifact = add(root, ".", "x", file="model.xyz")
    with pytest.raises(StartupError, match="what kind of model"):
        open_repository(artifact, load_settings(artifact))


def test_variables_describe_the_model_of_a_folder_without_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "models.Mine")
    monkeypatch.setenv("MLSERVER_MODEL_URI", "./weights.bin")
    (found,) = ModelRepository(root).list()
    assert (found.name, found.implementation, found.source_dir) == ("models", "models.Mine", root)
    assert found.parameters is not None and found.parameters.uri == "./weights.bin"
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "iris")
    assert names(ModelRepository(root)) == ["iris"]


def test_variables_do_not_add_a_model_to_those_that_have_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(root, "iris")
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "models.Mine")
    assert names(ModelRepository(root)) == ["iris"]


def test_a_variable_that_names_the_saved_model_tells_the_runtime(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = add(root, "sub", "x", file="iris.joblib")
    for uri in (str(artifact), "sub/iris.joblib", "s3://bucket/iris.joblib"):
        monkeypatch.setenv("MLSERVER_MODEL_URI", uri)
        (found,) = ModelRepository(root).list()
        assert (found.name, found.implementation) == ("iris", "mlserve_sklearn.SKLearnModel")
        assert found.parameters is not None and found.parameters.uri == uri


# -- opening --------------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_there_stops_the_start(root: Path) -> None:
    with pytest.raises(StartupError, match="there is no folder"):
        open_repository(root, Settings(model_repository_root=str(root / "absent")))


def test_the_path_of_a_settings_file_means_its_folder(root: Path) -> None:
    path = add(root, "iris")
    assert names(open_repository(path, load_settings(path))) == ["iris"]


CUSTOM = """
from mlserve.settings import ModelSettings

class Plain:
    def __init__(self, names):
        self.names = names
    def list(self):
        return [ModelSettings(name=name, implementation="a.B") for name in self.names]
    def find(self, name):
        return [found for found in self.list() if found.name == name] or None

class Coroutines(Plain):
    async def list(self):
        return super().list()
    async def find(self, name):
        return [found for found in await self.list() if found.name == name]
"""


@pytest.mark.parametrize("kind", ["Plain", "Coroutines"])
def test_a_repository_of_ones_own_class_is_asked(root: Path, kind: str) -> None:
    add(root, ".", CUSTOM, file="own_repository.py")
    settings = Settings(
        model_repository_implementation=f"own_repository.{kind}",
        model_repository_implementation_args={"names": ["a", "b"]},
        model_repository_root=str(root),
    )
    try:
        repository = open_repository(root, settings)
    finally:
        sys.modules.pop("own_repository", None)
    with closing(repository):
        assert names(repository) == ["a", "b"]
        assert [found.name for found in repository.find("b")] == ["b"]
        assert repository.find("absent") == []
    assert str(root) not in sys.path


def test_a_repository_class_may_be_given_itself(root: Path) -> None:
    class Own:
        def list(self) -> Any:
            return [ModelSettings(name="x")]

        async def find(self, name: str) -> Any:
            raise KeyError(name)

    with closing(open_repository(root, Settings(model_repository_implementation=Own))) as repository:
        assert names(repository) == ["x"]
        with pytest.raises(KeyError, match="y"):
            repository.find("y")


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "mlserve repository"}


class OfOneLoop:
    """Keeps what belongs to one event loop, as the session of an HTTP client does."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.ended = threading.Event()
        self.background = self.loop.create_task(self._watch())

    async def _watch(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()

    async def list(self) -> Any:
        assert asyncio.get_running_loop() is self.loop
        await self.changed.wait()
        return [ModelSettings(name="x")]

    async def find(self, name: str) -> Any:
        assert asyncio.get_running_loop() is self.loop
        self.changed.set()
        return None


def test_a_repository_class_has_one_event_loop_for_all_its_calls(root: Path) -> None:
    """Calls at the same time run there side by side; what is left there ends with it."""
    before = _threads()
    repository = open_repository(root, Settings(model_repository_implementation=OfOneLoop))
    assert isinstance(repository, CustomRepository)
    with ThreadPoolExecutor(1) as threads:
        listed = threads.submit(names, repository)
        assert repository.find("y") == []
        assert listed.result(60) == ["x"]
    repository.close()
    assert repository.implementation.ended.wait(60)
    until(lambda: _threads() <= before)
    with pytest.raises(RuntimeError):
        repository.list()


def test_no_thread_is_left_of_a_repository_class_that_cannot_be_made(root: Path) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such bucket")

    before = _threads()
    with pytest.raises(StartupError, match="no such bucket"):
        open_repository(root, Settings(model_repository_implementation=Broken))
    until(lambda: _threads() <= before)


def test_a_repository_class_that_is_not_there_stops_the_start(root: Path) -> None:
    settings = Settings(model_repository_implementation="nowhere.Own", model_repository_root=str(root))
    with pytest.raises(StartupError, match=r"model_repository_implementation: .*no module 'nowhere'"):
        open_repository(root, settings)


# -- versions -------------------------------------------------------------------------------------------------------


def test_versions_are_ordered_as_people_count() -> None:
    ordered = [
        "",
        "canary",
        "v0.9.0",
        "v0.10.0",
        "1.0-rc1",
        "1.0-rc2",
        "1.0rc10",
        "1.0",
        "1.0.1",
        "1.2",
        "1.10",
        "v2",
        "10",
    ]
    assert sorted(random.Random(0).sample(ordered, len(ordered)), key=version_key) == ordered
    assert sorted(["2024-10-01", "2024-9-30", "2024"], key=version_key) == ["2024", "2024-9-30", "2024-10-01"]
    assert version_key("9" * 5000) < version_key("1" + "0" * 5000)


@given(st.lists(st.text() | st.from_regex(r"v?\d{1,3}(\.\d{1,3}){0,2}(-?rc\d)?", fullmatch=True)))
def test_any_versions_can_be_ordered_and_different_ones_differ(versions: list[str]) -> None:
    keys = sorted(map(version_key, versions))
    assert len(set(map(str, keys))) == len(set(versions))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=4), st.lists(st.integers(0, 2000), min_size=1, max_size=4))
def test_dotted_numbers_are_ordered_as_numbers(one: list[int], two: list[int]) -> None:
    def dotted(numbers: list[int]) -> Any:
        return version_key(".".join(map(str, numbers)))

    assert (dotted(one) < dotted(two)) == (one < two)


def test_nothing_is_told_about_a_good_repository(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    add(root, "iris")
    ModelRepository(root).list()
    assert not caplog.records
