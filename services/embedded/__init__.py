"""``adjourn run``: everything on one machine, with SQLite and a private Redis unless the settings name others."""
