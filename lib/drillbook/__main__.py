"""Where the ``drillbook`` program begins; ``python -m drillbook`` is the same."""

import gc


def main() -> None:
    """The ``drillbook`` program."""
    # What is imported stays: to look for garbage among it takes a quarter of the time to start.
    gc.disable()
    from drillbook.cli.app import main as program

    gc.freeze()
    gc.enable()
    program()


if __name__ == "__main__":
    main()
