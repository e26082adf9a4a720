"""``python -m resexp`` is the same program as ``resexp``."""

import sys

from resexp.cli import main

sys.exit(main())
