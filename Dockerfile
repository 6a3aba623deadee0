# One image for every role; the command chooses: `dramatiq actors`, `periodiq actors`, `adjourn migrate`, `adjourn …`.
# It needs the checkout and a package index, nothing else: docker build --build-arg REVISION="$(git rev-parse HEAD)" .

# The tag moves with its security updates. To build the same image for ever, pin what it is today:
#   docker buildx imagetools inspect docker.io/library/python:3.13-slim-trixie
#   docker build --build-arg BASE=docker.io/library/python:3.13-slim-trixie@sha256:… .
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Without a pip of its own: nothing is installed later.
RUN python -m venv --without-pip /opt/adjourn
WORKDIR /build
# Before the sources, so that a change of them does not install everything again. pip compiles what it installs.
COPY requirements/container.txt requirements/
RUN pip --python /opt/adjourn/bin/python install --require-hashes --only-binary :all: -r requirements/container.txt
COPY . .
# What has built the package goes again; pip check says whether anything that stays had needed it.
RUN pip --python /opt/adjourn/bin/python install --no-deps --no-build-isolation . \
 && pip --python /opt/adjourn/bin/python uninstall --yes editables hatchling pathspec pluggy tomlkit trove-classifiers \
 && pip --python /opt/adjourn/bin/python check

# What the image consists of, told from what is installed: names, versions, licences, who needs whom.
FROM ${BASE} AS sbom
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/audit.txt requirements/
RUN python -m venv /opt/audit \
 && /opt/audit/bin/pip install --require-hashes --only-binary :all: -r requirements/audit.txt
COPY pyproject.toml ./
COPY --from=builder /opt/adjourn /opt/adjourn
RUN /opt/audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
        --output-file sbom.cdx.json /opt/adjourn/bin/python

FROM ${BASE}
# The official image has no bytecode of the standard library, and nothing is written at run time: without this, every
# command, each health check too, would compile what it imports of it.
RUN python -m compileall -q -x '/(ensurepip|idlelib|site-packages|dist-packages|test|tkinter|turtledemo)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
 && groupadd --gid 10001 adjourn \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin adjourn
COPY --from=builder /opt/adjourn /opt/adjourn
COPY --from=sbom /build/sbom.cdx.json /usr/share/doc/adjourn/
# The root file system may be read-only: bytecode is compiled above, and what processes write goes to /tmp (metrics, and
# whatever asks for a temporary file). Lines of the log are seen when they are written, also those before a crash.
ENV PATH=/opt/adjourn/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The loopback of a container is its own: Prometheus and probes come from outside. Who else may come is up to the network.
ENV dramatiq_prom_host=0.0.0.0
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Adjourn" \
      org.opencontainers.image.description="Ends idle and expired conversations on time: once each, with a record of why." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The label must not lie.
RUN test "$(adjourn --version)" = "adjourn ${VERSION}"
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
WORKDIR /srv/adjourn
# /metrics, /healthz and /readyz of a worker and of a scheduler. No HEALTHCHECK here: what to ask depends on the role.
EXPOSE 9191 9192
# The init: as process 1 a command without a handler for SIGTERM would not notice it, and orphans would stay zombies. It
# signals its child only: dramatiq hands SIGTERM on to its processes, and a second one would kill them in mid-batch.
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["adjourn", "--help"]
