"""The Lua scripts, each of which Redis runs as a whole or not at all."""

from importlib.resources import files

from redis import Redis
from redis.commands.core import Script


def load_script(client: Redis, name: str, *, push: Script | None = None) -> Script:
    """Return the script of ``lua/<name>.lua``, ready to be called on ``client``.

    ``push`` is another script, whose text becomes part of this one: it may call it as ``push(KEYS, ARGV)``.
    """
    folder = files(__package__) / "lua"
    parts = [(folder / "common.lua").read_text()]
    if push is not None:
        text = client.get_encoder().decode(push.script, force=True)  # type: ignore[no-untyped-call]
        parts.append(f"local function push(KEYS, ARGV)\n{text}\nend\n")
    parts.append((folder / f"{name}.lua").read_text())
    return client.register_script("\n".join(parts))
