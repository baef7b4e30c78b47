"""`python -m anytoany_lib COMMAND ...`: the same as `anytoany COMMAND ...`."""

import sys

from anytoany_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
