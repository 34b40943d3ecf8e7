# pagoda-worker for NVIDIA GPUs (Hopper; CUDA_ARCHITECTURES for others) and CPUs. Build from the repository's root:
#   docker build -f deploy/images/worker-cuda.Dockerfile -t pagoda/worker-cuda:0.1.0 .
# The runtime is linked statically; the driver comes from the host through the container toolkit.
#
# The base is that of control.Dockerfile; see there. The compiler comes from NVIDIA's repository for Debian 12.
ARG DEBIAN_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${DEBIAN_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG CUDA_KEYRING=https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb
ARG CUDA_VERSION=13-0
ARG CUDA_ARCHITECTURES=90a-real
COPY scripts/lib/packages.sh /src/scripts/lib/packages.sh
RUN . /src/scripts/lib/packages.sh \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends curl "${PAGODA_BUILD_PACKAGES[@]}" \
    && curl -fsSL -o /tmp/keyring.deb "${CUDA_KEYRING}" \
    && dpkg -i /tmp/keyring.deb \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      "cuda-nvcc-${CUDA_VERSION}" "cuda-cudart-dev-${CUDA_VERSION}" \
    && rm -rf /var/lib/apt/lists/* /tmp/keyring.deb
COPY . /src
RUN cmake -S /src -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DPAGODA_TESTS=OFF -DPAGODA_CUDA=ON \
      -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES}" \
    && ninja -C /build pagoda-worker \
    && strip /build/bin/*

FROM ${DEBIAN_IMAGE}
LABEL org.opencontainers.image.title="Pagoda worker (CUDA)" \
      org.opencontainers.image.description="Worker of Pagoda: tensors on an NVIDIA GPU, hidden states over UCX"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      libabsl20220623 libc-ares2 libfmt9 libgrpc++1.51 libgrpc29 libnuma1 libprometheus-cpp-core1.0 \
      libprotobuf32 libre2-9 libspdlog1.10 libssl3 libstdc++6 libucx0 libyaml-cpp0.7 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 pagoda \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/pagoda --create-home --shell /usr/sbin/nologin pagoda
COPY --from=build /build/bin/pagoda-worker /usr/local/bin/
COPY --chmod=0755 deploy/images/pagoda-answers /usr/local/bin/pagoda-answers
USER 10001:10001
WORKDIR /var/cache/pagoda
EXPOSE 7072 7073
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["pagoda-answers", "7073", "/livez"]
STOPSIGNAL SIGTERM
CMD ["pagoda-worker", "--help"]
