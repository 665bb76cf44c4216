# syntax=docker/dockerfile:1
# The daemon in a minimal image: one binary and the certificate authorities, no shell, no root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Dependencies have a layer of their own, which is rebuilt only when they change.
COPY Cargo.toml Cargo.lock ./
# Cargo needs every file that the manifest names.
COPY benches benches
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --locked --release --bin auditsync \
    && rm -r src
COPY src src
# Cargo compares modification times.
RUN touch src/main.rs src/lib.rs && cargo build --locked --release --bin auditsync \
    && mkdir /state

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="auditsync" \
      org.opencontainers.image.description="Copies audit events from sources to destinations and never loses its place" \
      org.opencontainers.image.source="https://github.com/auditsync/auditsync" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/auditsync /usr/local/bin/auditsync
COPY --from=build --chown=nonroot:nonroot /state /var/lib/auditsync
# A port is reachable from other containers, such as Prometheus (deploy/prometheus), and from outside only where it is published.
# An IPv4 address, because many container networks have no IPv6.
ENV AUDITSYNC_LOCAL_STORAGE_PATH=/var/lib/auditsync \
    AUDITSYNC_HTTP_LISTEN=0.0.0.0:9090
# Whether the daemon is alive. An outage of a source or a destination is no reason to replace the container.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/auditsync", "health"]
VOLUME /var/lib/auditsync
WORKDIR /var/lib/auditsync
USER nonroot
ENTRYPOINT ["/usr/local/bin/auditsync"]
