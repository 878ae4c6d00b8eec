# The image to publish: `docker build -t eider .`. Tests make theirs by scripts/image.sh, which needs
# no registry.

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# scripts/env.sh fetches the prebuilt DuckDB by curl; without one it is compiled, for half an hour.
RUN set -eu; environment="$(scripts/env.sh)"; eval "$environment"; \
    cargo build --locked --release $EIDER_CARGO_FLAGS; \
    install -D "$CARGO_TARGET_DIR/release/eider" /image/bin/eider; \
    mkdir -p /image/lib; \
    cp "${DUCKDB_LIB_DIR:-/nowhere}"/libduckdb.so /image/lib/ 2>/dev/null || true; \
    # It has to start from the new place, with the library beside it and nothing else set.
    rm -f "${DUCKDB_LIB_DIR:-/nowhere}"/libduckdb.so; /image/bin/eider --version

# The C and C++ libraries that the binary and DuckDB need, certificates, and no shell. `nonroot` is user
# 65532, by number below because `runAsNonRoot` of a pod can judge numbers only.
FROM gcr.io/distroless/cc-debian12:nonroot
# The binary's rpath leads to ../lib, so no LD_LIBRARY_PATH is needed.
COPY --from=build /image/ /usr/local/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/eider"]
