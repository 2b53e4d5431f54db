"""The script that MLflow runs to load a logged classifier (models from code): no pickle, only files."""

from __future__ import annotations

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from dlspark.predict.classifier import Classifier


class ServedClassifier(PythonModel):
    """Encoded images in, labels and probabilities out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that was logged with this script."""
        self._classifier = Classifier.load(context.artifacts["checkpoint"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify the column `image` (encoded files); one that cannot be decoded never fails the others.

        Args:
            context: MLflow's, unused after loading.
            model_input: one row an image.
            params: none are defined.

        Returns:
            One row an image: `label`, `probabilities` (in the order of the classes, which the model's
            metadata name) and `error`; label and probabilities are null where error says why.
        """
        images = [None if data is None else bytes(data) for data in model_input["image"]]
        labels, probabilities, errors = self._classifier.predict(images)
        rows = [
            row.tolist() if label is not None else None
            for label, row in zip(labels, probabilities, strict=True)
        ]
        columns = {"label": labels, "probabilities": rows, "error": errors}
        return pd.DataFrame(columns, index=model_input.index, dtype=object)


mlflow.models.set_model(ServedClassifier())
