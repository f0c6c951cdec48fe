"""From an image file to a batch of tensors. Files in reading order:

arrays        images stored as arrays: .npy and DICOM
opening       open an image file by Pillow: formats, size limit, what its pixels mean as RGB
decoding      decode an image file into a uint8 RGB tensor
checked       which files were found readable before
checking      find unreadable files before training, describe image sizes
duplicates    files with the same bytes
near_duplicates  copies of one photograph: resized, recompressed, mirrored, lightly cropped
augmentation  resize images to the network's size; augment them with the transforms that the recipe names
cache         decode and downscale the images of a table once, into one memory-mapped file
loader        worker processes: how many, what signals do to them, what their failures mean
dataset       dataset of decoded, transformed images and their targets; data loaders for training and evaluation
samplers      order of the training rows, class-balanced sampling, batches shared among processes
"""
