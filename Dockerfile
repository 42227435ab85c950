# syntax=docker/dockerfile:1

# The image that the builder stage starts from: anything with Rust, a C compiler and /etc/ssl/certs.
ARG BUILDER=docker.io/library/rust:1.95-bookworm
FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# A static program on the gnu target: name lookups go through glibc's own resolver, so the final stage needs no files.
# --target keeps RUSTFLAGS away from build scripts and procedural macros, which can't be static.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --package durward --bin durward --target "$target" \
    && mkdir -p /out/etc/ssl/certs \
    && cp "target/$target/release/durward" /out/durward \
    && cp -L /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM scratch
COPY --from=build /out/ /
# Numeric, so that kubelet can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/durward"]
