"""`python -m anytoany_lib.features`, which launchers of several processes start: the same as `anytoany features`."""

import sys

from anytoany_lib.features.precomputing import main
from anytoany_lib.system import terminal

if __name__ == "__main__":
    sys.exit(terminal.run(main))
