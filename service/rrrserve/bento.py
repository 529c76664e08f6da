"""The service for BentoML's commands: `bentoml serve rrrserve.bento:RRRService`, and the entry of a built Bento.

bentofile.yaml names this file by its path, so that `bentoml build` needs no wheel and a Bento serves the code and the
repository it was built with, wherever it lies: the sources that are packed in it come before any installed copy.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT / folder) for folder in ("models", "build", "service")]

from rrrserve.api.routes import Routes  # noqa: E402  the path must be set first
from rrrserve.config.service_config import ServiceConfig  # noqa: E402
from rrrserve.process.environment import variables  # noqa: E402
from rrrserve.worker.service import make_service  # noqa: E402

RRRService = make_service(ServiceConfig.from_environment(variables()), Routes())

__all__ = ["RRRService"]
