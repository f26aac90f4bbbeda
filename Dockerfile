# syntax=docker/dockerfile:1

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The locked packages first: this layer lasts until a lock file changes. The environment that is
# shipped has no pip of its own, and nothing in it was compiled here.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/sidecar \
    && pip --python /opt/sidecar/bin/python install \
        --require-hashes --only-binary :all: -r requirements.lock \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /opt/sidecar/bin/python install --no-deps --no-index /wheels/*.whl


FROM python:3.13-slim
RUN groupadd --gid 10001 sidecar \
    && useradd --uid 10001 --gid sidecar --no-log-init \
        --home-dir /var/lib/sidecar --create-home --shell /usr/sbin/nologin sidecar \
    && mkdir /etc/sidecar
COPY --from=build /opt/sidecar /opt/sidecar
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SIDECAR_CONFIG=/etc/sidecar/sidecar.toml

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/sidecar
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# http.client heeds no proxy settings; whatever goes wrong ends in a code other than 0.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 9090, timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["sidecar"]
CMD ["run"]
