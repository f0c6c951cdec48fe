"""Metrics, in reading order:

resampling      arithmetic that metrics share: sums over rows that count several times in a resample
curves          average precision and areas under the ROC curve of one column of scores
classification  metrics of logits and targets
regression      metrics of numbers
retrieval       metrics of ranked identities and gallery images
verification    ROC and equal error rate of pairs
registry        every metric by its name: targets, direction, range, thresholds
clustered       intervals of means whose rows come in clusters, such as the photographs of an individual
intervals       bootstrap intervals of a score, of a gain, of the score on other images
"""
