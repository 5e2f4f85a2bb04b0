"""Compiles the eBPF program when the package is built (also for an editable install)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EbpfBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves the config type open
    """Loads the compiler step by path: the package itself is not installed yet."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  # the hook's signature
        path = Path(self.root) / "src/weft/dataplane/ebpf/build.py"
        spec = importlib.util.spec_from_file_location("weft_ebpf_build", path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{path} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.compile_programs()
