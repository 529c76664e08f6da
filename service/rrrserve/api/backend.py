"""What the routes answer from, once the service has started."""

from dataclasses import dataclass
from functools import cached_property

import httpx

from rrrbuild.repository_document import Repository
from rrrserve.api.admission import Admission
from rrrserve.api.bodies import BodyMemory
from rrrserve.api.data_plane import DataPlane
from rrrserve.api.model_list import ModelList
from rrrserve.api.readiness import Readiness
from rrrserve.config.service_config import ServiceConfig


@dataclass(frozen=True)
class Backend:
    """One version of the repository, and all that its requests share."""

    settings: ServiceConfig
    repository: Repository
    data_plane: DataPlane
    readiness: Readiness
    triton_metrics_url: str | None
    http: httpx.AsyncClient
    admission: Admission
    body_memory: BodyMemory

    @cached_property
    def model_list(self) -> ModelList:
        """What GET /v1/models answers."""
        return ModelList(self.repository, self.data_plane.default.name)
