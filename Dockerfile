# One image for the node agent, the operator and the command line; which of them runs is the pod's command.
# BASE needs python3 of 3.11 or newer with its venv module: a Python image, or Debian with python3-venv.
# Every dependency is a wheel for linux/amd64 and linux/arm64 (`make wheels`), and nothing here names an architecture.
# Two builds of one commit on one base give the same layers when its times are set (`make reproducible`):
#   buildah build --timestamp SECONDS, or docker buildx build --output type=...,rewrite-timestamp=true with
#   SOURCE_DATE_EPOCH set.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS dependencies
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# pip and the build backend stay behind in /opt/build. The environment that is shipped has neither. Its python3
# is a link to the base image's own, wherever that is; this is why both stages have the same base.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes -r requirements/build.txt \
 && python3 -m venv --without-pip /opt/sockethealth \
 && /opt/build/bin/pip --python /opt/sockethealth/bin/python3 install --no-compile --only-binary :all: \
    --require-hashes -r requirements/runtime.txt
# Compiled here, once: the root filesystem of the pods is read-only. Unchecked: no file has the time of its source in it,
# so that two builds are the same. The Kubernetes client's generated classes, a third of all bytecode, are left as
# source: the operator loads two of them.
ENV PYTHONHASHSEED=0
RUN ["/opt/sockethealth/bin/python3", "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash", \
     "-x", "/kubernetes/(aio/)?client/(api|models)/", "/opt/sockethealth/lib"]

FROM dependencies AS build
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY nodeagent nodeagent
COPY operator operator
COPY cli cli
# Into a root of its own, so that what is ours is a layer of half a megabyte: who has the one of the dependencies, a
# node that is given another version of the code, gets no more than that.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/sockethealth/bin/python3 install --no-compile --no-deps --no-index --root /own \
    /wheels/*.whl \
 && /opt/sockethealth/bin/python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash -s /own -p / \
    /own/opt/sockethealth/lib/python3*/site-packages/sockethealth_*

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="sockethealth" \
      org.opencontainers.image.description="Which pod is running out of TCP sockets, why, when it will break, and what to do" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=dependencies /opt/sockethealth /opt/sockethealth
COPY --from=build /own/opt/sockethealth /opt/sockethealth
# HOME: the Kubernetes client asks for it as it is loaded, the user has no entry in /etc/passwd, and not every runtime
# sets it.
ENV PATH=/opt/sockethealth/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/ \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The node agent alone needs root, with two capabilities; the chart asks for it.
USER 65532:65532
CMD ["sockethealth", "--help"]
