# The mission in a container: ResNet18 on CIFAR-10, 50 epochs, from nothing.
#
#   docker build --tag fasttrain .
#   docker run --gpus all --volume "$PWD/runs:/app/runs" --volume fasttrain:/root/.cache/fasttrain fasttrain
#
# Without --gpus it trains on the CPU. Flags go behind: ... fasttrain python -m fasttrain --recipe sprint
FROM python:3.12-slim

# A C++ compiler is what torch.compile and Triton call.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY fasttrain fasttrain
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Runs are written below the current folder: mount /app/runs to keep them.
WORKDIR /app
CMD ["python", "-m", "fasttrain", "--epochs", "50"]
