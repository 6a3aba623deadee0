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


#: The packages of services/, each of which may import those before it, and the modules beside them. All import those.
ORDER = ["scheduling", "cluster", "monitoring", "embedded", "operations", "simulation", "adoption", "demo"]
#: What puts all of it together.
OUTERMOST = {"cli.py", "cycle.py"}


def imported_modules(source: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


@pytest.mark.parametrize("package", ORDER)
def test_a_package_of_services_imports_none_that_is_built_on_it(package: str) -> None:
    later = tuple(f"services.{other}." for other in ORDER[ORDER.index(package) + 1 :])
    sources = list((PROJECT / "services" / package).rglob("*.py"))
    assert sources
    for source in sources:
        assert not [module for module in imported_modules(source) if f"{module}.".startswith(later)], source


def test_the_modules_of_services_import_no_package_of_it() -> None:
    packages = tuple(f"services.{package}." for package in ORDER)
    for source in (PROJECT / "services").glob("*.py"):
        if source.name not in OUTERMOST:
            assert not [module for module in imported_modules(source) if f"{module}.".startswith(packages)], source
    assert {path.name for path in (PROJECT / "services").iterdir() if (path / "__init__.py").exists()} == set(ORDER)


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
