"""What a person sees of it all from outside while it runs, and asks of it."""
