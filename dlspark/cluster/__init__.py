"""Where the work runs: the Spark session, the preflight, the communicators and the launch of the workers."""
