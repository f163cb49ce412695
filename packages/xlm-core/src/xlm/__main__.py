"""`python -m xlm` is the command `xlm`."""

import sys

from xlm.cli.main import main

sys.exit(main())
