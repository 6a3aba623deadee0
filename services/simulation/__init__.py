"""``adjourn simulate``: what timeouts would have done to a message history."""
