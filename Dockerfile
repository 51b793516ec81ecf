# The processor:   docker build -t allograft --build-arg TORCH_INDEX=URL .
#                  URL is PyTorch's index of CPU wheels, named on its installation page; without it the image is larger.
# An NVIDIA GPU:   docker build -t allograft --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 .
# Run a study:     docker run --rm --gpus all -v "$PWD":/work allograft study study.yaml --out runs/first
ARG BASE=python:3.12-slim
FROM ${BASE}
RUN command -v python3 > /dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/allograft
ENV PATH=/opt/allograft/bin:$PATH
ARG TORCH_INDEX=
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch torchvision; fi
COPY src src
RUN pip install --no-cache-dir -c constraints.txt .
RUN useradd --create-home researcher
USER researcher
WORKDIR /work
ENTRYPOINT ["allograft"]
