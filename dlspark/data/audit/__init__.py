"""The audit of a published dataset: twins of images, and those that leak from one split into another."""
