"""`python -m luthier.cli`."""

import sys

from luthier.cli.arguments import main

sys.exit(main())
