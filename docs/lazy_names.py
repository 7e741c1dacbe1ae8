"""Tells mkdocstrings what it cannot read off the source: where public names live, what fields are.

`fasttrain` itself looks its names up when they are used, and a Recipe's fields hold their flags'
ranges and help, which would fill its signature.
"""

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
            for field in pkg[f"{homes['Recipe']}.Recipe"].attributes.values():
                field.value = default(str(field.value))


def default(source: str) -> str:
    """`number(50, 1, 100_000, ...)` and `field(default=50, ...)` -> `50`; a switch is off."""
    call = ast.parse(source, mode="eval").body
    if not isinstance(call, ast.Call):
        return source
    named = [word.value for word in call.keywords if word.arg == "default"]
    if ast.unparse(call.func) == "switch":
        return "False"
    return ast.unparse([*named, *call.args][0])
