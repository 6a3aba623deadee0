"""actors → services → models, never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "models": {"actors", "services", "dramatiq", "periodiq", "redis", "pydantic", "structlog", "typer", "rich"},
    "services": {"actors", "dramatiq", "periodiq"},
}


def imported_packages(source: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            packages.add(str(node.module).split(".")[0])
    return packages


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_imports_nothing_from_above(layer: str) -> None:
    sources = list((PROJECT / layer).rglob("*.py"))
    assert sources
    for source in sources:
        assert not imported_packages(source) & FORBIDDEN[layer], source


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status", "--help"], ["pause", "idle"], ["trigger", "expired"], ["dead-letters", "list"]]
)
def test_commands_that_need_no_database_load_nothing_of_one(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from services.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    print(end.code)\n"
        "print(sorted({'sqlalchemy', 'sqlmodel', 'alembic', 'dramatiq'} & set(sys.modules)))"
    )
    variables = {"REDIS_URL": "redis://127.0.0.1:1/0", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=variables,
        cwd=tmp_path,
    )

    *_, end, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert end == "0" if "--help" in arguments else end.startswith("adjourn: cannot use Redis")
