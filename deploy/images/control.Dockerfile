# pagoda-router, pagoda-coordinator and the pagoda command. Build from the repository's root:
#   docker build -f deploy/images/control.Dockerfile -t pagoda/control:0.1.0 .
#
# The base is pinned by date and by digest (the index of all platforms). To move it, take another date, look the digest up with
# `docker buildx imagetools inspect debian:bookworm-DATE-slim`, and change it in both files; a test holds them equal.
ARG DEBIAN_IMAGE=debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

FROM ${DEBIAN_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# What it is built from stands in one place, for people and images alike.
COPY scripts/lib/packages.sh /src/scripts/lib/packages.sh
RUN . /src/scripts/lib/packages.sh \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${PAGODA_BUILD_PACKAGES[@]}" \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN cmake -S /src -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DPAGODA_TESTS=OFF \
    && ninja -C /build pagoda pagoda-router pagoda-coordinator \
    && strip /build/bin/*

FROM ${DEBIAN_IMAGE}
LABEL org.opencontainers.image.title="Pagoda control" \
      org.opencontainers.image.description="Router, coordinator and command line of Pagoda"
# Debian packages only, so that a scanner finds every part in dpkg's list. pip is what `pagoda pull pypi://` runs; libucx0 is for `pagoda doctor`.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates python3 python3-pip \
      libabsl20220623 libc-ares2 libfmt9 libgrpc++1.51 libgrpc29 libnuma1 libpcre2-8-0 libprometheus-cpp-core1.0 \
      libprotobuf32 libre2-9 libspdlog1.10 libsqlite3-0 libssl3 libstdc++6 libucx0 libutf8proc2 \
      libyaml-cpp0.7 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 pagoda \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/pagoda --create-home --shell /usr/sbin/nologin pagoda \
    && install -d -o 10001 -g 10001 /var/cache/pagoda
COPY --from=build /build/bin/pagoda /build/bin/pagoda-router /build/bin/pagoda-coordinator /usr/local/bin/
COPY --chmod=0755 deploy/images/pagoda-answers /usr/local/bin/pagoda-answers
# By number, so that Kubernetes can see that it is not root. Nothing is written outside /var/lib/pagoda,
# /var/cache/pagoda (what `pagoda pull` gets; a volume that is made from here belongs to that user) and /tmp.
USER 10001:10001
WORKDIR /var/lib/pagoda
EXPOSE 8000 8001 7070 7071
# For docker and compose (Kubernetes has probes of its own); a coordinator is asked at 7071 instead: compose.yaml does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["pagoda-answers", "8000", "/livez"]
STOPSIGNAL SIGTERM
CMD ["pagoda-router", "--help"]
