"""What runs pods on this machine: processes, volumes, probes."""
