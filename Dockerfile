# loom as an image, for use with the engine of the machine it runs on:
#
#   docker build -t loom .
#   docker run --rm --pid=host --network=host -v /var/run/docker.sock:/var/run/docker.sock -v /tmp:/tmp \
#     -v loom-cache:/var/cache/loom -v "$PWD:$PWD" -w "$PWD" loom run
#
# The jobs' containers are started by that engine beside this one, so what they mount must have the same path in both:
# hence /tmp, where isolated workspaces are made, and "$PWD:$PWD". docs/guides/loom-in-a-container.md explains each part.
FROM debian:trixie-slim AS build
# Certificates that a private network adds (PEM, one or several); empty elsewhere.
ARG EXTRA_CA=""
RUN apt-get -o Acquire::Retries=3 -o APT::Update::Error-Mode=any update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && printf '%s\n' "$EXTRA_CA" >> /etc/ssl/certs/ca-certificates.crt
# Dependencies first: a change of loom itself installs none again.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY pyproject.toml scripts/constraints.txt /tmp/
RUN python3 -m venv --without-pip /opt/loom \
 && python3 -m venv /tmp/pip \
 && python3 -c 'import tomllib; print(*tomllib.load(open("/tmp/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >/tmp/dependencies \
 && /tmp/pip/bin/pip --python /opt/loom/bin/python install --no-cache-dir -c /tmp/constraints.txt -r /tmp/dependencies
COPY . /src
RUN /tmp/pip/bin/pip --python /opt/loom/bin/python install --no-cache-dir --no-deps /src

FROM debian:trixie-slim
RUN apt-get -o Acquire::Retries=3 -o APT::Update::Error-Mode=any update && apt-get install -y --no-install-recommends ca-certificates docker-buildx git python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb \
 # The mounted repository belongs to whoever owns it outside.
 && git config --system --add safe.directory '*' \
 # Caches, in a volume: the image's own file system goes with the container.
 && install -d -m 700 /var/cache/loom
COPY --from=build /opt/loom /opt/loom
# The record's own state beside the workspaces, on the mounted /tmp: it outlives this container.
ENV PATH=/opt/loom/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LOOM_STATE_DIR=/tmp/loom-state \
    LOOM_CACHE_DIR=/var/cache/loom \
    DOCKER_HOST=unix:///var/run/docker.sock \
    LANG=C.UTF-8
ENTRYPOINT ["loom"]
