"""Each model's own Python files stay its own, whatever their names."""

from __future__ import annotations

import sys

import pytest

from mlserve.errors import ModelLoadError
from mlserve.loader import Loader, import_implementation
from mlserve.settings import ModelSettings


@pytest.fixture
def loader():
    before = dict(sys.modules)
    yield Loader()
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def _model(folder, implementation, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.replace('__', '-')}.py").write_text(text)
    return folder, ModelSettings(name=folder.name, implementation=implementation)


def _load(loader, folder, settings, modules=None):
    modules = modules or loader.open(folder)
    with loader.active(modules):
        return import_implementation(settings.implementation, settings, folder), modules


def test_two_models_with_files_of_the_same_name_stay_apart(loader, tmp_path):
    text = "from helpers import value\nclass Model:\n    value = value\n    def late(self):\n        import helpers\n"
    one = _model(tmp_path / "one", "models.Model", models=text, helpers="value = 1")
    two = _model(tmp_path / "two", "models.Model", models=text, helpers="value = 2")
    assert _load(loader, *one)[0].value == 1
    assert _load(loader, *two)[0].value == 2
    assert _load(loader, *one)[0].value == 1


def test_a_file_with_a_hyphen_in_its_name_works(loader, tmp_path):
    place = _model(tmp_path / "m", "my-model.Model", my__model="class Model:\n    value = 5\n")
    assert _load(loader, *place)[0].value == 5


def test_a_reload_picks_up_edited_code_even_in_the_same_second(loader, tmp_path):
    folder, settings = _model(tmp_path / "m", "models.Model", models="class Model:\n    value = 1\n")
    first, modules = _load(loader, folder, settings)
    (folder / "models.py").write_text("class Model:\n    value = 2\n")
    second, _ = _load(loader, folder, settings)
    loader.discard(modules)
    assert (first.value, second.value) == (1, 2)


def test_a_folder_does_not_hide_installed_packages_from_others(loader, tmp_path):
    place = _model(
        tmp_path / "m", "models.Model", models="import colorsys\nclass Model:\n    where = colorsys.__file__\n"
    )
    (place[0] / "colorsys.py").write_text("")
    sys.modules.pop("colorsys", None)
    assert _load(loader, *place)[0].where == str(place[0] / "colorsys.py")
    assert str(tmp_path) not in " ".join(sys.path)
    import importlib

    with loader.active(loader.open(None)):
        assert str(tmp_path) not in importlib.import_module("colorsys").__file__


def test_unpickling_at_load_finds_classes_of_the_models_own_files(loader, tmp_path):
    import pickle

    text = "class Model:\n    pass\nclass Part:\n    n = 3\n"
    folder, settings = _model(tmp_path / "m", "models.Model", models=text)
    _, modules = _load(loader, folder, settings)
    with loader.active(modules):
        data = pickle.dumps(sys.modules["models"].Part())
        assert pickle.loads(data).n == 3


@pytest.mark.parametrize(
    ("implementation", "text"),
    [
        ("models.Modle", "Model"),
        ("nowhere.Model", "nowhere"),
        ("mlserve_nonesuch", "mlserve_nonesuch"),
        ("models.number", "not a class"),
    ],
)
def test_what_cannot_be_found_is_explained(loader, tmp_path, implementation, text):
    folder, settings = _model(tmp_path / "m", implementation, models="number = 1\nclass Model:\n    pass\n")
    with pytest.raises(ModelLoadError, match=text):
        _load(loader, folder, settings)


@pytest.mark.parametrize("key", ["environment_path", "environment_tarball"])
def test_a_package_that_is_missing_is_told_with_the_models_environment(key):
    settings = ModelSettings(name="m", implementation="nowhere.Mine", parameters={key: "/envs/old"})
    with pytest.raises(ModelLoadError, match=r"no module 'nowhere'.*; the model runs in the environment /envs/old$"):
        import_implementation("nowhere.Mine", settings, None)


def test_an_error_in_the_models_file_is_told_with_its_place(loader, tmp_path):
    folder, settings = _model(tmp_path / "m", "models.Model", models="x = 1 +\n")
    with pytest.raises(ModelLoadError, match=r"models\.py"):
        _load(loader, folder, settings)


def test_a_model_folder_that_holds_mlserve_itself_does_not_own_it(loader, tmp_path):
    from pathlib import Path

    import mlserve

    modules = loader.open(Path(mlserve.__file__).parent.parent)
    modules.collect({name: one for name, one in sys.modules.items() if not name.startswith("mlserve")})
    assert not any(name.startswith("mlserve.") for name in modules.private)
    loader.discard(modules)
    assert "mlserve.loader" in sys.modules


def test_two_loaders_of_one_process_do_not_mix_the_modules_of_their_models(tmp_path):
    """As with two pools in threads of one server."""
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.py").write_text(f"class Model:\n    name = {name!r}\n")
        loader = Loader()
        modules = loader.open(tmp_path / name)
        with loader.active(modules):
            kind = import_implementation("models.Model", ModelSettings(name=name), tmp_path / name)
        found.append((loader, modules, kind))
    assert [kind.name for _, _, kind in found] == ["one", "two"]
    for loader, modules, _ in found:
        loader.discard(modules)
