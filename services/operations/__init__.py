"""What a person sees of the schedulers from outside, and asks of them while they run."""
