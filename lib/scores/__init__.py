"""Scores of models and combinations of models, in reading order:

score_file   scores on disk: an npz without pickles, with row ids, classes and source
run_scores   the score files of a run
alignment    scores of several runs, aligned by row id and class
out_of_fold  the data that combinations are fitted on; cross-fitting
calibration  the temperature of one run, judged by cross-fitting
cut_points   from the expected class to ordered classes
decisions    temperature, offsets per class, thresholds per label
decided      what a submission gives for each row, fitted on other rows
probes       heads on frozen features, cross-validated
shift        whether test images can be told from held-out ones
averaging    averages with given weights
weights      fitted weights
stacking     a classifier on other models' scores
combination  every method by its name, fitted
evaluation   a combination on rows that it was not fitted on
"""
