"""`python -m microbudget.cli`."""

import sys

from . import main

sys.exit(main())
