"""A contest's files as tables of images, in reading order:

image_path      paths of images with the way in which they are read
folders         images in folders: listings, and the paths of the images that a table names
json_tables     COCO's and other JSON as rows of text
foreign         files that aren't what their names say
text_lists      lists in text files, without column names
readers         columns of CSV, Parquet and JSON files, and of lists, as strings
target_base     what each kind of prediction says of itself
regression_target  numbers per image
target          what is predicted per image: one label, several labels, or an identity
box             the part of an image that is read
table           one table of images: rows, names, paths, labels, classes, groups
boxes           the boxes of a table's images
filters         what is left out of a table, and what is refused in it
labels          labels from one-hot columns, names and mappings; rows chosen by columns
pixels          pixels in the cells of a table
long_form       rows of an image and a label each, as a row per image
joining         a second table whose columns count as those of the first
rows            the rows of a table, their images and their labels
loading         the training table, the test table, and tables to predict, from the recipe
stratification  stratified choices of the rows to hold out, and of each row's fold
splits          training rows and held-out rows, or k folds
extra           rows for training only
sample          the sample submission as read, and which of its rows belongs to which image
survey          what lies in a contest's folder
guesses         which table trains, and which column holds what
unpacking       records of TFRecord, BSON, and tables with pixels in their cells
"""
