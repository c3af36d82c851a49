# The agent as an image. Compilers and pip stay in the first stage; what ships is the base, its Python,
# libbpf and /opt/masdeepflow. Works with BuildKit, with Docker's classic builder and with Podman.
#
#   ./run-in-docker.sh          builds it and starts it; see docs/deployment.md
#
# BASE_IMAGE: Debian 12 or newer, or an image made from it, such as python:3.12-slim-bookworm.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${BASE_IMAGE} AS builder
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What a company's network asks for (apt's and pip's settings, a certificate): see the README there.
COPY deploy/builder-root/ /
COPY deploy/image/ deploy/image/
RUN deploy/image/packages.sh
COPY bpf/ bpf/
RUN make --silent --directory bpf -j2
COPY requirements/image.lock requirements/
RUN python3 -m venv /opt/masdeepflow \
    && /opt/masdeepflow/bin/pip install --quiet --require-hashes --no-build-isolation --requirement requirements/image.lock
COPY pyproject.toml LICENSE ./
COPY src/ src/
ARG COMMIT=unknown
RUN deploy/image/install.sh "$COMMIT"

FROM ${BASE_IMAGE} AS runtime
COPY --from=builder /packages /packages
COPY deploy/image/ /packages/image/
RUN /packages/image/runtime.sh
COPY --from=builder /opt/masdeepflow /opt/masdeepflow

# One layer, without what the layers below had to hold on their way.
FROM scratch
COPY --from=runtime / /
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="masdeepflow" \
    org.opencontainers.image.description="Zero-code observability for Linux and Kubernetes" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/masdeepflow/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
WORKDIR /
ENTRYPOINT ["masdeepflow"]
CMD ["run"]
