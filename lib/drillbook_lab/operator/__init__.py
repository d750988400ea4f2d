"""The lab's operator: level-triggered loops that do what CloudNativePG does, in its words."""
