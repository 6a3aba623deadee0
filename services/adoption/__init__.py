"""Adoption: a platform's own table ``conversations`` becomes Adjourn's, while its writers go on."""
