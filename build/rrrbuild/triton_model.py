"""Triton's Python backend for our engines: `rrr repository` copies this file as model.py.

Imports numpy and the standard library only; runtime.py beside it imports the runtime, plan_runner.py calls that, and
processor.py counts the cores that there are for it.
The manifest's seal and every digest are checked before the runtime opens a file. All requests that Triton has batched
become one engine call.

Where members may be left out (a cascade, plan `split`), a request may carry parameters: `effort` (`fast`, `auto` or
`full`), `deadline_us` (Unix time in microseconds) by which those members that have answered are the answer, and
`quorum`, how many that must be.
"""

import hashlib
import importlib.util
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

MEMBER_SECONDS = "member_seconds"
MEMBERS_USED = "members_used"
MEMBER_STATUS = "member_status"
EMBEDDING = "embedding"
_SEAL = re.compile(rb'\A\{\n  "seal": "([0-9a-f]{64})"')


class TritonPythonModel:
    """One model instance; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the engine and load it.

        Args:
            args: Triton's: `model_repository` is this model's folder, `model_config` its configuration as JSON.

        Raises:
            RuntimeError: a file was changed; Triton then refuses the model.
        """
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = _read_checked(folder)
        config = json.loads(args["model_config"])
        threads = config.get("parameters", {}).get("threads")
        self._name = args["model_name"]
        self._input = manifest["inputs"][0]["name"]
        self._output = manifest["outputs"][0]["name"]
        self._output_shape = tuple(manifest["outputs"][0]["shape"][1:])  # (M, C)
        outputs = [output["name"] for output in config["output"]]
        self._embeds = EMBEDDING in outputs
        self._tells_seconds, self._leaves_out = MEMBER_SECONDS in outputs, MEMBER_STATUS in outputs
        names = ("processor", "runtime", "cascade_runner", "plan_runner")
        processor, runtime, self._cascades, self._runner = (_load_module(folder / f"{name}.py") for name in names)
        for_one = processor.threads(int(threads["string_value"]) if threads else None)
        self._run = self._runner.load(runtime, self._cascades, folder, manifest, for_one)
        if hasattr(self._run, "warm_up"):  # Triton's own warm-up may never meet an image that the first leave open
            shape = (manifest["batch"]["opt"], *manifest["inputs"][0]["shape"][1:])
            self._run.warm_up(np.zeros(shape, np.uint8))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests by one engine call; a bad answer becomes an error, never a result."""
        parts = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        asked = [_Asked(request) for request in requests] if self._leaves_out else []
        try:
            probabilities = self._ask(images, parts, asked) if asked else self._run(images)
        except TimeoutError as error:
            return [_failure(f"{self._name}: {error}") for _ in requests]
        except Exception as error:  # each runtime raises its own types; a client gets a sentence, the log the rest
            pb_utils.Logger.log_error(f"{self._name}: {type(error).__name__}: {error}")
            return [_failure(f"{self._name}: the engine failed") for _ in requests]
        if probabilities.shape != (len(images), *self._output_shape):
            return [_failure(f"{self._name}: the engine's output has shape {probabilities.shape}") for _ in requests]
        seconds = self._member_seconds() if self._tells_seconds else None
        stops = np.cumsum([len(part) for part in parts])[:-1]
        shares = np.split(probabilities, stops)
        if self._embeds:
            embeddings = np.split(self._run.embedding, stops)
            each = zip(requests, shares, embeddings, strict=True)
            return [self._response(share, seconds, _wanted(request, embedding)) for request, share, embedding in each]
        if not asked:
            return [self._response(share, seconds) for share in shares]
        states = np.split(self._runner.status_of(self._run, probabilities), stops)
        return [
            self._partial_response(share, seconds, status, one.quorum)
            for share, status, one in zip(shares, states, asked, strict=True)
        ]

    def _ask(self, images: Any, parts: list[Any], asked: list["_Asked"]) -> Any:
        """Probabilities (N, M, C), NaN where members were left out."""
        efforts = [one.effort for one, part in zip(asked, parts, strict=True) for _ in range(len(part))]
        deadlines = [one.deadline for one in asked if one.deadline is not None]
        # The latest: nobody's answer is cut short by a neighbour in the batch who had less time.
        deadline = max(deadlines) if len(deadlines) == len(asked) else None
        return self._runner.ask(self._run, images, efforts, deadline)

    def _member_seconds(self) -> Any:
        """Durations of the members in the last call: (M,), NaN where its plan does not tell them."""
        seconds = getattr(self._run, "member_seconds", None)
        return np.full(self._output_shape[0], np.nan if seconds is None else seconds, np.float32)

    def _response(self, probabilities: Any, seconds: Any, embedding: Any = None) -> Any:
        """One request's share: probabilities (N, M, C), the members' durations (N, M), an embedding (N, D) if asked."""
        if not np.isfinite(probabilities).all():
            return _failure(f"{self._name}: the engine's output holds NaN or infinity")
        tensors = self._tensors(probabilities, seconds)
        if embedding is not None:
            tensors.append(pb_utils.Tensor(EMBEDDING, np.ascontiguousarray(embedding)))
        return pb_utils.InferenceResponse(tensors)

    def _partial_response(self, probabilities: Any, seconds: Any, status: Any, quorum: int) -> Any:
        """One request's share where members may be left out, if each image has enough of them.

        Those that were not asked are not missed: a cascade's first members are enough.
        """
        used = (status == self._cascades.USED).sum(axis=1)
        missed = (status > self._cascades.NOT_ASKED).any(axis=1)
        if ((missed & (used < quorum)) | (used == 0)).any():
            late = (status == self._cascades.LATE).any()
            what = "members were late" if late else "the engine's output holds NaN, or members failed"
            return _failure(f"{self._name}: {what}: {used.min()} of {status.shape[1]} answered, {quorum} must")
        tensors = self._tensors(probabilities, seconds)
        tensors.append(pb_utils.Tensor(MEMBERS_USED, used.astype(np.int32)[:, None]))
        tensors.append(pb_utils.Tensor(MEMBER_STATUS, np.ascontiguousarray(status)))
        return pb_utils.InferenceResponse(tensors)

    def _tensors(self, probabilities: Any, seconds: Any) -> list[Any]:
        outputs = [pb_utils.Tensor(self._output, np.ascontiguousarray(probabilities))]
        if seconds is not None:
            outputs.append(pb_utils.Tensor(MEMBER_SECONDS, np.tile(seconds, (len(probabilities), 1))))
        return outputs


class _Asked:
    """What a request asks for beside its images."""

    def __init__(self, request: Any) -> None:
        given = json.loads(request.parameters() or "{}")
        self.effort = given.get("effort", "auto")
        deadline_us = given.get("deadline_us")
        # On the clock that waiting goes by, which nobody sets.
        self.deadline = None if deadline_us is None else time.monotonic() + int(deadline_us) / 1e6 - time.time()
        self.quorum = int(given.get("quorum", 1))


def _wanted(request: Any, embedding: Any) -> Any:
    """The embedding (N, D) for a request that asks for it, else None: it is many times as large as the answer."""
    return embedding if EMBEDDING in request.requested_output_names() else None


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))


def _read_checked(folder: Path) -> dict[str, Any]:
    """The manifest, after its own seal and the digest of every file it lists have been checked."""
    path = folder / "manifest.json"
    raw = path.read_bytes()
    match = _SEAL.match(raw)
    if not match or hashlib.sha256(raw.replace(match[1], b"0" * 64, 1)).hexdigest() != match[1].decode():
        raise RuntimeError(f"{path} was changed after it was written: run rrr repository again")
    manifest: dict[str, Any] = json.loads(raw)
    for name, entry in manifest["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise RuntimeError(f"{folder / name} was changed after it was written: run rrr repository again")
    return manifest


def _load_module(path: Path) -> Any:
    """A module by its path: every model has modules of the same names."""
    spec = importlib.util.spec_from_file_location(f"rrr_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} cannot be loaded: run rrr repository again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
