"""What `make setup` and `make lock` run. Standard library only: it starts before anything is installed."""
