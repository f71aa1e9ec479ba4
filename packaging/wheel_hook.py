"""Hatchling's hook: the compiled modules go into a wheel if they were made from the sources as they are.

Such a wheel is for one Python and platform, and its name says so; without them it is for all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]
    """Named by pyproject.toml; `make wheel` compiles first."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the overlay to a wheel; an editable install finds it where it is."""
        source = Path(self.root) / "src"
        sys.path.insert(0, str(source))
        try:
            from gexec import native
        finally:
            sys.path.remove(str(source))
        if version != "standard" or not native.is_current(str(source / "gexec")):
            return
        build_data["artifacts"].append(f"/src/gexec/{native.FOLDER}/**")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
