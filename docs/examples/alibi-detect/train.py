"""Makes a detector that tells whether today's rooms are unlike those of a reference month, with its settings.

python train.py && mlserve start .
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from alibi_detect.cd import KSDrift
from alibi_detect.saving import save_detector

FOLDER = Path(__file__).resolve().parent
SETTINGS = {
    "name": "rooms",
    "implementation": "mlserve_alibi_detect.AlibiDetectRuntime",
    "parallel_workers": 1,
    "parameters": {
        "uri": "./detector",
        "version": "v1",
        "extra": {"predict_parameters": {"drift_type": "batch"}, "signature": True},
    },
}


def main() -> None:
    random = np.random.default_rng(0)
    reference = np.column_stack([random.normal(21, 1, 500), random.normal(45, 5, 500)])  # degrees, % of humidity
    save_detector(KSDrift(reference.astype("float32"), p_val=0.05), str(FOLDER / "detector"))
    (FOLDER / "model-settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    print(f"{FOLDER / 'detector'}: knows {len(reference)} rooms")


if __name__ == "__main__":
    main()
