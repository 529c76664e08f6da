"""The OpenAPI 3 document at /docs.json, made from tables: BentoML cannot describe routes with parameters."""

from typing import Any

from rrrnet import __version__
from rrrserve.api.access import OPEN_ROUTES
from rrrserve.api.errors import ERRORS
from rrrserve.api.requests import DEFAULT_TOP_K
from rrrserve.config.service_config import ServiceConfig

_PROBABILITY = {
    "type": "object",
    "required": ["label", "probability"],
    "properties": {"label": {"type": "string"}, "probability": {"type": "number", "minimum": 0, "maximum": 1}},
}
_ANSWER: dict[str, Any] = {
    "predictions": {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Probability"},
        "description": "the ensemble's most probable labels, best first",
    },
    "uncertainty": {
        "type": "object",
        "properties": {
            "entropy": {"type": "number", "description": "of the members' mean, in nats"},
            "mutual_information": {"type": "number", "description": "between label and member, in nats"},
            "agreement": {"type": "number", "description": "share of members whose label is the ensemble's"},
        },
    },
    "members": {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Probability"},
        "description": "each member's own label; only with ?members=true",
    },
}
_ANSWERED = ["predictions", "uncertainty"]
_ENVELOPE: dict[str, Any] = {
    "request_id": {"type": "string"},
    "model": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "target": {"type": "string"},
            "members": {"type": "integer"},
            "repository": {"type": "string", "description": "which version of the repository answered"},
        },
    },
    "timing_ms": {"type": "object", "additionalProperties": {"type": "number"}},
}
_CLAIM = {
    "type": "object",
    "description": "a sentence about the model that rrr verify judged, as stamped on the model",
    "properties": {
        "name": {"type": "string"},
        "sentence": {"type": "string"},
        "verdict": {"type": "string", "enum": ["pass", "fail", "undecided", "unreadable"]},
        "estimate": {"type": "number", "nullable": True},
        "interval": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2, "nullable": True},
        "unit": {"type": "string"},
        "verified_at": {"type": "string", "format": "date-time", "nullable": True},
        "stale": {"type": "boolean", "description": "whether hardware, versions or files differ since"},
        "stale_reasons": {"type": "array", "items": {"type": "string"}},
    },
}
_MODEL_TEXTS = ("name", "version", "target", "backend")
_MODEL_NUMBERS = ("members", "num_classes", "image_size", "max_batch_size", "parameters", "macs")
_MODELS = {
    "type": "object",
    "properties": {
        "default": {"type": "string", "description": "the model that /v1/predict asks"},
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    **{key: {"type": "string"} for key in _MODEL_TEXTS},
                    **{key: {"type": "integer"} for key in _MODEL_NUMBERS},
                    "labels": {"type": "array", "items": {"type": "string"}},
                    "claims": {"type": "array", "items": {"$ref": "#/components/schemas/Claim"}},
                },
            },
        },
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "enum": list(ERRORS)},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
            },
        }
    },
}
_HEADERS = [
    {
        "name": "X-Request-ID",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "description": "comes back in the answer",
    },
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1},
        "description": "the client's deadline; cut to the server's largest",
    },
]
_QUERY = [
    {
        "name": "top_k",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
        "description": "labels to give, at most the model's num_classes",
    },
    {"name": "members", "in": "query", "schema": {"type": "boolean", "default": False}},
]
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_PAGES = {
    "/v1/models": ("The models, their labels and their claims", "application/json"),
    "/livez": ("200 while the process answers", "application/json"),
    "/readyz": ("200 when every model has answered a real inference within the last second", "application/json"),
    "/metrics": ("Prometheus metrics of the service", "text/plain"),
    "/metrics/triton": ("Prometheus metrics of Triton", "text/plain"),
    "/docs.json": ("This document", "application/json"),
}


def document(settings: ServiceConfig, *, needs_token: bool) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
        settings: hold the limits that it names.
        needs_token: whether requests must carry a bearer token.
    """
    paths: dict[str, Any] = {}
    for base, named in (("/v1", False), ("/v1/models/{name}", True)):
        for batch in (False, True):
            operation = _operation(settings, batch=batch, named=named)
            # `curl -T` sends PUT; it means the same.
            paths[f"{base}/predict{'_batch' if batch else ''}"] = {"post": operation, "put": operation}
    for path, (summary, content_type) in _PAGES.items():
        schema: dict[str, Any] = {"type": "object" if "json" in content_type else "string"}
        if path == "/v1/models":
            schema = {"$ref": "#/components/schemas/Models"}
        content = {content_type: {"schema": schema}}
        paths[path] = {"get": {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}}
        if path in OPEN_ROUTES:
            paths[path]["get"]["security"] = []
    return {
        "openapi": "3.0.3",
        "info": {"title": "RRR-Net image classification", "version": __version__},
        "paths": paths,
        "security": [{"token": []}] if needs_token else [],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Probability": _PROBABILITY,
                "Answer": {
                    "type": "object",
                    "required": ["request_id", "model", "timing_ms", *_ANSWERED],
                    "properties": {**_ENVELOPE, **_ANSWER},
                },
                "BatchAnswer": {
                    "type": "object",
                    "required": ["request_id", "model", "timing_ms", "results"],
                    "properties": {
                        **_ENVELOPE,
                        "results": {
                            "type": "array",
                            "description": "an answer or an error for each image, in the order of the request",
                            "items": {
                                "oneOf": [
                                    {"type": "object", "required": _ANSWERED, "properties": _ANSWER},
                                    {"$ref": "#/components/schemas/Error"},
                                ]
                            },
                        },
                    },
                },
                "Claim": _CLAIM,
                "Models": _MODELS,
                "Error": _ERROR,
            },
        },
    }


def _operation(settings: ServiceConfig, *, batch: bool, named: bool) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    base64 = {"type": "string", "format": "byte"}
    form: dict[str, Any]
    body: dict[str, Any]
    if batch:
        form = {"images": {"type": "array", "items": binary, "maxItems": settings.max_batch_images}}
        body = {"images": {"type": "array", "items": base64, "maxItems": settings.max_batch_images}}
    else:
        form, body = {"image": binary}, {"image": base64}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": list(form)}},
        "application/json": {"schema": {"type": "object", "properties": body, "required": list(body)}},
    }
    if not batch:
        content |= {kind: {"schema": binary} for kind in ("image/*", "application/octet-stream")}
    statuses: dict[int, list[str]] = {}
    for code, kind in ERRORS.items():
        statuses.setdefault(kind.status, []).append(f"{code}: {kind.meaning}")
    answer = "BatchAnswer" if batch else "Answer"
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": f"Classify {'up to ' + str(settings.max_batch_images) + ' images' if batch else 'one image'}",
        "parameters": [*([_NAME] if named else []), *_QUERY, *_HEADERS],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "the answer",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}},
            },
            **{str(status): {"description": "; ".join(texts), "content": error} for status, texts in statuses.items()},
        },
    }
