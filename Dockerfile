# One image for `trunkline edge`, `worker` and `up`, and for all commands: docker-compose.yml shows how they go together.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The dependencies have a layer of their own: they change less often than the code.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
 && pip install -r requirements.txt
COPY eventstore eventstore
COPY projections projections
COPY edges edges
COPY workers workers
COPY trunkline trunkline
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/trunkline --create-home trunkline
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TRUNKLINE_HOST=0.0.0.0 \
    TRUNKLINE_PORT=8000 \
    TRUNKLINE_DATA_DIR=/var/lib/trunkline/data
USER trunkline
WORKDIR /var/lib/trunkline
EXPOSE 8000
# Alive, not ready: a Redis that is away must not restart edges, whose streams go on once it is back.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health/live' % os.environ['TRUNKLINE_PORT'], timeout=2)"]
# The command is process 1 itself, so SIGTERM reaches it and drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["trunkline"]
CMD ["up"]
