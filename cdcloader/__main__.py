"""`python -m cdcloader` is the `cdcloader` command."""

from cdcloader.cli import main

if __name__ == "__main__":
    main()
