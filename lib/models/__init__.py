"""The network and its losses. Files in reading order:

network           backbone, pooling, head and loss as one module; freezing, MixUp and CutMix
weights           load initial weights, save a network with its description, load it again
losses            losses of classifiers: one label or several labels per image
embedding_losses  losses of embeddings: with weight vectors per class, over pairs of images, and weighted sums of them
"""
