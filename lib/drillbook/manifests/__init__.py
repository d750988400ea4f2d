"""Pure functions to the objects that a recovery creates, and their removal."""
