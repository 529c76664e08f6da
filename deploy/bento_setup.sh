#!/bin/sh
# Run while `bentoml containerize` builds an image: BentoML makes these folders when it starts, which a read-only root forbids.
cd "$BENTOML_HOME" && mkdir -p bentos models envs tmp
