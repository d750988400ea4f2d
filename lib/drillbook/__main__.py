"""``python -m drillbook`` is ``drillbook``."""

from drillbook.cli.app import main

if __name__ == "__main__":
    main()
