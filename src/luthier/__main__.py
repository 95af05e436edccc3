"""`python -m luthier`."""

import sys

from luthier.cli import main

sys.exit(main())
