# syntax=docker/dockerfile:1
# The image of the one binary. Build it with `docker build -t daybook .`.

FROM rust:1.95.0-bookworm AS build
# The compiler of the image, as it is: rust-toolchain.toml asks for the components of a developer
# as well, which rustup would fetch.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
# The caches stay out of the image, so the binary is copied out of the target directory. SQLite
# and librdkafka are compiled from their bundled sources; the image has gcc and make.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package daybook \
    && install -D target/release/daybook /out/daybook

FROM debian:bookworm-slim
# A fixed number, so that volumes keep their owner when the image is built anew.
RUN groupadd --system --gid 10001 daybook \
    && useradd --system --uid 10001 --gid daybook --no-create-home --home-dir /data daybook \
    && install -d -o daybook -g daybook -m 0750 /data
COPY --from=build /out/daybook /usr/local/bin/daybook
USER 10001:10001
# Where SQLite sorts the entries of an index that is made anew: there may be more than memory for them.
ENV SQLITE_TMPDIR=/data
VOLUME /data
EXPOSE 50051 50052 50053 8088
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["daybook", "health", "--url", "http://127.0.0.1:8088/readyz"]
ENTRYPOINT ["daybook"]
CMD ["--help"]
