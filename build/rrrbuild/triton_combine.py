"""Last step of a Triton ensemble: the members' probabilities, (N, C) each, to one tensor (N, M, C).

`rrr repository` copies this file as model.py for Triton's Python backend. Imports numpy only.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Stacks the inputs in the order of the configuration; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names of inputs and output.

        Args:
            args: Triton's: `model_config` is the configuration as JSON.
        """
        config = json.loads(args["model_config"])
        self._members = [tensor["name"] for tensor in config["input"]]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        members = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._members]
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.stack(members, axis=1))])
