"""A contest's files as tables of images, in reading order:

folders         images in folders: listings, and the paths of the images that a table names
readers         columns of CSV and Parquet files, as strings
target          what is predicted per image: one label, several labels, or an identity
table           one table of images: rows, names, paths, labels, classes, groups
filters         what is left out of a table, and what is refused in it
loading         the training table, the test table, and tables to predict, from the recipe
stratification  stratified choices of the rows to hold out, and of each row's fold
splits          training rows and held-out rows, or k folds
sample          the sample submission as read, and which of its rows belongs to which image
"""
