"""What a request asks for, checked: the same from JSON and from protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rrrbuild.manifest import EMBEDDING
from rrrbuild.repository_document import ServedModel
from rrrserve.api.errors import APIError
from rrrserve.api.near_misses import shown
from rrrserve.api.requests import Headers, Options, options_of
from rrrserve.api.v2.tensors import IN_SET, MEAN, Images, Tensor, has_sets, images_of, outputs_of

PARAMETERS = ("effort", "coverage")
_CLASSIFICATION = "classification"


class Wanted(NamedTuple):
    """One output that is asked for.

    Attributes:
        name: of the output.
        classes: how many labels, best first, in place of numbers; 0 for the numbers.
        binary: whether it follows the JSON as bytes.
    """

    name: str
    classes: int = 0
    binary: bool = False


class Output(NamedTuple):
    """An output as a client names it, unchecked."""

    name: str
    parameters: Mapping[str, Any]
    binary: bool = False


@dataclass(frozen=True)
class Question:
    """A request, checked.

    Attributes:
        id: the client's own name for it, or empty; comes back in the answer.
        images: what is asked about.
        options: how.
        wanted: the outputs.
    """

    id: str
    images: Images
    options: Options
    wanted: Sequence[Wanted]

    @property
    def embed(self) -> bool:
        """Whether an embedding is asked for."""
        return any(wanted.name == EMBEDDING for wanted in self.wanted)


def question(
    model: ServedModel,
    tensors: Sequence[Tensor],
    parameters: Mapping[str, Any],
    outputs: Sequence[Output],
    *,
    identifier: str,
    headers: Headers,
    most: int,
    binary: bool = False,
    ignored: Sequence[str] = (),
) -> Question:
    """Check what a client sent.

    Args:
        model: which model is asked.
        tensors: its inputs.
        parameters: of the request.
        outputs: that it asks for; none: all that there are but the embedding.
        identifier: its `id`.
        headers: of HTTP.
        most: images allowed.
        binary: whether outputs that are not named come as bytes.
        ignored: names of what else was sent.

    Raises:
        APIError: something is wrong; see `images_of`.
    """
    given = [(name, _text(name, parameters[name])) for name in PARAMETERS if parameters.get(name) is not None]
    options = options_of(given, headers, num_classes=len(model.labels))
    if options.coverage is not None and not has_sets(model):
        raise APIError("bad_request", f"{model.name} has no sets: it was built without images to calibrate on")
    names = [name for name, *_ in outputs_of(model) if name != IN_SET or options.coverage is not None]
    if not outputs:
        # Many times as large as all others together, so only for who names it.
        wanted = [Wanted(name, binary=binary) for name in names if name != EMBEDDING]
    else:
        wanted = [_wanted(output, names, model) for output in outputs]
        if len({output.name for output in wanted}) != len(wanted):
            raise APIError("bad_request", "an output is asked for twice")
    read = {*PARAMETERS, "binary_data_output"}
    unread = [name for name in parameters if name not in read]
    unread += [name for output in outputs for name in output.parameters if name not in (_CLASSIFICATION, "binary_data")]
    options = Options(1, members=False, effort=options.effort, coverage=options.coverage, ignored=(*ignored, *unread))
    return Question(identifier, images_of(tensors, model, most), options, wanted)


def _text(name: str, value: Any) -> str:
    """A parameter as a URL would have it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise APIError("bad_request", f"the parameter {name} must be a string or a number: it is {shown(str(value))}")
    return str(value)


def _wanted(output: Output, names: Sequence[str], model: ServedModel) -> Wanted:
    if output.name not in names:
        if output.name == IN_SET and has_sets(model):
            raise APIError("bad_request", f"the output {IN_SET} needs the parameter coverage, such as 0.95")
        message = f"there is no output {shown(output.name)}: {model.name} gives {', '.join(names)}"
        raise APIError("bad_request", message)
    classes = output.parameters.get(_CLASSIFICATION)
    if classes is None:
        return Wanted(output.name, binary=output.binary)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        message = f"{_CLASSIFICATION} must be a whole number of labels from 1: it is {shown(str(classes))}"
        raise APIError("bad_request", message)
    if output.name != MEAN:
        raise APIError("bad_request", f"{_CLASSIFICATION} is for {MEAN}: {output.name} has no labels of its own")
    return Wanted(output.name, min(classes, len(model.labels)), output.binary)
