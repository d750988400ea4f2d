"""The Step classes, one module a part of a procedure; what a notebook imports."""
