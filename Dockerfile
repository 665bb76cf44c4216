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
# With more arenas, glibc keeps a third more memory for the threads that read files (docs/PERFORMANCE.md).
ENV MALLOC_ARENA_MAX=2
# Other containers, such as Prometheus (deploy/prometheus), can reach the port. From outside it can be reached only if it is published.
# The address is IPv4, because many container networks have no IPv6.
ENV AUDITSYNC_LOCAL_STORAGE_PATH=/var/lib/auditsync \
    AUDITSYNC_HTTP_LISTEN=0.0.0.0:9090
# Whether the daemon is alive. It is alive during an outage of a source or a destination, since a new container would not help.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/auditsync", "health"]
VOLUME /var/lib/auditsync
WORKDIR /var/lib/auditsync
USER nonroot
ENTRYPOINT ["/usr/local/bin/auditsync"]
