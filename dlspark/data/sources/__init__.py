"""Where images come from: class folders, lists, tables, and the record files of MNIST and CIFAR-10."""
