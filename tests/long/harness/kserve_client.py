"""Ask a service with KServe's own clients, in an environment that has them: their answers about an image as JSON.

python kserve_client.py URL HOST:PORT MODEL PIXELS.npy
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, address: str, model: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Health, then `pixels`, shape (N, S, S, 3), over REST in both forms and over gRPC."""
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(address)
    assert await rest.is_server_live(url)
    assert await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, model)
    assert await grpc.is_server_live()
    assert await grpc.is_server_ready()
    assert await grpc.is_model_ready(model)

    def request(*, binary: bool) -> InferRequest:
        images = InferInput("images", list(pixels.shape), "UINT8")
        images.set_data_from_numpy(pixels, binary_data=binary)
        return InferRequest(model, [images])

    answers = {
        "binary": await rest.infer(url, request(binary=True), model_name=model),
        "json": await rest.infer(url, request(binary=False), model_name=model),
        "grpc": await grpc.infer(request(binary=True)),
    }
    found = {name: {item.name: item.as_numpy().tolist() for item in each.outputs} for name, each in answers.items()}
    print(json.dumps(found))
    await rest.close()
    await grpc.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], np.load(sys.argv[4])))
