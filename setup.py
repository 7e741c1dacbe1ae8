"""Packaging of fasttrain and its kernels; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

LINUX = "platform_system == 'Linux'"
EXPORT = ["onnx>=1.18", "onnxscript>=0.6", "onnxruntime>=1.22"]
DALI = f"nvidia-dali-cuda130>=2.4; {LINUX}"


def description() -> str:
    """The README as a package index shows it: there no link leads to a file, and no picture."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->\n?", "", text)
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)


setup(
    name="fasttrain",
    version="0.1.0",
    description="A high-throughput trainer of small-image classifiers",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The fasttrain developers",
    license="BSD-3-Clause",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    keywords=["image classification", "CIFAR-10", "PyTorch", "training speed"],
    python_requires=">=3.10",
    packages=find_packages(include=["fasttrain", "fasttrain.*", "kernels"]),
    package_data={
        "fasttrain": ["py.typed"],
        "fasttrain.report": ["*.css", "*.js"],
        "fasttrain.serve": ["*.html"],
    },
    install_requires=[
        "torch>=2.11",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "rich>=13",
        "tensorboard>=2.21",
        "filelock>=3.30",
        "platformdirs>=4",
        "pillow>=10",
        "safetensors>=0.4.3",
        "tomli>=2; python_version < '3.11'",  # later ones have it as tomllib
    ],
    extras_require={
        "dali": [DALI],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.7", "mkdocstrings-python>=2.0"],
        "export": [*EXPORT],
        "parquet": ["pyarrow>=15"],
        # It needs the torchvision that belongs to the installed torch.
        "timm": ["timm>=1.0"],
        "profile": [f"torch-tb-profiler==0.4.3; {LINUX}"],
        "test": [
            DALI,
            *EXPORT,
            f"torch-tb-profiler==0.4.3; {LINUX}",
            f"triton>=3.6; {LINUX}",
            "pytest>=8",
            "pytest-benchmark>=5",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "selenium>=4",
            "albumentations==2.0.8",
            "pyyaml>=6",
            "pyarrow>=15",
            "nbclient>=0.10",
            "ipykernel>=6",
        ],
    },
    entry_points={"console_scripts": ["fasttrain=fasttrain.__main__:main"]},
)
