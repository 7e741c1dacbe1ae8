"""What a checkpoint stores about the data set that its weights were trained on.

Class numbers mean nothing without the names, nor do weights without the mean and deviation of their
inputs. The digest tells a resumed run whether these are its images.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import DataError
from . import Data, pictures


def about(data: Data) -> dict[str, Any]:
    """Describe the data set in plain values, for a checkpoint and summary.json."""
    found: dict[str, Any] = {
        "name": data.name,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "side": data.side,
        "rule": pictures.RULE,
        "chosen_by": data.chooses,
    }
    if data.listing is not None:
        found["listing"] = data.listing.digest
    return found


def check_same(kept: dict[str, Any], data: Data) -> None:
    """Raise DataError if own images differ from those that `kept`, a value of `about`,
    describes."""
    now = about(data)
    if kept.get("listing") == now.get("listing"):
        return
    differs = [
        f"{name} {kept[name]}, now {now[name]}"
        for name in ("side", "chosen_by")
        if kept.get(name) != now[name]
    ]
    gone = sorted(set(kept.get("classes", [])) - set(data.classes))
    new = sorted(set(data.classes) - set(kept.get("classes", [])))
    differs += [f"classes gone: {', '.join(gone[:5])}"] if gone else []
    differs += [f"new classes: {', '.join(new[:5])}"] if new else []
    raise DataError(
        f"--dataset ({data.name}): not the images that the run was trained on"
        f"{f' ({chr(59).join(differs)})' if differs else ''}: files were added, removed, changed "
        "or moved between classes. Restore them (listing.csv in the run names each with its "
        "digest), or start a new run."
    )


def restored(data: Data, kept: dict[str, Any] | None) -> Data:
    """Return `data` with the class names, mean and deviation that the weights were trained with.

    A run of an older release stored none; its data stay as they are.
    """
    if not kept:
        return data
    if data.listing is not None or "listing" in kept:
        check_same(kept, data)
    names, mean, std = (tuple(kept[name]) for name in ("classes", "mean", "std"))
    return data._replace(classes=names, mean=mean, std=std)


def verification(data: Data) -> Callable[[], None]:
    """Verify in a thread the pixels that were opened unchecked; return a function that waits.

    That function raises DataError if the pixels are damaged.
    """
    if data.verify is None:
        return lambda: None
    pool = ThreadPoolExecutor(1, thread_name_prefix="fasttrain-verify")
    checked = pool.submit(data.verify)
    pool.shutdown(wait=False)
    return checked.result
