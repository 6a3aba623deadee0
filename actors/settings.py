"""The settings of this process. One that makes no sense ends the command with one line."""

from services.errors import SettingsError
from services.settings import load_settings

try:
    settings = load_settings()
except SettingsError as error:
    raise SystemExit(f"adjourn: {error}") from None
