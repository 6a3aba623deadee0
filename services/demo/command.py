"""The demo with a stack of its own, which is gone afterwards."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from services.database import create_database_engine
from services.demo.show import TIMEOUTS, run_demo
from services.embedded.stack import Stack
from services.logs import configure_logging
from services.settings import Settings, load_settings

#: What the demo runs with. Nothing else of the environment counts: it must never write to a database that is in use.
_VARIABLES = {"BACKGROUND_TASK_INTERVAL": "1", "LOG_FORMAT": "console"}


def run_demo_on_a_stack(*, seconds: int, seed: int) -> bool:
    """Run the demo on a stack that is gone afterwards; return whether all its checks hold."""
    _forget_settings()
    with tempfile.TemporaryDirectory(prefix="adjourn-demo-") as directory:
        settings = load_settings(**_VARIABLES, ADJOURN_DATA_DIR=directory)
        with (Path(directory) / "demo.log").open("w") as output:
            configure_logging(level=settings.log_level, style=settings.log_format, stream=output)
            with Stack(settings, overrides=_VARIABLES, output=output) as stack:
                engine = create_database_engine(settings.database)
                try:
                    return run_demo(
                        engine=engine,
                        timeouts=TIMEOUTS,
                        duration=timedelta(seconds=seconds),
                        seed=seed,
                        console=Console(),
                        stack_alive=stack.failure,
                    )
                finally:
                    engine.dispose()


def _forget_settings() -> None:
    for field in Settings.model_fields.values():
        os.environ.pop(str(field.alias), None)
