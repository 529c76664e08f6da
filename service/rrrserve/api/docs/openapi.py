"""The OpenAPI document at /docs.json: ours and BentoML's routes, with the models of `rrrserve.api.docs.schemas`."""

import functools
from collections.abc import Sequence
from itertools import product
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rrrbuild.cascade_runner import AUTO, EFFORTS
from rrrnet import __version__
from rrrserve.api.docs.schemas import Answer, BatchAnswer, Embedding, EmbeddingBatch, Error, Models, Samples
from rrrserve.api.endpoint import OPEN_ROUTES
from rrrserve.api.errors import ERRORS
from rrrserve.api.multipart import MAX_TEXT_BYTES
from rrrserve.api.requests import DEFAULT_TOP_K, EFFORT_HEADER
from rrrserve.api.routing import ROUTE_KEY_HEADER
from rrrserve.config.service_config import ServiceConfig

_REFERENCE = "#/components/schemas/{model}"
_OPTIONS: dict[str, dict[str, Any]] = {
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "default": DEFAULT_TOP_K,
        "description": "labels to give; all that the model has, where it has fewer",
    },
    "members": {"type": "boolean", "default": False, "description": "whether to list each member's own label"},
    "timing": {"type": "boolean", "default": True, "description": "whether the answer holds timing_ms"},
    "effort": {
        "type": "string",
        "enum": list(EFFORTS),
        "default": AUTO,
        "description": "members asked: the first of a cascade, the others too where these do not settle it, or all",
    },
    "coverage": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "asks for a set of labels that holds the right one with this probability",
    },
}
_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "X-Request-ID": (
        {"type": "string"},
        "comes back in the answer if it is 1 to 64 letters, digits, dots, underscores or hyphens; else a new one does",
    ),
    "X-Request-Timeout-Ms": (
        {"type": "integer", "minimum": 1},
        "the client's deadline; cut to the server's largest",
    ),
    ROUTE_KEY_HEADER: ({"type": "string"}, "requests of one key get the same model of a route"),
    EFFORT_HEADER: ({"type": "string", "enum": list(EFFORTS)}, "as effort, where neither URL nor body has one"),
}
# Text fields of a form that nothing here knows are ignored, within the bounds of forms.
_OTHER_FIELDS = {
    "additionalProperties": {"type": "string", "maxLength": MAX_TEXT_BYTES // 4},
    "propertyNames": {"minLength": 1, "maxLength": 256},
    "maxProperties": 512,
}
_IGNORED = {
    "X-RRR-Ignored": {
        "schema": {"type": "string"},
        "description": "names of query parameters and of text fields that nothing here knows",
    }
}
METRICS = "/metrics"
TRITON_METRICS = "/metrics/triton"
_KSERVE = (
    "Under /v2 the same models answer by KServe v2, the Open Inference Protocol: GET /v2/models/NAME describes one."
)
SAMPLE = "/v1/samples/{number}"
_PAGES = {
    "/v1/models": ("The models, their labels and their claims", "application/json"),
    "/v1/samples": ("The labelled sample images that came with the repository", "application/json"),
    SAMPLE: ("The image of one of them", "image/*"),
    "/livez": ("200 while the process answers", "application/json"),
    "/readyz": ("200 when every model has answered a real inference within the last second", "application/json"),
    METRICS: ("Prometheus metrics of the service", "text/plain"),
    TRITON_METRICS: ("Prometheus metrics of Triton", "text/plain"),
    "/schema.json": ("What BentoML's clients read", "application/json"),
    "/docs.json": ("This document", "application/json"),
    "/docs": ("This document as a page", "text/html"),
}
# What is asked about images: in words, options, what one and several are answered with.
_ASKING: dict[str, tuple[str, dict[str, dict[str, Any]], type[BaseModel], type[BaseModel]]] = {
    "predict": ("Classify", _OPTIONS, Answer, BatchAnswer),
    "embed": ("Embed", {"timing": _OPTIONS["timing"]}, Embedding, EmbeddingBatch),
}
_SHAPES: dict[str, type[BaseModel]] = {"/v1/models": Models, "/v1/samples": Samples}


def document(
    settings: ServiceConfig,
    models: Sequence[str],
    *,
    needs_token: bool,
    has_triton_metrics: bool,
    samples: int = 0,
    embedding: Sequence[str] = (),
    default: str = "",
) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        settings: hold the limits that it names.
        models: the names of the repository's models, and of routes to them.
        needs_token: whether requests must carry a bearer token.
        has_triton_metrics: whether the address of Triton's metrics is known; else there is no page of them.
        samples: how many the repository has.
        embedding: those of the models that give embeddings.
        default: the model that is asked where a path names none.
    """
    paths: dict[str, Any] = {}
    for base, asking, batch in product(("/v1", "/v1/models/{name}", ""), _ASKING, (False, True)):
        names = models if asking == "predict" else embedding
        named = "{name}" in base
        if asking == "embed" and (not base or not names or not (named or default in names)):
            continue  # BentoML's clients know none, nor do these models
        operation = _operation(settings, asking, batch=batch, names=names if named else ())
        # `curl -T` sends PUT; it means the same.
        paths[f"{base}/{asking}{'_batch' if batch else ''}"] = {"post": operation, "put": operation}
    lacking = {TRITON_METRICS: not has_triton_metrics, SAMPLE: not samples}
    pages = {path: page for path, page in _PAGES.items() if not lacking.get(path)}
    for path, (summary, content_type) in pages.items():
        schema = {"type": "object" if "json" in content_type else "string"}
        content = {content_type: {"schema": _reference(_SHAPES[path]) if path in _SHAPES else schema}}
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}}
        if path in OPEN_ROUTES:
            paths[path]["get"]["security"] = []
        if path == SAMPLE:
            number = {"type": "integer", "minimum": 0, "maximum": samples - 1}
            paths[path]["get"]["parameters"] = [_parameter("number", "path", number, "of a sample")]
    return {
        "openapi": "3.1.0",
        "info": {"title": "RRR-Net image classification", "version": __version__, "description": _KSERVE},
        **({"servers": [{"url": settings.root_path}]} if settings.root_path else {}),
        "paths": paths,
        "security": [{"token": []}] if needs_token else [],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


@functools.cache  # it takes 40 ms
def _schemas() -> Any:
    answers = [shape for _, _, *shapes in _ASKING.values() for shape in shapes]
    models: list[type[BaseModel]] = [*answers, Error, *_SHAPES.values()]
    return models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)[1]["$defs"]


def _reference(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _parameter(name: str, place: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}


def _operation(settings: ServiceConfig, asking: str, *, batch: bool, names: Sequence[str]) -> dict[str, Any]:
    """Several images or one; of a model that the path names, or not."""
    verb, options, *shapes = _ASKING[asking]
    field, most = ("images", settings.max_batch_images) if batch else ("image", 1)
    raw = {"type": "string", "contentMediaType": "application/octet-stream"}

    def body(image: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
        images = {"type": "array", "items": image, "minItems": 1, "maxItems": most} if batch else image
        properties = {field: images, **options}
        return {"schema": {"type": "object", "properties": properties, "required": [field], **others}}

    content = {
        "multipart/form-data": body({"type": "string", "format": "binary"}, _OTHER_FIELDS),
        "application/json": body({"type": "string", "contentEncoding": "base64"}, {"additionalProperties": False}),
    }
    if not batch:
        content |= {kind: {"schema": raw} for kind in ("image/*", "application/octet-stream")}
    parameters = [_parameter("name", "path", {"type": "string", "enum": list(names)}, "of a model")] if names else []
    parameters += [_parameter(name, "query", schema, schema["description"]) for name, schema in options.items()]
    parameters += [_parameter(name, "header", schema, text) for name, (schema, text) in _HEADERS.items()]
    statuses: dict[int, list[str]] = {}
    for code, kind in ERRORS.items():
        statuses.setdefault(kind.status, []).append(f"{code}: {kind.meaning}")
    error = {"application/json": {"schema": _reference(Error)}}
    answer = {"application/json": {"schema": _reference(shapes[batch])}}
    return {
        "summary": f"{verb} {f'up to {most} images' if batch else 'one image'}",
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "the answer", "headers": _IGNORED, "content": answer}}
        | {str(status): {"description": "; ".join(texts), "content": error} for status, texts in statuses.items()},
    }
