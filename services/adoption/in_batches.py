"""An UPDATE of many rows, as advice: a thousand at a time, so that nobody waits for long."""


def in_batches(assignment: str, condition: str) -> str:
    """Return the SQL that sets this in all rows that satisfy a condition, which they then do no longer."""
    return (
        "DO $$ BEGIN LOOP\n"  # noqa: S608 - to be read
        f"    UPDATE conversations SET {assignment} WHERE conv_id IN (\n"
        f"        SELECT conv_id FROM conversations WHERE {condition} LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED);\n"
        "    EXIT WHEN NOT FOUND;\n"
        "    COMMIT;\n"
        "END LOOP; END $$;"
    )
