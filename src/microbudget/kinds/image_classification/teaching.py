"""What the methods of image classifiers share."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ...model import Model

INSTEAD = "an image classifier is made smaller with prune, distill or quantize"


def preprocessing_of(model: Model) -> dict[str, Any]:
    """The model's preprocessing. Raises UnsupportedModel where it has none."""
    if model.record.preprocessing is None:
        raise UnsupportedModel(
            f"{model.folder} has no preprocessor_config.json: copy it from the model that this one was made from"
        )
    return model.record.preprocessing
