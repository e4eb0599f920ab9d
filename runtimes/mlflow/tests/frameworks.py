"""Saves small models of frameworks with MLflow: trained on four rows, or with random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema

TABLE = pd.DataFrame({"a": [1.0, 2.5, 3.0, 0.5], "b": [4.0, 5.0, 6.0, 1.0]})
LABELS = [0, 1, 1, 0]
SINGLE = TABLE.to_numpy(np.float32)
NO_PINS: dict[str, Any] = {"pip_requirements": []}


def save_spark(folder: Path) -> None:
    """A pipeline of Spark; its Java process stays for whoever uses it."""
    import mlflow.spark
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import VectorAssembler
    from pyspark.sql import SparkSession

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
        spark = SparkSession.builder.master("local[1]").config(map=local).getOrCreate()
        rows = [(*map(float, row), float(label)) for row, label in zip(SINGLE, LABELS, strict=True)]
        stages = [VectorAssembler(inputCols=["a", "b"], outputCol="features"), LogisticRegression(maxIter=2)]
        model = Pipeline(stages=stages).fit(spark.createDataFrame(rows, ["a", "b", "label"]))
        mlflow.spark.save_model(model, folder, signature=infer_signature(TABLE, pd.Series([0.0])), **NO_PINS)


def save_pytorch(folder: Path, signed: bool = True) -> None:
    import mlflow.pytorch
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    signature = infer_signature(SINGLE, model(torch.tensor(SINGLE)).detach().numpy()) if signed else None
    mlflow.pytorch.save_model(model, folder, signature=signature, serialization_format="pickle", **NO_PINS)


def save_transformers(folder: Path) -> None:
    import mlflow.transformers
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *["the", "a", "good", "bad", "film", "was", "is"]]
    tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=len(words), num_labels=2, **sizes)
    model = transformers.BertForSequenceClassification(config).eval()
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    signature = ModelSignature(
        Schema([ColSpec("string")]), Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    )
    mlflow.transformers.save_model(pipeline, folder, signature=signature, task="text-classification", **NO_PINS)


def save_lightgbm(folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    options = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 1}
    mlflow.lightgbm.save_model(lightgbm.train(options, lightgbm.Dataset(TABLE, label=LABELS), 2), folder, **NO_PINS)


def save_catboost(folder: Path) -> None:
    import catboost
    import mlflow.catboost

    model = catboost.CatBoostRegressor(iterations=2, verbose=False, allow_writing_files=False).fit(TABLE, LABELS)
    mlflow.catboost.save_model(model, folder, **NO_PINS)


def save_onnx(folder: Path) -> None:
    import mlflow.onnx
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    model = to_onnx(LogisticRegression().fit(TABLE, LABELS), SINGLE[:1], options={"zipmap": False})
    mlflow.onnx.save_model(model, folder, save_as_external_data=False, **NO_PINS)
