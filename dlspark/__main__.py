"""`python -m dlspark` is the command `dlspark`."""

import sys

from dlspark.cli import main

sys.exit(main())
