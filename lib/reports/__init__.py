"""Figures and HTML pages of results, in reading order:

drawing         what all figures share: colors, axes, labels, PNG files
figures         curves, confusion matrix, calibration, average precision, threshold, scores, ROC
class_tables    metrics per class, confusions, the most confident mistakes
thumbnails      images as small data URIs
html            a page from its parts, rendered with the templates beside it
number_results  results of predicted numbers
class_results   a labelled table's results, as figures and tables of a page
run_page        the page of a run, and of a k-fold run
ensemble_page   the page of an ensemble
query_pages     a retrieval's queries with their answers, a hundred on a page
retrieval_page  the page of a retrieval
review_page     the page on which a person decides on pairs
"""
