# syntax=docker/dockerfile:1
# Two images from one source: `api` (no torch: the API, beat, the io and signing worker, `lethe`) and
# `worker` (torch: the gpu worker and the model server).
#
#   docker build --target api -t lethe/api .
#   docker build --target worker -t lethe/worker .                                        CUDA
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OMP_WAIT_POLICY=PASSIVE LETHE_HOME=/var/lib/lethe
RUN useradd --system --uid 10001 --create-home --home-dir /home/lethe lethe \
 && install -d -o lethe -g lethe -m 0700 /var/lib/lethe \
    /var/lib/lethe/store /var/lib/lethe/keys /var/lib/lethe/work /var/lib/lethe/serving
COPY <<'SH' /usr/local/bin/entrypoint
#!/bin/sh
# The database's password is a file; libpq takes it from the environment of this process alone.
set -eu
if [ -n "${LETHE_DATABASE_PASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$LETHE_DATABASE_PASSWORD_FILE")
    export PGPASSWORD
fi
exec "$@"
SH
RUN chmod 0755 /usr/local/bin/entrypoint
WORKDIR /src
COPY pyproject.toml requirements.lock README.md ./
COPY app app
COPY workers workers
COPY migrations migrations

FROM base AS api
RUN pip install --constraint requirements.lock . && rm -rf /src
WORKDIR /var/lib/lethe
USER lethe
VOLUME ["/var/lib/lethe"]
EXPOSE 8000
ENTRYPOINT ["entrypoint"]
CMD ["python", "-m", "uvicorn", "--factory", "app.main:from_environment", "--host", "0.0.0.0", "--port", "8000", "--no-access-log"]

FROM base AS worker
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --constraint requirements.lock --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch==2.13.0 \
 && pip install --constraint requirements.lock '.[workers]' && rm -rf /src
WORKDIR /var/lib/lethe
USER lethe
VOLUME ["/var/lib/lethe"]
EXPOSE 8001
ENTRYPOINT ["entrypoint"]
CMD ["python", "-m", "celery", "-A", "workers.celery_app", "worker", "-Q", "gpu", "--pool=threads", "--concurrency=1", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
