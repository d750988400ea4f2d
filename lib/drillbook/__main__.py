"""``python -m drillbook`` is ``drillbook``."""

from drillbook.cli import main

if __name__ == "__main__":
    main()
