"""Trains a small pipeline with Spark ML, saves it beside this file, and writes the settings that serve it.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

from pyspark.ml import Pipeline
from pyspark.ml.classification import DecisionTreeClassifier
from pyspark.ml.feature import StringIndexer, VectorAssembler
from pyspark.sql import SparkSession

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "coats",
    "implementation": "mlserve_mllib.MLlibModel",
    "parameters": {"uri": "./model", "version": "v1"},
}


def main() -> None:
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    local = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    spark = (
        local.config("spark.ui.showConsoleProgress", "false").config("spark.sql.shuffle.partitions", "1").getOrCreate()
    )
    days = [
        (sky, float(degrees), float(sky != "sun" or degrees < 10)) for sky in ("sun", "rain") for degrees in range(30)
    ]
    frame = spark.createDataFrame(days, ["sky", "degrees", "label"])
    stages = [
        StringIndexer(inputCol="sky", outputCol="sky_index"),
        VectorAssembler(inputCols=["sky_index", "degrees"], outputCol="features"),
        DecisionTreeClassifier(maxDepth=2),
    ]
    Pipeline(stages=stages).fit(frame).write().overwrite().save(str(FOLDER / "model"))
    spark.stop()
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'model'}: saved")


if __name__ == "__main__":
    main()
