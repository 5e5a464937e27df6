# nomoat in a container: docker build -t nomoat . (docs/serving.md has the line that runs it.) Runs as user 10001, to whom a folder mounted as /data must belong.
FROM debian:12 AS build
WORKDIR /src
COPY . .
RUN tools/install-packages build \
    && meson setup /build -Dbuildtype=release -Ddefault_library=static --prefix=/usr \
    && ninja -C /build \
    && DESTDIR=/out meson install -C /build

FROM debian:12-slim
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends libedit2 libjansson4 libmicrohttpd12 libsqlite3-0 libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin nomoat \
    && install -d -o nomoat -g nomoat /data
COPY --from=build /out/usr/bin/nomoat /usr/bin/nomoat
USER nomoat
ENV XDG_DATA_HOME=/data XDG_CACHE_HOME=/data/cache XDG_STATE_HOME=/data/state
VOLUME /data
EXPOSE 11500
ENTRYPOINT ["nomoat"]
CMD ["help", "serve"]
