"""``adjourn demo``: a minute of made-up customers on a real stack, on the screen, with a summary that is checked."""
