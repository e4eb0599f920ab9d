"""Every task that the installed transformers lists is served: alone, in a batch, and as the pipeline itself answers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from transformers.pipelines import PIPELINE_REGISTRY

from mlserve.errors import InferenceError
from mlserve.testing import check_runtime
from runtimes.huggingface.tests.asking import (
    IS_5,
    ask,
    base64_png,
    load,
    pipeline,
    plain,
    request,
    rows,
    settings_for,
    tensor,
    texts,
)
from runtimes.huggingface.tests.media_cases import Case, media_cases, picture, video
from runtimes.huggingface.tests.test_tasks import CASES
from runtimes.huggingface.tests.tiny_media_models import MAKERS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of transformers

# Tasks that cannot be tried here, and why.
UNTRIED = {"mask-generation": "needs torchvision, of which PyPI has no build that goes with a torch without CUDA"}
if IS_5:
    UNTRIED["any-to-any"] = UNTRIED["mask-generation"]
MEDIA = media_cases()
ALIASES = PIPELINE_REGISTRY.task_aliases


@pytest.fixture(scope="module")
def folders(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the models by task."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("media")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of transformers' modules use what torch deprecates
        for task, make in MAKERS.items():
            make(root / task)
    return {**models, **{task: root / task for task in MAKERS}}


def wanted_of(task: str, folder: Path, case: Case) -> Any:
    _, values, named = case
    return plain(pipeline(task, folder)(*values, **named))


def test_every_task_that_transformers_lists_is_tried() -> None:
    tried = {task.partition("_")[0] for task in CASES} | set(MEDIA) | {"video-classification"}
    tried |= {alias for alias, task in ALIASES.items() if task in tried}
    assert set(PIPELINE_REGISTRY.get_supported_tasks()) - tried == set(UNTRIED)


@pytest.mark.parametrize("task", MEDIA)
def test_it_answers_as_the_pipeline_does(folders: dict[str, Path], task: str) -> None:
    model = load(settings_for(folders[task], task=task))
    wanted = wanted_of(task, folders[task], MEDIA[task])
    assert ask(model, MEDIA[task][0]) == (wanted if isinstance(wanted, list) else [wanted])
    anyio.run(model.unload)


@pytest.mark.parametrize("task", MEDIA)
def test_in_a_batch_each_request_has_the_answer_that_it_has_alone(folders: dict[str, Path], task: str) -> None:
    settings = settings_for(folders[task], task=task, max_batch_size=8, max_batch_time=0.01)
    (answer,) = check_runtime(settings, MEDIA[task][0])
    wanted = wanted_of(task, folders[task], MEDIA[task])
    assert rows(answer) == [wanted[0] if isinstance(wanted, list) and len(wanted) == 1 else wanted]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_served_as_its_task(folders: dict[str, Path], alias: str) -> None:
    task = ALIASES[alias]
    asked = MEDIA[task][0] if task in MEDIA else texts("the red fox")
    model, same = load(settings_for(folders[task], task=alias)), load(settings_for(folders[task], task=task))
    assert ask(model, asked) == ask(same, asked)


@pytest.mark.parametrize("batch", [{}, {"max_batch_size": 8, "max_batch_time": 0.01}], ids=["alone", "batch"])
def test_videos_are_classified(folders: dict[str, Path], tmp_path: Path, batch: dict[str, Any]) -> None:
    folder, film = folders["video-classification"], str(video(tmp_path))
    settings = settings_for(folder, task="video-classification", allow_urls=True, **batch)
    wanted = plain(pipeline("video-classification", folder)(film))
    found = ask(load(settings), request(tensor("videos", [film])))
    assert found == ([wanted] if batch else wanted)
    two = ask(load(settings), request(tensor("videos", [film, film])))
    assert two == [wanted, wanted]


def test_keypoints_are_matched_in_each_pair(folders: dict[str, Path]) -> None:
    folder, seeds = folders["keypoint-matching"], [1, 2, 3, 4]
    files = [base64_png(picture(seed)) for seed in seeds]
    own = pipeline("keypoint-matching", folder)
    wanted = plain([own([picture(1), picture(2)]), own([picture(3), picture(4)])])
    by_rows = [one[0] if len(one) == 1 else one for one in wanted]
    for more, expected in (({}, wanted), ({"max_batch_size": 8, "max_batch_time": 0.01}, by_rows)):
        model = load(settings_for(folder, task="keypoint-matching", **more))
        for shape in ([4], [2, 2]):
            assert ask(model, request(tensor("images", files, shape=shape))) == expected
    with pytest.raises(InferenceError, match="'images': the pipeline compares two pictures each, and got 3"):
        ask(model, request(tensor("images", files[:3])))
