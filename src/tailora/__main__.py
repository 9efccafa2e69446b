"""`python -m tailora`, for when the command is not on the path."""

import sys

from tailora.cli import main

sys.exit(main())
