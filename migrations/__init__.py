"""Alembic's revisions; ``adjourn migrate`` runs them."""
