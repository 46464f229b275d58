"""``python -m lossjax`` is the command ``lossjax``."""

from lossjax.cli import main

if __name__ == "__main__":
    main()
