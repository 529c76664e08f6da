"""FastAPI and uvicorn in front of ONNX Runtime: what one writes by hand.

    ONNX_ENGINE=FOLDER uvicorn fastapi_onnxruntime:app

The body is the image. Decoding and inference run in a thread, so that the event loop stays free; one at a
time, since an inference takes all cores.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request

from rrrbench.onnx_classifier import OnnxClassifier

app = FastAPI()
classifier = OnnxClassifier(Path(os.environ["ONNX_ENGINE"]))
executor = ThreadPoolExecutor(1)


@app.get("/health")
def health() -> dict[str, bool]:
    """The model is loaded before the server listens."""
    return {"ready": True}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The five likeliest labels."""
    return await asyncio.get_running_loop().run_in_executor(executor, _predict, await request.body())


def _predict(data: bytes) -> dict[str, Any]:
    (probabilities,) = classifier.infer([classifier.decode(data)])
    return classifier.answer(probabilities)
