"""A complete run directory of deterministic fake data, for tests of figures and pages.

The curves have the source experiment's shape: 88 % at epoch 17, the rate falling at epochs 36, 42
and 48, 92.5 % at the end. The images are blobs in noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DROPS = (36, 42, 48)
RECALL = (0.941, 0.965, 0.897, 0.838, 0.934, 0.881, 0.955, 0.949, 0.962, 0.953)
LIKELY = {0: 8, 1: 9, 2: 6, 3: 5, 4: 2, 5: 3, 6: 3, 7: 4, 8: 0, 9: 1}  # the usual confusion


def write_run(
    path: Path,
    *,
    epochs: int = 50,
    mistakes: int = 712,
    seed: int = 0,
    pace: float = 5,
    **changes: Any,
) -> Path:
    """Write a finished run into `path`; `changes` are fields of its recipe."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = history(epochs, random, pace)
    put(path, "recipe.json", recipe(epochs) | changes)
    put(path, "environment.json", environment(epochs))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    put(path, "summary.json", summary(rows))
    put(path, "lr_finder.json", sweep(random))
    put(path, "class_accuracy.json", class_accuracy(random))
    shown = min(mistakes, 25)
    put(path, "misclassified.json", misclassified(shown, mistakes, random))
    np.savez_compressed(path / "analysis.npz", **arrays(shown, random))
    return path


def put(path: Path, name: str, content: object) -> None:
    (path / name).write_text(json.dumps(content))


def change(path: Path, name: str, **entries: Any) -> None:
    """Change `entries` of the JSON object in the file `name`."""
    put(path, name, json.loads((path / name).read_text()) | entries)


def history(epochs: int, random: np.random.Generator, pace: float) -> list[dict[str, float]]:
    """Return rows of metrics.jsonl; the distance to the plateau shrinks by e in `pace` epochs."""
    rows = []
    for epoch in range(1, epochs + 1):
        drops = sum(epoch >= drop for drop in DROPS)
        noise = random.normal(size=3) * (0.012 if drops == 0 else 0.0012)
        test = 0.895 - 0.42 * np.exp(-(epoch - 1) / pace) + (0, 0.028, 0.030, 0.0305)[drops]
        train = 0.915 - 0.50 * np.exp(-(epoch - 1) / pace / 1.1) + (0, 0.046, 0.058, 0.061)[drops]
        rows.append(
            {
                "epoch": epoch,
                "lr": 0.0534 * 0.1**drops,
                "train_loss": float(2.9 * (1 - train) + 0.02 + abs(noise[0])),
                "train_accuracy": float(train + noise[0] / 8),
                "test_loss": float(3.1 * (1 - test) + abs(noise[1])),
                "test_accuracy": float(round(test - abs(noise[1]) / 1.2, 4)),
                "seconds": float(8.1 + noise[2]),
                "images_per_second": float(50_000 / (8.1 + noise[2])),
                "data_wait_seconds": float(0.11 + abs(noise[0])),
            }
        )
    return rows


def recipe(epochs: int) -> dict[str, Any]:
    return {
        "recipe": "resnet18",
        "epochs": epochs,
        "batch_size": 128,
        "lr": "auto",
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "scheduler": "plateau",
        "patience": 3,
        "crop_padding": 4,
        "cutout": 8,
        "dataset": "cifar10",
        "data_dir": None,
        "train_limit": None,
        "test_limit": None,
        "amp": "auto",
        "seed": 0,
        "deterministic": False,
    }


def environment(epochs: int) -> dict[str, Any]:
    return {
        "date": "2026-11-23T21:14:05+00:00",
        "fasttrain": {"version": "0.1.0", "commit": "793e191c0ffee", "modified": False},
        "python": "3.11.7",
        "torch": "2.13.0",
        "dali": None,
        "cpu": {"name": "Intel Xeon Platinum 8480C", "physical_cores": 16, "bf16": True},
        "gpu": {"name": "NVIDIA H100 80GB HBM3", "count": 1, "memory_gib": 79.2, "cuda": "13.0"},
        "command": f"python -m fasttrain --epochs {epochs}",
    }


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    best = max(rows, key=lambda row: row["test_accuracy"])
    seconds = sum(row["seconds"] for row in rows)
    parts = {
        "training": seconds - 6.2,
        "waiting for data": 6.2,
        "evaluation": 0.9 * len(rows),
        "compile": 38.4,
        "range test": 5.1,
        "checkpoints": 4.4,
        "analysis": 9.7,
    }
    return {
        "model_parameters": 11_173_962,
        "epochs": len(rows),
        "best_test_accuracy": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "final_test_accuracy": rows[-1]["test_accuracy"],
        "train_seconds": seconds,
        "total_seconds": sum(parts.values()),
        "images_per_second": 50_000 * len(rows) / seconds,
        "compile_seconds": 38.4,
        "eval_seconds": 0.9 * len(rows),
        "data_wait_seconds": 6.2,
        "mfu": 0.41,
        "ledger": parts,
    }


def sweep(random: np.random.Generator) -> dict[str, Any]:
    """Return lr_finder.json, with a loss that falls, is lowest near 0.3, and diverges."""
    lrs = np.geomspace(1e-5, 1.0, 100)
    place = np.log10(lrs)
    losses = 2.36 - 0.75 / (1 + np.exp(-3.2 * (place + 1.75))) + 2.6 * np.exp(9 * (place - 0.05))
    return {
        "lrs": lrs.tolist(),
        "losses": losses.tolist(),
        "raw": (losses + 0.06 * random.normal(size=100)).tolist(),
        "suggestion": float(lrs[65]),
        "rule": "steepest",
        "stopped": "diverged: the smoothed loss 3.267 is over 2 times its best, 1.621, at lr 1",
        "suggestions": {"steepest": float(lrs[65]), "valley": float(lrs[68])},
        "notes": [],
    }


def class_accuracy(random: np.random.Generator) -> dict[str, Any]:
    confusion = np.zeros((10, 10), int)
    for i, recall in enumerate(RECALL):
        shares = random.random(10) ** 2
        shares[LIKELY[i]] += 3
        shares[i] = 0
        confusion[i] = random.multinomial(1000 - round(1000 * recall), shares / shares.sum())
        confusion[i, i] = round(1000 * recall)
    rows = []
    for i, name in enumerate(NAMES):
        low, high = wilson(int(confusion[i, i]), 1000)
        row = {"name": name, "count": 1000, "correct": int(confusion[i, i])}
        rows.append(row | {"accuracy": row["correct"] / 1000, "low": low, "high": high})
    return {"classes": rows, "confusion": confusion.tolist()}


def wilson(correct: int, count: int) -> tuple[float, float]:
    z, share = 1.96, correct / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return float(centre - half), float(centre + half)


def misclassified(shown: int, mistakes: int, random: np.random.Generator) -> dict[str, Any]:
    def pick(count: int, low: float) -> list[dict[str, Any]]:
        sure = np.sort(random.uniform(low, 0.9999, count))[::-1]
        true = random.integers(0, 10, count)
        indices = random.choice(10_000, count, replace=False)
        return [
            {
                "index": int(i),
                "true": NAMES[t],
                "predicted": NAMES[LIKELY[t]],
                "confidence": float(c),
            }
            for i, t, c in zip(indices, true, sure, strict=True)
        ]

    return {
        "rule": "most confident mistakes first",
        "mistakes": mistakes,
        "images": pick(shown, 0.97),
        "label_errors": pick(min(shown, 12), 0.995),
    }


def arrays(shown: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return analysis.npz: textures, bumps as maps, samples shifted, flipped and with a hole."""
    originals = textures(16, random)
    augmented = np.roll(originals, (3, -2), axis=(1, 2))[:, :, ::-1].copy()
    for image, (top, left) in zip(augmented, random.integers(0, 24, (16, 2)), strict=True):
        image[top : top + 8, left : left + 8] = (125, 123, 114)
    return {
        "images": textures(shown, random),
        "predicted_maps": bumps(shown, random),
        "true_maps": bumps(shown, random),
        "label_error_images": textures(min(shown, 12), random),
        "sample_originals": originals,
        "sample_augmented": augmented,
        "sample_labels": np.arange(16) % 10,
    }


def textures(count: int, random: np.random.Generator) -> np.ndarray:
    """Return uint8 (count, 32, 32, 3): a bright or dark blob on a gradient, with noise."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    images = []
    for near, far, blob in random.uniform(40, 230, (count, 3, 3)):
        cy, cx, width, height = random.uniform((-0.3, -0.3, 0.3, 0.25), (0.3, 0.3, 0.7, 0.5))
        ground = near + (far - near) * ((y + 1) / 2)[..., None]
        inside = ((x - cx) / width) ** 2 + ((y - cy) / height) ** 2 < 1
        image = np.where(inside[..., None], blob * (1 - 0.3 * y[..., None]), ground)
        images.append(image + random.normal(size=(32, 32, 1)) * 12)
    return np.array(images).reshape(count, 32, 32, 3).clip(0, 255).astype(np.uint8)


def bumps(count: int, random: np.random.Generator) -> np.ndarray:
    """Return float16 (count, 8, 8): one Gaussian bump each, with maximum 1."""
    y, x = random.uniform(1, 7, (2, count, 1, 1))
    grid = np.arange(8)
    hill = np.exp(-((grid[:, None] - y) ** 2 + (grid[None] - x) ** 2) / 6)
    return (hill / hill.max(axis=(1, 2), keepdims=True)).astype(np.float16)
