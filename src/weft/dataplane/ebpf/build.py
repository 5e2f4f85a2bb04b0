"""Compiles the eBPF program with clang. Imports nothing from Weft: the package's own build runs it by path.

Python's drop reasons become the C enum here, so there is one list.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "c" / "weft.bpf.c"
OBJECT = HERE / "weft.bpf.o"
DROP_REASONS = HERE.parent.parent / "policy" / "drop.py"


def drop_reasons_header() -> str:
    """The C header with ``enum drop_reason``."""
    spec = importlib.util.spec_from_file_location("weft_drop_reasons", DROP_REASONS)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{DROP_REASONS} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = "\n".join(f"\tDROP_{reason.name} = {reason.value}," for reason in module.DropReason)
    return f"/* Made by build.py from policy/drop.py. */\n#pragma once\nenum drop_reason {{\n{rows}\n}};\n"


def compile_programs(target: Path = OBJECT) -> Path:
    """Write the object file. Raises RuntimeError with clang's words when it cannot be compiled."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{sysconfig.get_platform().split('-')[-1]}-linux-gnu"
    with tempfile.TemporaryDirectory() as generated:
        (Path(generated) / "drop_reasons.h").write_text(drop_reasons_header())
        command = [
            "clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
            "-fno-stack-protector", "-D__TARGET_ARCH_x86",
            f"-I{generated}", f"-I/usr/include/{multiarch}", "-c", str(SOURCE), "-o", str(target),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise RuntimeError("clang is needed to build the eBPF program: apt install clang libbpf-dev") from None
        if done.returncode:
            raise RuntimeError(f"clang could not compile {SOURCE}:\n{done.stderr}")
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{compile_programs()}\n")
