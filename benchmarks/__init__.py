"""``make bench``: Adjourn beside the bare SQL and beside one row at a time, on real servers, and its targets."""
