"""Tells mkdocstrings where the public names live: `fasttrain` itself looks them up when used."""

from __future__ import annotations

import ast
from typing import Any

import griffe


class LazyNames(griffe.Extension):
    """Makes an alias of every entry of the table `_HOMES` in fasttrain/__init__.py."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name == "fasttrain":
            homes = ast.literal_eval(str(pkg["_HOMES"].value))
            for name, home in homes.items():
                pkg.set_member(name, griffe.Alias(name, f"fasttrain.{home}.{name}"))
