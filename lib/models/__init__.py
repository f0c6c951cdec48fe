"""The network and its losses. Files in reading order:

backbone          timm's model without its classifier: names, arguments, input size
heads             last layers: logits of classes, numbers, ordered classes
network           backbone, pooling, head and loss as one module; freezing, MixUp and CutMix
foreign_weights   weights files of other programs: read them, find the tensors of a backbone in them
weights           load initial weights, save a network with its description, load it again
origin            where a network's first weights come from, and their licence
losses            losses of classifiers: one label or several labels per image
embedding_losses  losses of embeddings: with weight vectors per class, over pairs of images, and weighted sums of them
"""
