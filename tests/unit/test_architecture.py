"""actors → services → models, never back."""

import ast
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
