"""The run directory: where each file is, and which files --overwrite may remove.

Only one process may have a run directory open, so that runs cannot mix their files: see lock.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..data import listing_file
from ..data.listing import Listing
from ..errors import CheckpointError, OutputError
from ..storage import atomic
from ..storage.checkpoint import Checkpoints
from ..storage.encode import encode, to_json
from . import checks, lock, new_folders
from .folders import FOLDERS, JSON_FILES, is_trained, own_files, read_recipe

# Files that describe the final or best network: they are out of date once a run is resumed.
OF_THE_END = ["summary.json", "report.html", "misclassified.json", "class_accuracy.json"]
OF_THE_END += ["analysis.npz", "figures/*.png"]


class RunDir(AbstractContextManager["RunDir"]):
    """An open run directory, locked by this process until closed; recipe.json marks it as a run.

    A run that fails before any training leaves the folder as it was.
    """

    def __init__(
        self, path: Path, *, new: bool, overwrite: bool = False, made: Sequence[Path] = ()
    ) -> None:
        """Lock, probe and clear the folder and make its subfolders, for `create` and `resume`."""
        self.path = path
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"
        self.checkpoints = Checkpoints(path / "checkpoints")
        self._new, self._made, self._begun, self.replaces = new, made, False, False
        self._lock = lock.acquire(path)
        try:
            if new:
                checks.check_new(
                    path, overwrite
                )  # again: another run may have come and gone before the lock
                if overwrite or read_recipe(path):
                    _refuse_links(path)
            atomic.check_writable(path)
            for folder in (path, *(path / name for name in FOLDERS)):
                atomic.make_folder(folder)
                atomic.remove_leftovers(folder)
            self.replaces = new and is_trained(path)
            if new and not self.replaces:
                self._clear()
        except BaseException as error:
            self.__exit__(type(error))
            raise

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False, made: Sequence[Path] = ()) -> RunDir:
        """Open a folder for a new run; make it and its parents if missing.

        With `overwrite`, the run in it is replaced when `begin` is called. `made` are the folders
        already made for this run. Raises OutputError, with nothing changed, if the folder is in
        use, holds files that are no run, or holds a run and `overwrite` is false.
        """
        checks.check_free(path, new=True, overwrite=overwrite)
        made = [*made, *new_folders.missing(path)]
        atomic.make_folder(path)
        return cls(path, new=True, overwrite=overwrite, made=made)

    @classmethod
    def resume(cls, path: Path) -> RunDir:
        """Open the folder of an existing run; CheckpointError if it holds none."""
        if not read_recipe(path):
            raise CheckpointError(f"run ({path}): there is none. Name a run directory.")
        return cls(path, new=False)

    def announce(self, recipe: dict[str, Any]) -> None:
        """Write the recipe of a new run, so that it can restart if killed before `begin`."""
        if self._new and not self.replaces:
            self.write_json("recipe.json", recipe)

    def begin(self, recipe: dict[str, Any], environment: dict[str, Any]) -> None:
        """Make the folder this run's: remove the run it replaces or one that never trained."""
        if self.replaces or not is_trained(self.path):
            self._clear()
        self._new, self._begun, self.replaces = True, True, False
        self.write_json("recipe.json", recipe)
        self.write_json("environment.json", environment)

    def write_json(self, name: str, value: Any) -> None:
        """Write one of JSON_FILES."""
        if name not in JSON_FILES:
            raise ValueError(f"{name} is none of the run directory's {JSON_FILES}")
        atomic.write_json(self.path / name, value)

    def write_listing(self, found: Listing) -> None:
        """Write listing.csv and classes.json of own images."""
        listing_file.write(self.path / "listing.csv", found)
        self.write_json("classes.json", list(found.classes))

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        atomic.append_line(self.path / "metrics.jsonl", to_json(row))

    def rewrite_epochs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace metrics.jsonl with `rows`, so that a resumed run matches its checkpoint."""
        text = "".join(to_json(row) + "\n" for row in rows)
        atomic.write_atomically(self.path / "metrics.jsonl", encode(text))

    def reopen(self) -> None:
        """Remove the files that describe the end of a run, because it continues."""
        for file in [file for pattern in OF_THE_END for file in self.path.glob(pattern)]:
            atomic.remove(file)

    def close(self) -> None:
        """Release the lock."""
        lock.release(self._lock)

    def __exit__(self, kind: type[BaseException] | None = None, *rest: Any) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        if failed and self._new and not is_trained(self.path):
            new_folders.withdraw(self.path, self._made)
        # A refused resumption, which never began, leaves the run as it was.
        lock.release(self._lock, rest[0] if failed and self._begun and rest else None)

    def _clear(self) -> None:
        """Remove only the files of the previous run."""
        for file in own_files(self.path):
            atomic.remove(file)


def _refuse_links(path: Path) -> None:
    for folder in (path / name for name in FOLDERS):
        if folder.is_symlink():
            why = f"is a link, and --overwrite removes nothing outside {path}"
            raise OutputError(f"{folder} {why}. Remove it, or choose another --out.")


class NullRunDir(AbstractContextManager["NullRunDir"]):
    """The run directory in processes other than rank 0, which write nothing.

    Its methods are those of RunDir and do nothing, so that callers need not check their rank.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures, self.tensorboard = path / "figures", path / "tensorboard"
        self.checkpoints = NullCheckpoints()
        self.replaces = False

    def announce(self, recipe: dict[str, Any]) -> None:
        """Rank 0 does."""

    def begin(self, recipe: dict[str, Any], environment: dict[str, Any]) -> None:
        """Rank 0 does."""

    def write_json(self, name: str, value: Any) -> None:
        """Rank 0 writes it."""

    def write_listing(self, found: Listing) -> None:
        """Rank 0 writes it."""

    def append_epoch(self, row: dict[str, Any]) -> None:
        """Rank 0 adds it."""

    def rewrite_epochs(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rank 0 rewrites them."""

    def reopen(self) -> None:
        """Rank 0 does."""

    def close(self) -> None:
        """Do nothing: no lock is held."""

    def __exit__(self, *exc: object) -> None:
        self.close()


class NullCheckpoints:
    """The saving methods of Checkpoints, without effect."""

    def save_last(self, state: dict[str, Any]) -> int:
        """Rank 0 saves it; no bytes here."""
        return 0

    def save_numbered(self, epoch: int, state: dict[str, Any], *, keep: int | None = None) -> None:
        """Rank 0 saves it."""

    def save_best(self, state: dict[str, Any]) -> int:
        """Rank 0 saves it; no bytes here."""
        return 0
