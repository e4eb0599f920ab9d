"""The simplified interface: arguments are the inputs of their names."""

from typing import List  # noqa: UP035  # as older code has it

import numpy as np
from mlserver import MLModel
from mlserver.codecs import decode_args


class Lengths(MLModel):
    async def load(self):
        self.model = len  # and nothing is returned

    @decode_args
    async def predict(self, questions: List[str], context: List[str]) -> np.ndarray:  # noqa: UP006
        return np.array([self.model(one) for one in [*questions, *context]])
