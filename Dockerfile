# The service, without torch and what else only training and building need. docs/containers.md tells how to build, run and fill it.
# BASE_IMAGE: Debian or Ubuntu with Python 3.11, pip, venv and libpython3.11, which Triton's Python backend loads.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/rrr
# The dependencies before the sources, with empty packages in their place: a change of the sources then leaves this
# layer, by far the largest, as it is.
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE && mkdir -p models/rrrnet build/rrrbuild service/rrrserve \
 && /opt/rrr/bin/pip install --constraint constraints.txt '.[openvino,onnxruntime,triton]'
COPY README.md LICENSE ./
COPY models models
COPY build build
COPY service service
RUN /opt/rrr/bin/pip wheel --no-deps --wheel-dir /dist . \
 && /opt/rrr/bin/pip install --no-deps --force-reinstall /dist/*.whl

FROM ${BASE_IMAGE} AS runtime
COPY --from=builder /opt/rrr /opt/rrr
# Only /tmp and /dev/shm are ever written, so the root file system may be mounted read-only.
ENV PATH=/opt/rrr/bin:$PATH \
    HOME=/tmp \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python -c "from rrrserve.triton_install import check_libpython, find_tritonserver; check_libpython(find_tritonserver())"
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
