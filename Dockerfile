# A server on OpenVINO without PyTorch and transformers.
#   docker build -t tailora .
#   docker run -p 8000:8000 -v ./runs:/runs:ro tailora serve --base smollm2-135m --adapter shop=/runs/shop --host 0.0.0.0

FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/tailora \
    && /opt/tailora/bin/pip install --no-cache-dir --no-deps -r requirements-serve.txt \
    && /opt/tailora/bin/pip install --no-cache-dir --no-deps . \
    && /opt/tailora/bin/pip uninstall --yes pip

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 tailora
COPY --from=build /opt/tailora /opt/tailora
USER tailora
WORKDIR /home/tailora
ENV PATH=/opt/tailora/bin:$PATH PYTHONUNBUFFERED=1
# Downloaded models, converted files and the timings of this machine: mount a volume to keep them.
RUN mkdir -p .cache
VOLUME /home/tailora/.cache
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=15s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["tailora"]
CMD ["serve", "--base", "tiny", "--backend", "openvino", "--host", "0.0.0.0"]
