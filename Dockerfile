# One image for the node agent, the operator and the command line; which of them runs is the pod's command.
# BASE needs python3 of 3.11 or newer with its venv module: a Python image, or Debian with python3-venv.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# pip and the build backend stay behind in /opt/build. The environment that is shipped has neither. Its python3
# is a link to the base image's own, wherever that is; this is why both stages have the same base.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/sockethealth \
 && /opt/build/bin/pip --python /opt/sockethealth/bin/python3 install --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY nodeagent nodeagent
COPY operator operator
COPY cli cli
# Compiled here, once: the root filesystem of the pods is read-only.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/sockethealth/bin/python3 install --no-deps --no-index /wheels/*.whl

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sockethealth" \
      org.opencontainers.image.description="Which pod is running out of TCP sockets, why, when it will break, and what to do" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/sockethealth /opt/sockethealth
ENV PATH=/opt/sockethealth/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The node agent alone needs root, with two capabilities; the chart asks for it.
USER 65532:65532
CMD ["sockethealth", "--help"]
