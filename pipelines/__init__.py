"""One module per stage; each has run(config, spark) -> a typed result. All doors lead here."""
