"""Pipelines that make a mask of the picture's own size for each label or object: within a bound on all their pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageSegmentationPipeline, MaskGenerationPipeline
from transformers.image_utils import load_image

from mlserve.errors import InferenceError
from mlserve_huggingface.codecs.text import png_text

__all__ = ["CLASSES", "MOST_MASK_PIXELS", "MaskGeneration", "Segmentation"]

MOST_MASK_PIXELS = 250_000_000  # of all masks of a picture: they take some five bytes each
_BLOCK = 2**24  # of a picture's labels at once; above, one label after the other
# The processors whose maps of labels are the greatest logit at each pixel, after scaling each label alone.
_PLAIN = frozenset({"beit", "dpt", "mobilenet_v2", "mobilevit", "segformer"})
_POINT_MASKS = 3  # of each point, small, medium and large


class Segmentation(ImageSegmentationPipeline):  # type: ignore[misc]  # transformers is not typed
    """transformers' own, whose answers have the masks as text, and which keeps within `max_mask_pixels`."""

    def __init__(self, *parts: Any, max_mask_pixels: int, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._most = max_mask_pixels

    def postprocess(
        self, model_outputs: Any, subtask: str | None = None, threshold: float = 0.9, **more: Any
    ) -> list[dict[str, Any]]:
        """What was found. InferenceError if its masks would have too many pixels."""
        ((height, width),) = model_outputs["target_size"]
        masks, is_few = self._masks(model_outputs, subtask, threshold)
        if masks * height * width > _BLOCK and self._is_plain(subtask) and model_outputs["logits"].is_contiguous():
            return self._labelled(_label_map(model_outputs["logits"], (height, width)))
        _check(masks, height, width, self._most, ", or raise 'threshold', which keeps fewer objects" if is_few else "")
        found = super().postprocess(model_outputs, subtask=subtask, threshold=threshold, **more)
        return [{**one, "mask": png_text(one["mask"])} for one in found]

    def _masks(self, outputs: Any, subtask: str | None, threshold: float) -> tuple[int, bool]:
        """How many masks are scaled to the size of the picture, and whether they are those of what was found alone."""
        seen = outputs.get("class_queries_logits")
        seen = outputs["logits"] if seen is None else seen
        if seen.ndim == 4:  # a label in each, and no objects
            return int(seen.shape[1]), False
        if subtask == "semantic":
            return int(seen.shape[-1]) - 1, False
        if subtask == "instance" or not hasattr(self.image_processor, "post_process_panoptic_segmentation"):
            return int(seen.shape[-2]), False
        scores, labels = seen[0].softmax(-1).max(-1)
        return int(((labels != seen.shape[-1] - 1) & (scores > threshold)).sum()), True

    def _is_plain(self, subtask: str | None) -> bool:
        family = type(self.image_processor).__module__.removeprefix("transformers.models.").partition(".")[0]
        return subtask in ("semantic", None) and family in _PLAIN

    def _labelled(self, label_map: Any) -> list[dict[str, Any]]:
        labels, names = label_map.unique().tolist(), self.model.config.id2label
        return [{"score": None, "label": names[one], "mask": _mask(label_map == one)} for one in labels]


def _label_map(logits: Any, size: tuple[int, int]) -> Any:
    """The label of each pixel, as transformers has it: but one label is scaled at a time, and not all of them."""
    greatest: Any = None
    label_map: Any = None
    for label, one in enumerate(logits.split(1, dim=1)):
        scaled = torch.nn.functional.interpolate(one, size=size, mode="bilinear", align_corners=False)[0, 0]
        if greatest is None:
            greatest, label_map = scaled, torch.zeros(size, dtype=torch.int32, device=logits.device)
        else:
            label_map.masked_fill_(scaled > greatest, label)
            torch.maximum(greatest, scaled, out=greatest)
    return label_map


def _mask(where: Any) -> str:
    return png_text(Image.fromarray(where.cpu().numpy().astype(np.uint8) * np.uint8(255)))


class MaskGeneration(MaskGenerationPipeline):  # type: ignore[misc]  # transformers is not typed
    """transformers' own, which looks at fewer points at once where the picture is large."""

    def __init__(self, *parts: Any, max_mask_pixels: int, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._most = max_mask_pixels

    def preprocess(self, image: Any, points_per_batch: int | None = 64, **more: Any) -> Any:
        """The points in batches, of no more than there is room for."""
        image = load_image(image, timeout=more.get("timeout"))
        fit = max(1, self._most // (_POINT_MASKS * image.width * image.height))
        at_once = fit if points_per_batch is None else min(points_per_batch, fit)
        return super().preprocess(image, points_per_batch=at_once, **more)

    def postprocess(self, model_outputs: Any, crops_nms_thresh: float = 0.7, **more: Any) -> Any:
        """The masks. InferenceError if they have too many pixels."""
        masks = [one for output in model_outputs for one in output["masks"]]
        if masks:
            height, width = masks[0]["size"]
            scores = torch.cat([one["iou_scores"] for one in model_outputs])
            boxes = torch.cat([one["boxes"] for one in model_outputs])
            points = [{"size": [1, 1], "counts": [1]}] * len(masks)  # in their place: how many will be left?
            left = self.image_processor.post_process_for_mask_generation(points, scores, boxes, crops_nms_thresh)[0]
            _check(len(left), height, width, self._most, ", or raise 'pred_iou_thresh'")
        return super().postprocess(model_outputs, crops_nms_thresh=crops_nms_thresh, **more)


def _check(masks: int, height: int, width: int, most: int, advice: str) -> None:
    if masks * height * width > most:
        largest = math.isqrt(most // masks * width // height), math.isqrt(most // masks * height // width)
        raise InferenceError(
            f"{masks} masks of {width} x {height} pixels each are {masks * width * height} pixels; this model makes at "
            f"most {most} for one picture (parameters.extra.max_mask_pixels): send it smaller, so many masks fit in "
            f"{largest[0]} x {largest[1]}{advice}"
        )


CLASSES = {"image-segmentation": Segmentation, "mask-generation": MaskGeneration}
