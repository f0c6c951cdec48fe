"""What the scripts call, in reading order.

runs.py               open a run: choose and lock its folder; start, resume or done
run_tables.py         the tables of a run, and their images as datasets
train.py              one run from tables to report
predict.py            any images with trained networks
kfold.py              cross-validation: a run per fold
folds_result.py       the results of all folds together
ensemble.py           combinations of runs
embed.py              embeddings of a table's images, kept in the run's folder
retrieval_session.py  what one call of retrieve.py works with
retrieve.py           queries searched in a gallery
change_gallery.py     rows added to and removed from a gallery
"""
