"""The simulated serving stack: a frontend, workers, and an engine whose every token follows from all before it."""
