"""FastAPI and uvicorn in front of a classifier in the same process: what one writes by hand.

    PEER_CLASSIFIER=OnnxClassifier PEER_ENGINE=FOLDER uvicorn fastapi_peer:app

The body is the image. Work is done in threads, so that the event loop stays free: inferences one at a time, since each
takes all cores, and meanwhile the next image is decoded.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request

from rrrbench.classifiers import classifier_of

app = FastAPI()
classifier = classifier_of(os.environ)
executor = ThreadPoolExecutor(2)
inferring = Lock()


@app.get("/health")
def health() -> dict[str, bool]:
    """The model is loaded before the server listens."""
    return {"ready": True}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The five likeliest labels."""
    return await asyncio.get_running_loop().run_in_executor(executor, _predict, await request.body())


def _predict(data: bytes) -> dict[str, Any]:
    pixels = classifier.decode(data)
    with inferring:
        (probabilities,) = classifier.infer([pixels])
    return classifier.answer(probabilities)
