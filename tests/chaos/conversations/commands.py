"""What a person does meanwhile."""

from tests.acceptance.commands import run
from tests.chaos.conversations.stack import Stack


def run_adjourn(stack: Stack, *arguments: str) -> None:
    """Run ``adjourn`` on the stack to its end; note it when that is not as it should be."""
    done = run("adjourn", *arguments, directory=stack.directory, variables=stack.environment())
    if done.returncode != 0 or "Traceback" in done.stderr:
        stack.incidents.append(
            f"adjourn {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        )
