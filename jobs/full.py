"""Images become a registered model, on the session that spark-submit made.

spark-submit jobs/full.py experiment=digits
"""

import sys

from dlspark.cli import main

if __name__ == "__main__":
    sys.exit(main(["full", *sys.argv[1:]]))
