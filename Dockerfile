# OncoTwin as a MONAI Application Package, and (--target services) the image of gateway and MONAI Label server. Builds
# without a network from hashed locks and a folder of wheels:
#   make image, make image-services       (see docs/deployment.md)
# BASE: any Debian or Ubuntu with Python 3.11 and libstdc++; `make image-base` makes a small one.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
# Distributions that only others need: cupy and CUDA's Python on a machine without a GPU, what nilearn would need if it
# were imported (its atlas is read as files), a load generator of Triton's client.
# With LOCK=requirements-cuda.lock torch is CUDA's: nothing of CUDA is unused then (make image-gpu).
ARG LOCK=requirements.lock
ARG UNUSED="cupy-cuda13x cuda-python cuda-bindings cuda-core perf-analyzer pandas scikit-learn joblib"
COPY ${LOCK} /tmp/requirements.lock
RUN --mount=type=bind,source=build/wheelhouse,target=/wheels \
    python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --no-index --find-links /wheels --no-cache-dir --no-deps --require-hashes \
      -r /tmp/requirements.lock \
 && /opt/venv/bin/pip check \
 && /opt/venv/bin/pip uninstall --quiet --yes ${UNUSED} \
 && echo /opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib > /etc/ld.so.conf.d/cudart.conf && ldconfig \
 && mkdir -p /var/holoscan/input /var/holoscan/output /var/holoscan/logs && chmod 0777 /var/holoscan/output \
 && echo "holoscan:x:1000:" >> /etc/group \
 && echo "holoscan:x:1000:1000::/var/holoscan:/nonexistent" >> /etc/passwd

FROM scratch AS sources
COPY app app/app
COPY operators app/operators
COPY imaging app/imaging
COPY segmentation app/segmentation
COPY twin app/twin
COPY container app/container
COPY app.yaml LICENSE app/
COPY models models
COPY README.md docs/*.md docs/

FROM packages AS services-installed
COPY requirements-services.lock /tmp/
# One package has a source only, in plain Python.
RUN --mount=type=bind,source=build/wheelhouse,target=/wheels \
    /opt/venv/bin/pip install --quiet --no-index --find-links /wheels --no-cache-dir --no-deps --require-hashes \
      --no-build-isolation -r /tmp/requirements-services.lock
COPY --from=sources / /opt/holoscan/
WORKDIR /opt/holoscan/app
COPY gateway gateway
COPY monailabel_app monailabel_app
RUN mkdir -p /var/oncotwin/gateway /var/oncotwin/label && chown 1000:1000 /var/oncotwin/* \
 && /opt/venv/bin/python -m compileall -q . && /opt/venv/bin/python -m container.slim /

FROM packages AS installed
COPY --from=sources / /opt/holoscan/
WORKDIR /opt/holoscan/app
RUN cp app.yaml /var/holoscan/app.yaml \
 && /opt/venv/bin/python -m container.manifests app.yaml --models /opt/holoscan/models -o /etc \
 && /opt/venv/bin/python -m compileall -q . && /opt/venv/bin/python -m container.slim /

FROM scratch AS services
COPY --from=services-installed / /
ARG VERSION
LABEL org.opencontainers.image.title="OncoTwin gateway and MONAI Label server" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV HOLOSCAN_MODEL_PATH=/opt/holoscan/models \
    PATH=/opt/venv/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/holoscan/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /opt/holoscan/app
USER 1000:1000
ENTRYPOINT ["/opt/venv/bin/python", "-m"]
CMD ["gateway", "--config", "/etc/oncotwin/gateway.yaml"]

# One layer, so that what was taken out is not there underneath.
FROM scratch
COPY --from=installed / /
ARG VERSION
LABEL org.opencontainers.image.title="OncoTwin" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.monai.deploy.app-sdk="4.0.0" \
      org.nvidia.holoscan="4.2.0"
ENV HOLOSCAN_APPLICATION=/opt/holoscan/app \
    HOLOSCAN_INPUT_PATH=/var/holoscan/input \
    HOLOSCAN_OUTPUT_PATH=/var/holoscan/output \
    HOLOSCAN_WORKDIR=/var/holoscan \
    HOLOSCAN_MODEL_PATH=/opt/holoscan/models \
    HOLOSCAN_CONFIG_PATH=/var/holoscan/app.yaml \
    HOLOSCAN_APP_MANIFEST_PATH=/etc/holoscan/app.json \
    HOLOSCAN_PKG_MANIFEST_PATH=/etc/holoscan/pkg.json \
    HOLOSCAN_DOCS_PATH=/opt/holoscan/docs \
    HOLOSCAN_LOGS_PATH=/var/holoscan/logs \
    PATH=/opt/venv/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/holoscan/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /var/holoscan
USER 1000:1000
ENTRYPOINT ["/opt/venv/bin/python", "-m", "container"]
