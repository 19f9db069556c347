"""`python -m clinloop` is the command line."""

from clinloop.cli import main

if __name__ == "__main__":
    main()
