# The image to publish: `docker build -t eider .`. Where no registry can be reached, `scripts/image.sh
# --tree DIRECTORY` lays out a binary that is there already, and
# `docker build --build-arg BUILDER=IMAGE --build-arg BASE=scratch -f Dockerfile DIRECTORY`
# makes the same image of it, with any local IMAGE that has /bin/sh.

ARG BUILDER=rust:1-bookworm
# The C and C++ libraries that the binary and DuckDB need, certificates, and no shell.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS build
WORKDIR /source
COPY . .
# scripts/env.sh fetches the prebuilt DuckDB by curl; without one it is compiled, for half an hour.
RUN set -eu; \
    if test -d image; then cp -a image /image; exit 0; fi; \
    environment="$(scripts/env.sh)"; eval "$environment"; \
    cargo build --locked --release $EIDER_CARGO_FLAGS; \
    install -D "$CARGO_TARGET_DIR/release/eider" /image/usr/local/bin/eider; \
    mkdir -p /image/usr/local/lib; \
    cp "${DUCKDB_LIB_DIR:-/nowhere}"/libduckdb.so /image/usr/local/lib/ 2>/dev/null || true; \
    # It has to start from the new place, with the library beside it and nothing else set.
    rm -f "${DUCKDB_LIB_DIR:-/nowhere}"/libduckdb.so; /image/usr/local/bin/eider --version

FROM ${BASE}
# The binary's rpath leads to ../lib, so no LD_LIBRARY_PATH is needed.
COPY --from=build /image/ /
# `nonroot` of distroless images, by number because `runAsNonRoot` of a pod can judge numbers only. On a
# Docker host Eider needs the engine's socket, which is root's: deploy/docker/compose.yaml says so.
USER 65532:65532
# For `eider daemon`; a cluster has probes of its own and ignores it.
HEALTHCHECK --interval=30s --timeout=15s --start-period=2m --retries=3 CMD ["/usr/local/bin/eider", "health"]
ENTRYPOINT ["/usr/local/bin/eider"]
