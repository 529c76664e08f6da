"""The protocol's protobuf messages, read and written."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from rrrbuild.repository_document import ServedModel
from rrrserve.api.errors import APIError
from rrrserve.api.v2.inference import Answer
from rrrserve.api.v2.json_body import to_bytes
from rrrserve.api.v2.question import Output, Question, question
from rrrserve.api.v2.tensors import Tensor, inputs_of, outputs_of

# protobuf makes a hundred bytes of an empty tensor, which takes two on the wire; images belong into raw_input_contents.
_MOST_FIELDS, _MOST_BYTES_BESIDE_RAW = 4096, 2**20
_LENGTH_FOLLOWS = 2  # a wire type; all fields of a request have it
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


def parsed(kind: type[Message], raw: bytes) -> Any:
    """A message.

    Raises:
        APIError: the bytes are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise APIError("bad_request", f"the message is no {kind.DESCRIPTOR.name}") from error


def check_size(raw: bytes) -> None:
    """See, before it is parsed, that a serialized `ModelInferRequest` takes little more memory than its bytes.

    Raises:
        APIError: it has too many fields, too much beside its raw contents, or is none.
    """
    place = fields = beside = 0
    try:
        while place < len(raw):
            tag, start = _varint(raw, place)
            size, start = _varint(raw, start)
            place = start + size
            fields += 1
            beside += size if tag >> 3 != pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER else 0
            if tag & 7 != _LENGTH_FOLLOWS or fields > _MOST_FIELDS or beside > _MOST_BYTES_BESIDE_RAW:
                place = -1
                break
    except IndexError:
        place = len(raw) + 1
    if place != len(raw):
        what = (
            f"no ModelInferRequest, or has more than {_MOST_FIELDS} fields, or more than {_MOST_BYTES_BESIDE_RAW} bytes"
        )
        raise APIError("bad_request", f"the message is {what} beside raw_input_contents: send tensors in those")


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """Protobuf's variable-length integer at a place, and the place behind it."""
    value = shift = 0
    while (byte := raw[place]) > 0x7F and shift < 63:
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | byte << shift, place + 1


def read(request: pb.ModelInferRequest, model: ServedModel, *, most: int) -> Question:
    """What a message asks of a model.

    Args:
        request: the message.
        model: which model.
        most: images allowed.

    Raises:
        APIError: something is wrong with it.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        what = f"raw_input_contents has {len(raw)} items for {len(request.inputs)} inputs"
        raise APIError("bad_request", f"{what}: it must have one for each, or none")
    tensors = []
    for place, item in enumerate(request.inputs):
        tensor = Tensor(item.name, item.datatype, tuple(item.shape))
        if raw:
            tensors.append(tensor._replace(raw=raw[place]))
        else:
            contents = getattr(item.contents, _CONTENTS.get(item.datatype, "uint_contents"))
            tensors.append(tensor._replace(values=list(contents)))
    return question(
        model,
        tensors,
        _values(request.parameters),
        [Output(item.name, _values(item.parameters)) for item in request.outputs],
        identifier=request.id,
        headers={},
        most=most,
    )


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, field) for name, value, field in chosen if field is not None}


def write(answer: Answer) -> bytes:
    """An answer; its tensors as raw contents, as Triton gives them."""
    response = pb.ModelInferResponse(
        model_name=answer.model.name,
        model_version=answer.model.version,
        id=answer.question.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=wanted.name, datatype=datatype, shape=array.shape)
            for wanted, datatype, array in answer.results
        ],
        raw_output_contents=[to_bytes(array) for _, _, array in answer.results],
    )
    response.parameters["effort"].string_param = answer.effort
    response.parameters["partial"].bool_param = answer.partial
    return bytes(response.SerializeToString())


def metadata(model: ServedModel) -> bytes:
    """What a model takes and gives."""
    kind = pb.ModelMetadataResponse.TensorMetadata
    return bytes(
        pb.ModelMetadataResponse(
            name=model.name,
            versions=[model.version],
            platform=f"rrr_{model.target}",
            inputs=[kind(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs_of(model)],
            outputs=[kind(name=name, datatype=datatype, shape=shape) for name, datatype, shape in outputs_of(model)],
        ).SerializeToString()
    )
