"""A trained network as an answer: label and probabilities from encoded images, in process or on Spark."""
