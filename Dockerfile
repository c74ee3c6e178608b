# The loader and its pinned dependencies, without a compiler, a shell history or root.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/cdcloader \
    && /opt/cdcloader/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.lock
COPY . ./
RUN /opt/cdcloader/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --home-dir /var/lib/cdcloader --create-home --shell /usr/sbin/nologin cdcloader
COPY --from=build /opt/cdcloader /opt/cdcloader
ENV PATH=/opt/cdcloader/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/cdcloader
EXPOSE 9108
# SIGTERM drains: the batch in hand is finished, then the process exits 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["cdcloader"]
CMD ["run"]
