"""``python -m alphaflow``: the command line, also under torchrun."""

from alphaflow.cli.main import main

if __name__ == "__main__":
    main()
