# OncoTwin as a MONAI Application Package, and (--target services) the image of gateway and MONAI Label server. Builds
# without a network from hashed locks and a folder of wheels:
#   make image, make image-services       (see docs/deployment.md)
# BASE: any Debian or Ubuntu with Python 3.11 and libstdc++; `make image-base` makes a small one.
ARG BASE=python:3.11-slim-bookworm
# Memory that tensors leave is kept for the next ones: to give it back and to ask anew, page by page, costs an answer of
# the network a seventh of its time (docs/segmentation.md). The Makefile and the benchmark read this line.
ARG KEEP_MEMORY=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000:glibc.malloc.top_pad=67108864:glibc.malloc.arena_max=1

FROM ${BASE} AS installed
# With LOCK=requirements-cuda.lock torch is CUDA's, and nothing of CUDA is unused then (make image-gpu).
ARG LOCK=requirements.lock
# What the services need beside the application, for --target services.
ARG SERVICES_LOCK=""
# Distributions that only others need: cupy and CUDA's Python on a machine without a GPU, what nilearn would need if it
# were imported (its atlas is read as files), a load generator of Triton's client.
ARG UNUSED="cupy-cuda13x cuda-python cuda-bindings cuda-core perf-analyzer pandas scikit-learn joblib"
COPY requirements*.lock /tmp/locks/
# One package of the services has a source only, in plain Python.
RUN --mount=type=bind,source=build/wheelhouse,target=/wheels \
    python3 -m venv /opt/venv \
 && install="/opt/venv/bin/pip install --quiet --no-index --find-links /wheels --no-cache-dir --no-deps --require-hashes" \
 && ${install} -r /tmp/locks/${LOCK} \
 && /opt/venv/bin/pip check \
 && if [ -n "${SERVICES_LOCK}" ]; then ${install} --no-build-isolation -r /tmp/locks/${SERVICES_LOCK}; fi \
 && /opt/venv/bin/pip uninstall --quiet --yes ${UNUSED} \
 && rm -r /tmp/locks \
 && echo /opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib > /etc/ld.so.conf.d/cudart.conf && ldconfig
WORKDIR /opt/holoscan/app
COPY app app
COPY operators operators
COPY imaging imaging
COPY segmentation segmentation
COPY twin twin
COPY container container
COPY gateway gateway
COPY monailabel_app monailabel_app
COPY app.yaml LICENSE ./
COPY models ../models
COPY README.md docs/*.md ../docs/
RUN mkdir -p /var/holoscan/input /var/holoscan/output /var/holoscan/logs && chmod 0777 /var/holoscan/output \
 && cp app.yaml /var/holoscan/app.yaml \
 && echo "holoscan:x:1000:" >> /etc/group \
 && echo "holoscan:x:1000:1000::/var/holoscan:/nonexistent" >> /etc/passwd \
 && if [ -n "${SERVICES_LOCK}" ]; then \
      mkdir -p /var/oncotwin/gateway /var/oncotwin/label && chown 1000:1000 /var/oncotwin/*; \
    else \
      rm -r gateway monailabel_app \
      && /opt/venv/bin/python -m container.manifests app.yaml --models /opt/holoscan/models -o /etc; \
    fi \
 && /opt/venv/bin/python -m compileall -q /opt/holoscan/app \
 && /opt/venv/bin/python -m container.slim /

FROM scratch AS services
COPY --from=installed / /
ARG VERSION
LABEL org.opencontainers.image.title="OncoTwin gateway and MONAI Label server" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ARG KEEP_MEMORY
ENV GLIBC_TUNABLES=${KEEP_MEMORY}
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
ARG KEEP_MEMORY
ENV GLIBC_TUNABLES=${KEEP_MEMORY}
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
