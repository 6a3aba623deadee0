"""``adjourn demo``: on a stack of its own, whatever the environment says."""

from pathlib import Path

from tests.acceptance.commands import processes_about, run


def test_it_ends_conversations_checks_itself_and_leaves_nothing(tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/in-use",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "BACKGROUND_TASK_IDLE_ENABLED": "false",
        "TMPDIR": str(tmp_path),
    }
    shown = run("adjourn", "demo", "--seconds", "12", directory=tmp_path, variables=variables)

    assert shown.returncode == 0, shown.stdout + shown.stderr
    summary = shown.stdout[shown.stdout.index("Checked in the database") :]
    assert summary.count("✓") == 6
    assert "✗" not in summary
    assert "0 ended, 0 end events" not in summary
    assert list(tmp_path.iterdir()) == []
    assert processes_about(str(tmp_path)) == []
