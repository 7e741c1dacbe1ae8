"""Packaging of fasttrain and its kernels; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import setup

LINUX = "platform_system == 'Linux'"
DALI = f"nvidia-dali-cuda130>=2.4; {LINUX}"

setup(
    name="fasttrain",
    version="0.1.0",
    description="A high-throughput trainer of small-image classifiers",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=["fasttrain", "fasttrain.data", "fasttrain.models", "fasttrain.report", "kernels"],
    package_data={"fasttrain": ["py.typed"], "fasttrain.report": ["*.css", "*.js"]},
    install_requires=[
        "torch>=2.11",
        "numpy>=1.26",
        "matplotlib>=3.8",
        "rich>=13",
        "tensorboard>=2.21",
        "filelock>=3.12",
    ],
    extras_require={
        "dali": [DALI],
        "profile": [f"torch-tb-profiler==0.4.3; {LINUX}"],
        "test": [
            DALI,
            f"torch-tb-profiler==0.4.3; {LINUX}",
            f"triton>=3.6; {LINUX}",
            "pytest>=8",
            "pytest-benchmark>=5",
            "hypothesis>=6",
            "selenium>=4",
            "albumentations==2.0.8",
        ],
    },
    entry_points={"console_scripts": ["fasttrain=fasttrain.__main__:main"]},
)
