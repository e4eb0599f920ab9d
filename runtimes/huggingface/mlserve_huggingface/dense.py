"""Pipelines that make a mask of the picture's own size for each label or object: one after the other, and as files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageSegmentationPipeline, MaskGenerationPipeline
from transformers.image_utils import load_image

from mlserve.errors import InferenceError
from mlserve_huggingface.codecs.text import png_text
from mlserve_huggingface.one_by_one import OneByOne

__all__ = ["MaskGeneration", "Segmentation"]

_Told = tuple[int, float | None, str]  # a number on the map, the score, the label
_KINDS = ("panoptic", "instance", "semantic")  # in the order in which transformers prefers them
_AT_ONCE = 150_000_000  # pixels of the masks of points that are looked at together, some nine bytes each
_POINT_MASKS = 3  # of each point, small, medium and large
_BETWEEN = 1024**2  # pixels to which SAM scales a mask first


class Segmentation(ImageSegmentationPipeline):  # type: ignore[misc]  # transformers is not typed
    """transformers' own, whose answers have the masks as text; it never has all of them at once."""

    def _sanitize_parameters(self, between: Callable[[], None] | None = None, **kwargs: Any) -> Any:
        before, computing, after = super()._sanitize_parameters(**kwargs)
        return before, computing, after if between is None else {**after, "between": between}

    def postprocess(
        self,
        model_outputs: Any,
        subtask: str | None = None,
        threshold: float = 0.9,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.5,
        between: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """What was found. InferenceError if its masks are needed all at once, and there is no room.

        `between` is called before each mask, and may raise to end it all.
        """
        found = [(kind, getattr(self.image_processor, f"post_process_{kind}_segmentation", None)) for kind in _KINDS]
        kinds = [(kind, make) for kind, make in found if make is not None and subtask in (kind, None)]
        if not kinds:
            raise ValueError(f"Subtask {subtask} is not supported for model {type(self.model)}")
        (kind, make), names = kinds[0], self.model.config.id2label
        size = {"target_sizes": model_outputs["target_size"]}
        with OneByOne(between):
            if kind == "semantic":
                (label_map,) = make(model_outputs, **size)
                labels: list[_Told] = [(label, None, names[label]) for label in label_map.unique().tolist()]
                return _segments(label_map, labels, between)
            options = {
                "threshold": threshold,
                "mask_threshold": mask_threshold,
                "overlap_mask_area_threshold": overlap_mask_area_threshold,
            }
            (objects,) = make(model_outputs, **size, **options)
        where = objects["segmentation"]
        told: list[_Told] = [(one["id"], one["score"], names[one["label_id"]]) for one in objects["segments_info"]]
        return _segments(where, told, between)


def _segments(places: Any, told: list[_Told], between: Callable[[], None]) -> list[dict[str, Any]]:
    """The labels or objects on a map, each with its mask."""
    made = []
    for which, score, label in told:
        between()
        mask = (places == which).cpu().numpy().astype(np.uint8) * np.uint8(255)
        made.append({"score": score, "label": label, "mask": png_text(Image.fromarray(mask))})
    return made


class MaskGeneration(MaskGenerationPipeline):  # type: ignore[misc]  # transformers is not typed
    """transformers' own, which looks at fewer points at once where a picture is large, and stops at too many masks."""

    def __init__(self, *parts: Any, most_numbers: int, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._most = most_numbers
        self._kept = 0  # numbers that the masks of the picture in hand are kept as

    def preprocess(self, image: Any, points_per_batch: int | None = 64, points_per_crop: int = 32, **more: Any) -> Any:
        """The points in batches, of no more than there is room for."""
        image = load_image(image, timeout=more.get("timeout"))
        self._kept = 0
        fit = _AT_ONCE // (_POINT_MASKS * max(_BETWEEN, image.width * image.height))
        points = points_per_crop**2
        most = max(1, min(fit, points if points_per_batch is None else points_per_batch))
        # transformers 4 knows the last batch by its being full.
        at_once = next((one for one in range(most, 0, -1) if points % one == 0), 1)
        return super().preprocess(image, points_per_batch=at_once, points_per_crop=points_per_crop, **more)

    def _forward(self, *parts: Any, **more: Any) -> Any:
        found = super()._forward(*parts, **more)
        self._kept += sum(len(one["counts"]) for one in found["masks"])
        if self._kept > self._most:
            raise InferenceError(
                f"so many masks were found in this picture, or so ragged ones, that {self._kept} numbers would be kept "
                f"for them; there is room for {self._most} (parameters.extra.max_answer_numbers): raise "
                f"'pred_iou_thresh' or 'stability_score_thresh', or send it smaller"
            )
        return found

    def postprocess(self, model_outputs: Any, crops_nms_thresh: float = 0.7, **more: Any) -> Any:
        """The masks. InferenceError if they have too many pixels for one answer."""
        masks = [one for output in model_outputs for one in output["masks"]]
        if masks:
            height, width = masks[0]["size"]
            scores = torch.cat([one["iou_scores"] for one in model_outputs])
            boxes = torch.cat([one["boxes"] for one in model_outputs])
            points = [{"size": [1, 1], "counts": [1]}] * len(masks)  # in their place: how many will be left?
            left = self.image_processor.post_process_for_mask_generation(points, scores, boxes, crops_nms_thresh)[0]
            self._check(len(left), height, width)
        return super().postprocess(model_outputs, crops_nms_thresh=crops_nms_thresh, **more)

    def _check(self, masks: int, height: int, width: int) -> None:
        numbers = masks * height * width // 3  # as `numbers_in` counts what is true or false
        if numbers > self._most:
            raise InferenceError(
                f"{masks} masks of {width} x {height} pixels, true or false each, would count as {numbers} numbers; "
                f"this model answers at most {self._most} (parameters.extra.max_answer_numbers): send the picture "
                f"smaller, or raise 'pred_iou_thresh' or 'stability_score_thresh'"
            )
