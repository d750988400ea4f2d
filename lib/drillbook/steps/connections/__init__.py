"""Steps about connections: their path, their limits, their load."""
