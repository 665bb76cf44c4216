# syntax=docker/dockerfile:1
# The daemon in a minimal image: one binary and the certificate authorities, no shell, no root.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Dependencies in a layer of their own: it is built anew only when they change.
COPY Cargo.toml Cargo.lock ./
# Cargo asks for every file that the manifest names.
COPY benches benches
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --locked --release --bin auditsync \
    && rm -r src
COPY src src
# Cargo goes by times of modification.
RUN touch src/main.rs src/lib.rs && cargo build --locked --release --bin auditsync \
    && mkdir /state

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="auditsync" \
      org.opencontainers.image.description="Copies audit events from a source API to a log destination and never loses its place" \
      org.opencontainers.image.source="https://github.com/auditsync/auditsync" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/auditsync /usr/local/bin/auditsync
COPY --from=build --chown=nonroot:nonroot /state /var/lib/auditsync
ENV SECTIGO_AUDIT_LOCAL_STORAGE_PATH=/var/lib/auditsync \
    SECTIGO_AUDIT_HTTP_LISTEN=127.0.0.1:9090
# Whether it moves; an outage of either side is no reason to replace the container.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/auditsync", "health"]
VOLUME /var/lib/auditsync
WORKDIR /var/lib/auditsync
USER nonroot
ENTRYPOINT ["/usr/local/bin/auditsync"]
