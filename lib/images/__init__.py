"""From an image file to a batch of tensors. Files in reading order:

decoding      decode an image file into a uint8 RGB tensor
checking      find unreadable files before training, describe image sizes
augmentation  resize images to the network's size; augment them with the transforms that the recipe names
cache         decode and downscale the images of a table once, into one memory-mapped file
dataset       dataset of decoded, transformed images and their targets; data loaders for training and evaluation
samplers      order of the training rows, class-balanced sampling, batches shared among processes
"""
