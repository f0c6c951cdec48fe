"""Fluke's library: packages in the order in which data flows. A package imports only from those above it.

To follow one image from its row in a CSV to its row in the submission, read: tables/loading.py, tables/table.py,
tables/splits.py, images/dataset.py, images/decoding.py, models/network.py, training/loop.py, training/inference.py,
submission/writing.py; pipelines/train.py calls them in that order.

(base)
    errors.py         FlukeError, the error that users see, and parts of its sentence
    files.py          atomic writes, JSON, paths that stay inside a folder, disk space, folder locks
    process.py        run a script: exit codes, one message for several processes
    run_folder.py     the names of a run's files
config/               the recipe: sections and fields, constraints between fields, the command line
tables/               a contest's files become one table; filters, splits, targets, the sample submission as read
images/               decoding, checking, augmentation, packed cache, dataset, order of the rows
matching/             keypoints of photographs, matches that one homography explains
models/               backbone, pooling, head and loss as one network; weights in and out, also of other programs; losses
metrics/              registry, metrics of logits and of rankings, bootstrap intervals, verification of pairs
scores/               score files and their alignment, decisions (temperature, thresholds, offsets), averages, stacking
retrieval/            gallery with its FAISS index, search, ranking of identities, open set (threshold for new), evaluation
training/             the loop, checkpoints, optimizer, inference, several processes, tasks
submission/           formats of a submission, writing and checking
reports/              figures, pages of a run, of folds, of a retrieval
pipelines/            what a script calls: train, kfold, predict, ensemble, embed, retrieve, discover, compare, prepare, unpack,
                      submit, export, bundle
"""
