"""What the README shows works as it is written."""

import re
from pathlib import Path

from tests.acceptance.commands import PROJECT, run

README = (PROJECT / "README.md").read_text()


def test_the_example_of_plugging_it_in_runs(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert run("adjourn", "migrate", directory=tmp_path).returncode == 0

    first = run("python", "-c", example, directory=tmp_path)
    second = run("python", "-c", example, directory=tmp_path)

    assert first.stdout.endswith(" opened\n"), first.stderr
    assert second.stdout == first.stdout.replace(" opened", " resumed")


def test_every_make_target_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets | {"and"}


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_setting_is_documented_and_in_the_example_file() -> None:
    from services.settings import Settings  # noqa: PLC0415 - its fields only

    settings_page = (PROJECT / "docs" / "settings.md").read_text()
    example = (PROJECT / ".env.example").read_text()
    for field in Settings.model_fields.values():
        variable = str(field.alias)
        assert variable in example
        assert variable.replace("EXPIRED_INTERVAL", "IDLE_INTERVAL").replace("EXPIRED_SCHEDULE", "IDLE_SCHEDULE") in (
            settings_page
        )
