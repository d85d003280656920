# The server as an image. Programs do not run in it: it asks the engine it is given to make cells
# beside it. Whoever reaches that engine's socket is root on the engine's machine, and so is this
# container; "The server as an image" in SECURITY.md says how to narrow that.
#
#   docker build -t codecell-server .
#   docker build -t codecell-server --build-arg BASE=codecell/base:latest .    # without a registry
#   docker run -i --rm -v /var/run/docker.sock:/var/run/docker.sock codecell-server
#
# Plain instructions only: the classic builder of Docker 20.10 builds it too. Where a proxy signs
# the package index anew, put its certificate beside this file as NAME.crt.
ARG BASE=debian:trixie-slim
FROM ${BASE}
# Whose image this is, for the MCP registry (server.json).
LABEL io.modelcontextprotocol.server.name="io.github.codecell/codecell"

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The dependencies alone first: these layers are kept until the lock changes.
COPY requirements.lock *.crt /src/
RUN cat /etc/ssl/certs/ca-certificates.crt $(find /src -name '*.crt') > /tmp/ca.pem \
    && python3 -m venv /opt/codecell \
    && /opt/codecell/bin/python -m pip install --cert /tmp/ca.pem --no-cache-dir -q \
        --disable-pip-version-check --require-hashes -r /src/requirements.lock \
    && rm /tmp/ca.pem

COPY LICENSE README.md pyproject.toml /src/
COPY images /src/images
COPY server /src/server
RUN cd /src && /opt/codecell/bin/python -m hatchling build -t wheel -d /tmp/wheel \
    && /opt/codecell/bin/python -m pip install --no-cache-dir -q --disable-pip-version-check \
        --no-index --no-deps /tmp/wheel/*.whl \
    && rm -rf /src /tmp/wheel

ENV PATH=/opt/codecell/bin:/usr/local/bin:/usr/bin:/bin
# No USER: the usual socket belongs to root, and whoever may use it is root anyway.
WORKDIR /
ENTRYPOINT ["codecell"]
CMD ["serve"]
