"""What the scripts call, in reading order.

runs.py        open a run: choose and lock its folder; start, resume or done
train.py       one run from tables to report
predict.py     any images with trained networks
kfold.py       cross-validation
ensemble.py    combinations of runs
embed.py       embeddings of a table's images, kept in the run's folder
retrieve.py    queries searched in a gallery; changes to a gallery
"""
