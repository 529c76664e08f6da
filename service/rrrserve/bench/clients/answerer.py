"""A server that answers at once without looking, to measure how much the client can do.

Run as a program:

    python -m rrrserve.bench.clients.answerer http|grpc

It prints its port, and ends with its parent. Its answers are about as long as a prediction's.
"""

import asyncio
import sys
from typing import cast

import uvloop

_BODY = b"x" * 1000
_HTTP_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
_LENGTH = b"content-length:"


class _Answers(asyncio.Protocol):
    """Answers whenever a request's last byte has come; the requests come one at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._head = b""
        self._missing_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if not self._missing_bytes:
            self._head += data
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(_LENGTH))
            self._missing_bytes, data = int(length[len(_LENGTH) :]), rest
        self._missing_bytes -= len(data)
        if not self._missing_bytes:
            self._head = b""
            self._transport.write(_HTTP_ANSWER)


async def _serve_http() -> None:
    server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", 0)
    _tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _serve_grpc() -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    answer = pb.ModelInferResponse(raw_output_contents=[_BODY]).SerializeToString()

    async def infer(request: bytes, context: object) -> bytes:  # noqa: ARG001  gRPC's signature
        return bytes(answer)

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _tell(port)
    await server.wait_for_termination()


def _tell(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run({"http": _serve_http, "grpc": _serve_grpc}[sys.argv[1]]())
