"""What figures were taken on: the machine, the versions, the commit."""

import os
import platform
import shutil
import sqlite3
import subprocess
from importlib.metadata import version
from pathlib import Path

import redis

PROJECT = Path(__file__).resolve().parents[1]
_PACKAGES = ("dramatiq", "periodiq", "psycopg", "redis", "sqlalchemy", "sqlmodel")


def describe_machine() -> dict[str, str]:
    """Return processor, memory, system, and how busy the machine is with other work."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory / 1024**3:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def describe_versions(redis_url: str) -> dict[str, str]:
    """Return the versions of what runs."""
    with redis.Redis.from_url(redis_url) as client:
        server: dict[str, object] = client.info("server")
    return {
        "python": platform.python_version(),
        "redis-server": str(server["redis_version"]),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in _PACKAGES},
    }


def describe_commit() -> str:
    """Return the commit that is checked out, with ``+`` when files differ from it; "unknown" where git cannot tell."""
    git = shutil.which("git")
    if git is None:
        return "unknown"

    def said(*arguments: str) -> str:
        done = subprocess.run([git, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = said("rev-parse", "--short=12", "HEAD")
    return commit + ("+" if said("status", "--porcelain") else "") if commit else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
