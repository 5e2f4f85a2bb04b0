"""How the programs that serve say what they do: lines on stderr. Chooses no words."""

from __future__ import annotations

import logging
import os
import sys

import structlog

from weft.kit.errors import Rejected


def configure() -> None:
    """People read lines, machines read JSON: by whether stderr is a terminal. WEFT_LOG: from which level on."""
    level = os.environ.get("WEFT_LOG") or "INFO"
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise Rejected(
            f"{level!r} is no level of logs; {', '.join(sorted(levels, key=levels.__getitem__))} are", "WEFT_LOG"
        )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its warnings are about what strangers send: nobody shall fill our disk with them.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request to etcd
