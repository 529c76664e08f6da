# Three images: `cpu` (what is built when nothing else is asked for) serves, `gpu` serves TensorRT engines, `train` makes
# engines. docs/containers.md tells how to build and run them, docs/internals/containers.md why they are as they are.
# BASE_IMAGE: Debian or Ubuntu with Python 3.11, pip, venv and libpython3.11, which Triton's Python backend loads.
# TRITON_IMAGE: NVIDIA's, of the release that has the very TensorRT version that built the engines.
# Best with their digests: NAME@sha256:DIGEST.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3

# Here and below: each file must have the digest that is in the lock, wherever it comes from, and none is built from sources.
# The environments have no pip: that of the base installs into them.
FROM ${BASE_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/build.lock ./
RUN python3 -m venv --without-pip /opt/build \
 && pip --python /opt/build/bin/python install --require-hashes --no-deps --only-binary :all: --requirement build.lock
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY build build
COPY service service
RUN pip --python /opt/build/bin/python wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist .

FROM ${BASE_IMAGE} AS cpu-builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/rrr/lib/python3.11/site-packages
# The dependencies before our wheel: a change of the sources then leaves this layer, by far the largest, as it is.
COPY requirements/serving.lock /src/
RUN python3 -m venv --without-pip /opt/rrr \
 && pip --python /opt/rrr/bin/python install --require-hashes --no-deps --only-binary :all: --requirement /src/serving.lock
# What serving cannot need: OpenVINO's plugins for other devices and its readers of other formats than its own ([!i]: ir
# stays), what Triton has for other Pythons, tests. `rm` without -f ends the build when a pattern fits nothing any more.
RUN rm -r openvino/libs/libopenvino_intel_[gn]pu_plugin.so openvino/libs/cache.json \
        openvino/libs/libopenvino_[!i]*_frontend.so.* openvino/include \
        nvidia_pytriton.libs/libpython3-*.13.so.1.0 \
        pytriton/tritonserver/python_backend_stubs/3.8 pytriton/tritonserver/python_backend_stubs/3.9 \
        pytriton/tritonserver/python_backend_stubs/3.1[!1] \
 && find . -type d -name tests -prune -exec rm -r {} +
COPY --from=wheel /dist /dist
RUN pip --python /opt/rrr/bin/python install --no-index --no-deps /dist/*.whl \
 && pip --python /opt/rrr/bin/python check

FROM ${BASE_IMAGE} AS cpu
COPY --from=cpu-builder /opt/rrr /opt/rrr
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
# /readyz is a real inference of every model.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "from urllib import request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:3000/readyz', timeout=9)"]
# --single-child: `rrr serve` alone gets the signals, and ends its children in order.
ENTRYPOINT ["dumb-init", "--single-child", "--", "rrr", "serve", "/models", "--host", "0.0.0.0"]
ARG BASE_IMAGE
ARG VERSION=
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="rrrnet-serving" \
      org.opencontainers.image.description="RRR-Net ensembles behind Triton on CPUs: HTTP, KServe, Prometheus metrics" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name=${BASE_IMAGE}

# The repository inside the image, instead of mounted at /models.
FROM cpu AS with-models
COPY artifacts/repository /models

FROM ${BASE_IMAGE} AS train-builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Where torch's build for CPUs lies, which the usual index does not have (docs/containers.md).
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY requirements/training.lock ./
RUN python3 -m venv --without-pip /opt/rrr \
 && pip --python /opt/rrr/bin/python install --require-hashes --no-deps --only-binary :all: --requirement training.lock
COPY --from=wheel /dist /dist
RUN pip --python /opt/rrr/bin/python install --no-index --no-deps /dist/*.whl \
 && pip --python /opt/rrr/bin/python check

FROM ${BASE_IMAGE} AS train
COPY --from=train-builder /opt/rrr /opt/rrr
ENV PATH=/opt/rrr/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["dumb-init", "--single-child", "--", "rrr"]
ARG BASE_IMAGE
ARG VERSION=
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="rrrnet-serving-train" \
      org.opencontainers.image.description="Trains RRR-Net ensembles on CPUs and builds verified engines of them" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name=${BASE_IMAGE}

# NVIDIA's image has the Triton and its own Python, for which front.lock is: no engine runs in that Python.
FROM ${TRITON_IMAGE} AS gpu-builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements/front.lock ./
RUN python3 -m venv --without-pip /opt/rrr \
 && pip --python /opt/rrr/bin/python install --require-hashes --no-deps --only-binary :all: --requirement front.lock
COPY --from=wheel /dist /dist
RUN pip --python /opt/rrr/bin/python install --no-index --no-deps /dist/*.whl \
 && pip --python /opt/rrr/bin/python check

FROM ${TRITON_IMAGE} AS gpu
COPY --from=gpu-builder /opt/rrr /opt/rrr
ENV PATH=/opt/rrr/bin:$PATH \
    HOME=/tmp \
    BENTOML_HOME=/tmp/bentoml \
    BENTOML_DO_NOT_TRACK=True \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN python -c "from rrrserve.triton.install import find_tritonserver; assert 'tensorrt' in find_tritonserver().backends"
USER 10001:10001
EXPOSE 3000
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s \
    CMD ["python", "-c", "from urllib import request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:3000/readyz', timeout=9)"]
# Not NVIDIA's entry point, which tells about the image and checks the driver: `rrr serve` says what it needs.
ENTRYPOINT ["dumb-init", "--single-child", "--", "rrr", "serve", "/models", "--host", "0.0.0.0"]
ARG TRITON_IMAGE
ARG VERSION=
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="rrrnet-serving-gpu" \
      org.opencontainers.image.description="RRR-Net ensembles as TensorRT engines in NVIDIA's Triton: HTTP, KServe, Prometheus metrics" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${REVISION} \
      org.opencontainers.image.created=${CREATED} \
      org.opencontainers.image.source=${SOURCE} \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name=${TRITON_IMAGE}

# The last stage is what `docker build` makes when it is not told otherwise.
FROM cpu AS serving
