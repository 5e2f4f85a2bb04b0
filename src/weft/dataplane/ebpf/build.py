"""Compiles the eBPF program with clang. Imports nothing from Weft: the package's own build runs it by path.

Python's drop reasons, kinds of upcall and states of connections become C enumerations here: there is one list of each.
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
POLICY = HERE.parent.parent / "policy"

#: Header to be made -> the Python module, its enumeration, and the C one's name and prefix.
ENUMERATIONS = {
    "drop_reasons.h": ("drop.py", "DropReason", "drop_reason", "DROP"),
    "upcall_kinds.h": ("upcall.py", "UpcallKind", "upcall_kind", "UPCALL"),
    "connection_states.h": ("connections.py", "State", "connection_state", "STATE"),
    "expected.h": ("connections.py", "Expected", "expected", "EXPECTED"),
}


def enumeration_header(header: str) -> str:
    """The C header with an enumeration that Python has."""
    file, of, name, prefix = ENUMERATIONS[header]
    spec = importlib.util.spec_from_file_location(f"weft_{name}", POLICY / file)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{POLICY / file} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = "\n".join(f"\t{prefix}_{member.name} = {member.value}," for member in getattr(module, of))
    return f"/* Made by build.py from policy/{file}. */\n#pragma once\nenum {name} {{\n{rows}\n}};\n"


def compile_programs(target: Path = OBJECT, source: Path = SOURCE) -> Path:
    """Write the object file. Raises RuntimeError with clang's words when it cannot be compiled."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{sysconfig.get_platform().split('-')[-1]}-linux-gnu"
    with tempfile.TemporaryDirectory() as generated:
        for header in ENUMERATIONS:
            (Path(generated) / header).write_text(enumeration_header(header))
        command = [
            "clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
            "-fno-stack-protector", "-D__TARGET_ARCH_x86",
            f"-I{generated}", f"-I{SOURCE.parent}", f"-I/usr/include/{multiarch}", "-c", str(source), "-o", str(target),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise RuntimeError("clang is needed to build the eBPF program: apt install clang libbpf-dev") from None
        if done.returncode:
            raise RuntimeError(f"clang could not compile {source}:\n{done.stderr}")
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{compile_programs()}\n")
