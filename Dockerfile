# The service, without torch and what else only training and building need. docs/containers.md tells how to build, run and fill it.
# BASE_IMAGE: Debian or Ubuntu with Python 3.11, pip, venv and libpython3.11, which Triton's Python backend loads.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The dependencies before the sources: a change of the sources then leaves this layer, by far the largest, as it is.
# Each file must have the digest that is in the lock, wherever it comes from, and none is built from sources.
COPY requirements/build.lock requirements/serving.lock ./
RUN python3 -m venv /opt/build && python3 -m venv /opt/rrr \
 && /opt/build/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement build.lock \
 && /opt/rrr/bin/pip install --require-hashes --no-deps --only-binary :all: --requirement serving.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY build build
COPY service service
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/rrr/bin/pip install --no-index --no-deps /dist/*.whl \
 && /opt/rrr/bin/pip check

FROM ${BASE_IMAGE} AS runtime
COPY --from=builder /opt/rrr /opt/rrr
# Only /tmp and /dev/shm are ever written, so the root file system may be mounted read-only.
ENV PATH=/opt/rrr/bin:$PATH \
    HOME=/tmp \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python -c "from rrrserve.triton.install import check_libpython, find_tritonserver; check_libpython(find_tritonserver())"
USER 10001:10001
EXPOSE 3000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/livez', timeout=4)"]
ENTRYPOINT ["rrr", "serve", "/models", "--host", "0.0.0.0"]

# docker build --target with-models: the repository inside the image, instead of mounted at /models.
FROM runtime AS with-models
COPY artifacts/repository /models

# The last stage is what `docker build` makes when it is not told otherwise.
FROM runtime AS serving
